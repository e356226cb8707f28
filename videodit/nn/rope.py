"""Rotary position embedding over (time, row, column): Su et al. 2021 (arXiv:2104.09864), one axis after another.

    L tokens, H heads, K = head dim
"""

from __future__ import annotations

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


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate interleaved pairs of x (L,H,K) by the table (L,1 or H,K/2)."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * table).flatten(-2).to(x.dtype)
