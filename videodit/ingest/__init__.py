"""From raw videos to a training set: cut, measure, select, deduplicate, caption, split, shape, encode, write."""
