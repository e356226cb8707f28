"""Training times and the shift: pure functions of the randomness they are given. t = 0 is the data, t = 1 the noise."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import TypeVar

import torch
from torch import Tensor

from videodit.errors import InputError

Time = TypeVar("Time", float, Tensor)


def uniform(u: Tensor) -> Tensor:
    """Times spread evenly over (0, 1), fp64, from u uniform in [0, 1]; the ends themselves are kept out."""
    return u.double().clamp(1e-6, 1 - 1e-6)


def logit_normal(normal: Tensor, *, mean: float, std: float) -> Tensor:
    """Times in (0, 1), fp64, whose logit is N(mean, std²), from standard normals (Esser et al. 2024, "SD3", eq. 19).

    mean > 0 leans towards the noise; a small std crowds the middle, where predicting is hardest.
    """
    return torch.sigmoid(mean + std * normal.double())


def shift(t: Time, s: float | Tensor) -> Time:
    """s·t/(1 + (s − 1)·t): t moved towards the noise for s > 1; the ends stay (Esser et al. 2024, eq. 23).

    On the straight line this multiplies noise/data = t/(1 − t) by s, so shifts compose by multiplication.
    """
    return s * t / (1 + (s - 1) * t)


def shift_of(shift: float | Mapping[str, float], count: int) -> float:
    """A shift as a model's settings have it, one number or how it follows the tokens, for a clip of `count` tokens."""
    return shift_for_tokens(count, **shift) if isinstance(shift, Mapping) else float(shift)


def shift_for_tokens(count: int, *, base_tokens: int, base_shift: float) -> float:
    """The shift for a clip of `count` tokens, when `base_shift` suits one of `base_tokens`.

    Neighbouring tokens say the same thing, so n times as many average the noise down by √n, and the noise must be √n
    larger to hide as much (Esser et al. 2024, section 5.3.2).
    """
    if count < 1 or base_tokens < 1 or base_shift <= 0:
        raise InputError(f"shift for {count} tokens from {base_shift} at {base_tokens}: all three must be positive")
    return base_shift * sqrt(count / base_tokens)
