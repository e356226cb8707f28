"""Weights as 8-bit whole numbers with a scale a row, by torchao: half the memory of bfloat16, for inference."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from videodit.errors import InputError
from videodit.printable import quiet_torchao

SMALLEST = 2**14  # values of a matrix that is worth it


def check_int8() -> None:
    """InputError where torchao is not installed."""
    if importlib.util.find_spec("torchao") is None:
        raise InputError('quantize=int8 needs torchao: pip install "videodit[int8]"')


def suits_int8(name: str, shape: Sequence[int]) -> bool:
    """Whether a tensor of a network's blocks is the matrix of a linear layer, and large enough."""
    return name.endswith(".weight") and len(shape) == 2 and prod(shape) >= SMALLEST


@torch.no_grad()
def to_int8(weight: Tensor) -> Tensor:
    """A linear layer's matrix (out,in) as torchao's tensor, whose products come out in the matrix's own type."""
    quiet_torchao()
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    quantize_(layer, Int8WeightOnlyConfig())
    return layer.weight
