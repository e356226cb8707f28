"""The toy world: its scenes, grammar and renderer, and the judge that reads clips of it."""
