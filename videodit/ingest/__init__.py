"""From raw videos to a training set."""
