"""Metrics of quality and the reports that show them."""
