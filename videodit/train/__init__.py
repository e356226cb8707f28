"""The training loop (objects in, nothing configured inside), its steps, optimisers and state."""
