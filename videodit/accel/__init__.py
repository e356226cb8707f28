"""Applied to a built network from outside: compiled blocks, 8-bit weights, blocks brought one by one, a step cache."""
