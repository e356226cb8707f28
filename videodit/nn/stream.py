"""Weights that come to the device block by block: memory for one block instead of all, at the price of moving them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

Home = list[dict[str, tuple[Tensor, torch.dtype] | None]]  # of a block's modules: weights, and types to bring them in


def stream(blocks: Iterable[nn.Module], device: torch.device, dtype: torch.dtype, exact: Sequence[str] = ()) -> None:
    """Have each block's weights brought to the device, in this type, when it runs, and dropped after it.

    Those whose names end in one of `exact` come in float32. At home they stay as they are: mapped from a file, say, in
    its own type. For inference only.
    """
    for block in blocks:
        home: Home = [
            {
                name: p if p is None else (p, torch.float32 if f"{where}.{name}".endswith(tuple(exact)) else dtype)
                for name, p in module._parameters.items()
            }
            for where, module in block.named_modules()
        ]
        block.register_forward_pre_hook(lambda block, _, home=home: _fill(block, home, device))
        block.register_forward_hook(lambda block, *_, home=home: _fill(block, home, None))


def _fill(block: nn.Module, home: Home, device: torch.device | None) -> None:
    """Give a block's modules their weights: copies on the device, or with None those from home."""
    for module, parameters in zip(block.modules(), home, strict=True):
        for name, entry in parameters.items():
            if entry is not None:
                module._parameters[name] = entry[0] if device is None else _moved(entry[0], device, entry[1])


def _moved(parameter: Tensor, device: torch.device, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(parameter.to(device, dtype, non_blocking=True), requires_grad=False)
