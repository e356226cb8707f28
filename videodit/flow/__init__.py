"""The mathematics of generation, as functions of tensors: path, times, schedules, samplers, guidance."""
