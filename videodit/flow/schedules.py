"""Schedules: the times at which a sampler stops on its way from noise (1) to data (0)."""

from __future__ import annotations

import torch
from torch import Tensor

from videodit.errors import InputError
from videodit.flow.times import shift as shifted


def linear(steps: int, shift: float, *, end: float = 0.001) -> Tensor:
    """(steps + 1,) fp64 times from 1 down to 0: evenly spaced towards `end`, shifted, and the last one then 0.

    The default end is where diffusers' flow schedulers stop, and the order of operations is theirs too: their multistep
    samplers round 1000·t down, so one wrong bit in t is another video. `end=0` is evenly spaced all the way.

    Raises:
        InputError: fewer than 1 step, or a shift that is not positive.
    """
    if steps < 1:
        raise InputError(f"steps={steps}: at least 1 step is needed")
    if not shift > 0:
        raise InputError(f"shift={shift}: must be positive; 1 leaves the times as they are")
    t = torch.arange(steps + 1, dtype=torch.float64) * ((end - 1) / steps) + 1
    t = shifted(t, shift)
    t[0], t[-1] = 1, 0  # the shift may leave 1 by a rounding error
    return t
