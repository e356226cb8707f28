"""Many processes: the mesh, what of a model lies where, where tokens split and gather, sharded checkpoints."""
