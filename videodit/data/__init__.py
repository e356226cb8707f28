"""Clips: reading and writing video, resizing, the toy world, datasets, packing, the loader."""
