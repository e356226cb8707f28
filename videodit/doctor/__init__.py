"""Is this training worth starting? Short checks of data, model and machine, each with what it measured."""
