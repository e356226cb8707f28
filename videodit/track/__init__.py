"""Trackers: where numbers, images and videos of a run go."""
