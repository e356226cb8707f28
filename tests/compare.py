"""What "equal" means (rule 13), and random networks in which nothing is zero or one by initialisation."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from videodit.models.interfaces import Denoiser
from videodit.models.pack import Context, Pack, Ragged, Times

Module = TypeVar("Module", bound=nn.Module)


def distance(a: Tensor, b: Tensor) -> float:
    """max|a - b| / max(1, max|b|)."""
    assert a.shape == b.shape
    return ((a - b).abs().max() / b.abs().max().clamp_min(1)).item()


def assert_equal(a: Tensor, b: Tensor, *, tolerance: float = 1e-5) -> None:
    """Rule 13. In fp64 give 1e-9, unless the network pins a part to fp32."""
    assert distance(a, b) <= tolerance, f"they differ by {distance(a, b):.1e}"


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers that depend on shape and seed alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def shaken(module: Module, *, std: float = 0.2, seed: int = 0) -> Module:
    """The module, every parameter moved by normal noise, ready to be compared."""
    random = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter += std * torch.randn(parameter.shape, generator=random).to(parameter)
    return module.eval()


def denoised(
    network: Denoiser, pack: Pack, t: Tensor, text: Ragged, *, kernel: str = "auto", keep: bool = False, **how: Any
) -> Tensor:
    """One pass: velocity tokens at times t of each clip (B,) or of each token (L,). keep: twice, from what was kept."""
    network.kernel = kernel
    times = Times.per_clip(t) if len(t) == len(pack.lengths) else Times.per_token(t, pack.lengths)
    session = network.prepare(Context({"text": text}), pack, times=times.values if keep else None, keep=keep, **how)
    if keep:
        network(pack, times, session)
    return network(pack, times, session)
