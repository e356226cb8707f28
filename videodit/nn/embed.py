"""Embedding of the flow's time."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoid(t: Tensor, dim: int) -> Tensor:
    """Times (B,) in [0,1] -> (B,dim) float32: cosines, then sines, of 1000*t at geometric frequencies.

    Computed in fp64: neighbouring steps of a long schedule differ by less than bf16 or fp32 angles resolve.
    """
    half = dim // 2
    frequencies = torch.exp(-math.log(10000.0) / half * torch.arange(half, dtype=torch.float64, device=t.device))
    angles = 1000.0 * t.double()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1).float()


class TimeEmbed(nn.Module):
    """Times (B,) in [0,1] -> (B,dim): sinusoid, linear, SiLU, linear (Peebles & Xie 2022, arXiv:2212.09748)."""

    def __init__(self, *, dim: int, frequency_dim: int) -> None:
        super().__init__()
        self.frequency_dim = frequency_dim
        self.linear1 = nn.Linear(frequency_dim, dim)
        self.linear2 = nn.Linear(dim, dim)

    def forward(self, t: Tensor) -> Tensor:
        return self.linear2(F.silu(self.linear1(sinusoid(t, self.frequency_dim).to(self.linear1.weight.dtype))))
