"""Networks on a single device, each file readable from top to bottom."""
