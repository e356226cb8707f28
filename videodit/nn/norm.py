"""Norms that take and give the type of x whatever autocast says.

Within, torch's kernels compute in float32 anyway. CUDA's autocast would have them take and give float32 too (CPU's
would not): values twice as large, kept for the backward pass, and queries and keys of another type than the values.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm(nn.LayerNorm):
    """nn.LayerNorm. (...,N) -> the same."""

    def forward(self, x: Tensor) -> Tensor:
        with _no_autocast(x):
            return F.layer_norm(x, self.normalized_shape, _like(self.weight, x), _like(self.bias, x), self.eps)


class RMSNorm(nn.RMSNorm):
    """nn.RMSNorm. (...,N) -> the same."""

    def forward(self, x: Tensor) -> Tensor:
        with _no_autocast(x):
            return F.rms_norm(x, self.normalized_shape, _like(self.weight, x), self.eps)


def _no_autocast(x: Tensor) -> AbstractContextManager:
    kind = x.device.type
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)  # the meta device has none
    return torch.autocast(kind, enabled=False) if on else nullcontext()


def _like(weight: Tensor | None, x: Tensor) -> Tensor | None:
    """The kernels want one type."""
    return None if weight is None else weight.to(x.dtype)
