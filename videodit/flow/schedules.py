"""Schedules: the times at which a sampler stops on its way from noise (1) to data (0)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from videodit.errors import InputError
from videodit.flow.times import shift as shifted

END = 0.001  # where diffusers' flow schedules stop before 0: a step of its 1000


def linear(steps: int, shift: float, *, end: float = END) -> Tensor:
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


def scheduled(steps: int, shift: float, *, spacing: str = "unipc", final: float | Literal["last"] = 0.0) -> Tensor:
    """(steps + 1,) fp64 times as diffusers' scheduler of that sampler spaces them for flows.

    "unipc": `linear`. "dpmpp": from 0.999 evenly towards 0. "euler": from 1 evenly to 0.001, which is shifted once
    more, as the ends were. `final`: the last time; "last": the one before it once more.

    Raises:
        InputError: as `linear`, or a last time that is no less than the one before it.
    """
    t = linear(steps, shift)
    if spacing == "dpmpp":
        even = torch.arange(steps + 1, dtype=torch.float64) * ((END - 1) / steps) + 1
        t = shifted(1 - even, shift).flip(0)
    elif spacing == "euler":
        end = shifted(END, shift)
        even = torch.arange(steps, dtype=torch.float64) * ((end - 1) / max(1, steps - 1)) + 1
        t = torch.cat([shifted(even, shift), even.new_zeros(1)])
    t[-1] = t[-2] if final == "last" else final
    if t[-1] > t[-2]:
        raise InputError(f"steps={steps}: the last but one of their times is {t[-2]:g}, and the model's last {final:g}")
    return t
