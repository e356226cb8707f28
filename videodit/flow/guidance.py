"""Guidance wraps the velocity function; the network and the samplers know nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from videodit.errors import InputError
from videodit.flow.path import Velocity

Paired = Callable[[list[Tensor], Tensor], tuple[list[Tensor], list[Tensor]]]
Scale = float | Callable[[Tensor], Tensor]


def classifier_free(conditional: Velocity, paired: Paired, scale: Scale) -> Velocity:
    """unconditional + scale·(conditional − unconditional) (Ho & Salimans 2022).

    conditional: the network under the prompts. paired: (conditional, unconditional) from one pack of both halves.
    scale: a number, or a function of t (B,) giving one per clip (B,), such as the interval of Kynkäänniemi et al. 2024.

    Where every clip's scale is 1 only `conditional` runs. The formula is linear, so it suits predictions of the noise
    or the clean clip as well: guide first, then `path.rectified`.
    """

    def velocity(x: list[Tensor], t: Tensor) -> list[Tensor]:
        scales = scale(t).tolist() if callable(scale) else [scale] * len(x)
        if all(s == 1 for s in scales):
            return conditional(x, t)
        halves = zip(*paired(x, t), scales, strict=True)
        return [c if s == 1 else u + s * (c - u) for c, u, s in halves]

    return velocity


def by_time(experts: Sequence[Velocity], boundary: float) -> Velocity:
    """The first expert at times from the boundary up, the second below it.

    Raises InputError where clips of one pack would need different ones.
    """
    high, low = experts

    def velocity(x: list[Tensor], t: Tensor) -> list[Tensor]:
        early = t >= boundary
        if early.any() and not early.all():
            raise InputError("clips made together need the same expert at every step: make them one by one")
        return (high if early.all() else low)(x, t)

    return velocity
