"""Rotary position embedding over (time, row, column): Su et al. 2021 (arXiv:2104.09864), one axis after another.

L tokens, H heads, K = head dim
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

THETA = 10000.0


def axial_rope(positions: Tensor, head_dim: int) -> Tensor:
    """Positions (L,3) -> the table of rotations (L,1,K/2), complex64.

    Rows and columns get 2*(K//6) values each, time the rest; every axis has its own exponents. Computed in fp64.
    """
    space = 2 * (head_dim // 6)
    angles = []
    for axis, dim in enumerate((head_dim - 2 * space, space, space)):
        exponents = torch.arange(0, dim, 2, dtype=torch.float64, device=positions.device) / dim
        angles.append(positions[:, axis, None].double() * THETA**-exponents)
    angle = torch.cat(angles, dim=1)
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)[:, None]


def fractional_rope(positions: Tensor, fractions: Sequence[Sequence[float]], dim: int, head_dim: int) -> Tensor:
    """Positions (L,3), for each axis (a step's length, the full extent) -> the table of rotations (L,H,K/2), complex64.

    One set of frequencies, from pi/2 to THETA*pi/2, runs over the whole width `dim` and is then cut into heads; the
    axes take turns (arXiv:2501.00103). In float32 on purpose: the fastest angles are known to no more than 1e-3, and
    the networks were trained with the rounded ones.
    """
    exponents = torch.linspace(0.0, 1.0, dim // 6, dtype=torch.float32, device=positions.device)
    frequencies = THETA**exponents * math.pi / 2.0
    step, extent = torch.tensor(fractions, dtype=torch.float32, device=positions.device).T
    place = positions.float() * step / extent
    angle = (frequencies * (place[..., None] * 2 - 1)).transpose(1, 2).flatten(1)  # (L, dim/6 frequencies x 3 axes)
    still = angle.new_zeros(len(angle), dim // 2 - angle.shape[1])
    angle = torch.cat([still, angle], dim=1).unflatten(1, (-1, head_dim // 2))
    return torch.polar(torch.ones_like(angle), angle)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate interleaved pairs of x (L,H,K) by the table (L,1 or H,K/2)."""
    if torch.compiler.is_compiling():  # compilers fuse real numbers only
        (a, b), (cos, sin) = (v.unbind(-1) for v in (x.float().unflatten(-1, (-1, 2)), torch.view_as_real(table)))
        return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2).to(x.dtype)
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * table).flatten(-2).to(x.dtype)
