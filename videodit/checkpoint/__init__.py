"""Weights on disk: safetensors and JSON, and the tables that map a family's names to ours."""
