"""Weights that come to the device block by block: memory for one block instead of all, at the price of moving them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

Bring = Callable[[Tensor, torch.device, torch.dtype], Tensor]  # a weight from home -> on the device, in this type
Home = list[dict[str, tuple[Tensor, Callable[[], Tensor]] | None]]  # of a block's modules: weights, and those brought


def stream(
    blocks: Iterable[nn.Module],
    device: torch.device,
    dtype: torch.dtype,
    exact: Sequence[str] = (),
    bring: Mapping[str, Bring] | None = None,
) -> None:
    """Have each block's weights brought to the device, in this type, when it runs, and dropped after it.

    Those whose names end in one of `exact` come in float32. At home they stay as they are: mapped from a file, say, in
    its own type. `bring`: what else than a copy brings some of them, by their names below `blocks`. For inference only.
    """
    ways = bring or {}
    for number, block in enumerate(blocks):
        home: Home = []
        for where, module in block.named_modules():
            home.append(dict.fromkeys(module._parameters))
            for name, weight in module._parameters.items():
                whole = f"{number}.{where}.{name}" if where else f"{number}.{name}"
                kind = torch.float32 if whole.endswith(tuple(exact)) else dtype
                if weight is not None:
                    home[-1][name] = weight, partial(ways.get(whole, _copied), weight, device, kind)
        block.register_forward_pre_hook(lambda block, _, home=home: _fill(block, home, away=True))
        block.register_forward_hook(lambda block, *_, home=home: _fill(block, home, away=False))


def _fill(block: nn.Module, home: Home, *, away: bool) -> None:
    """Give a block's modules their weights: those that are brought, or those from home."""
    for module, parameters in zip(block.modules(), home, strict=True):
        for name, entry in parameters.items():
            if entry is not None:
                weight, brought = entry
                module._parameters[name] = nn.Parameter(brought(), requires_grad=False) if away else weight


def _copied(weight: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return weight.to(device, dtype, non_blocking=True)
