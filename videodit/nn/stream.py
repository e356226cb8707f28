"""Weights that come to the device block by block: memory for one block instead of all, at the price of moving them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def stream(blocks: Iterable[nn.Module], device: torch.device, dtype: torch.dtype) -> None:
    """Have each block's weights brought to the device, in this type, when it runs, and dropped after it.

    At home they stay as they are: mapped from a file, say, in its own type. For inference only.
    """
    for block in blocks:
        home = [dict(module._parameters) for module in block.modules()]
        block.register_forward_pre_hook(lambda block, _, home=home: _fill(block, home, device, dtype))
        block.register_forward_hook(lambda block, *_, home=home: _fill(block, home, None, dtype))


def _fill(block: nn.Module, home: list[dict], device: torch.device | None, dtype: torch.dtype) -> None:
    """Give a block's modules their weights: copies on the device, or with None those from home."""
    for module, parameters in zip(block.modules(), home, strict=True):
        for name, parameter in parameters.items():
            if parameter is not None:
                module._parameters[name] = parameter if device is None else _moved(parameter, device, dtype)


def _moved(parameter: Tensor, device: torch.device, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(parameter.to(device, dtype, non_blocking=True), requires_grad=False)
