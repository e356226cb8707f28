"""Weights stored in 8 bits beside their scales, as ComfyUI and others write them: which scale is whose, and the values.

X.weight            float8
X.scale_weight      what it is multiplied by: one number, or one a row; X.weight_scale in newer files
X.comfy_quant       JSON in bytes: {"format": "float8_e4m3fn"}
X.scale_input       what inputs are divided by where they are multiplied in 8 bits, which is not done here
scaled_fp8          a mark that the file has such scales
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NotRequired

import torch
from torch import Tensor
from typing_extensions import TypedDict

from videodit.errors import InputError
from videodit.untrusted import parse_json

SCALES = (".scale_weight", ".weight_scale")
INPUTS = (".scale_input", ".input_scale")
FORMAT, MARK = ".comfy_quant", "scaled_fp8"
EIGHT = ("F8_E4M3", "F8_E5M2")
FORMATS = ("float8_e4m3fn", "float8_e5m2")


class Format(TypedDict):
    """What a `comfy_quant` says."""

    format: str
    full_precision_matrix_mult: NotRequired[bool]


def scales_of(dtypes: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Types by names -> the scale of each scaled weight, its format where one is said, and all names beside weights."""
    weights = [name for name, kind in dtypes.items() if name.endswith(".weight") and kind in EIGHT]
    scales, formats, beside = {}, {}, [name for name in dtypes if name.rpartition(".")[2] == MARK]
    for name in weights:
        stem = name.removesuffix(".weight")
        for end in (*SCALES, *INPUTS, FORMAT):
            if (other := stem + end) in dtypes:
                beside.append(other)
                scales |= {name: other} if end in SCALES else {}
                formats |= {name: other} if end == FORMAT else {}
    return scales, formats, beside


def check_format(content: Tensor, where: str) -> None:
    """InputError where a weight's format is another than the two that are read."""
    said = parse_json(content.contiguous().numpy().tobytes(), where, Format)["format"]
    if said not in FORMATS:
        raise InputError(f"{where}: {said}; of 8-bit weights {' and '.join(FORMATS)} are read")


def scaled(weight: Tensor, scale: Tensor, where: str) -> Tensor:
    """The values of a weight, in float32: one scale for all, or one a row."""
    scale = scale.to(torch.float32)
    if scale.numel() != 1:
        if scale.numel() != len(weight) or scale.shape[0] != len(weight):
            raise InputError(
                f"{where} is {tuple(scale.shape)}; expected one number, or one for each of {len(weight)} rows"
            )
        scale = scale.reshape(-1, *[1] * (weight.dim() - 1))
    return weight.to(torch.float32) * scale
