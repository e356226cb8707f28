"""What a run will need, before it runs: memory and time of each stage, from shapes alone."""
