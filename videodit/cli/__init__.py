"""The commands. The only home of hydra, with videodit.config."""
