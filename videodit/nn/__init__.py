"""Layers: attention and its kernels, rotary positions, embeddings, causal convolution."""
