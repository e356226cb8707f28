"""One module a family of public weights: what its files call our weights, and what its configs say in our words."""
