"""torch.compile for the blocks of a transformer: they are alike, so one compilation serves all of them."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterable

import torch
from torch import nn


def lacking_compiler(device: torch.device) -> str:
    """What torch.compile would need on this device and does not find; empty if it can work."""
    if device.type == "cuda" and not importlib.util.find_spec("triton"):
        return "triton"
    return "" if any(map(shutil.which, ("g++", "c++", "clang++"))) else "C++ compiler"


def compile_blocks(blocks: Iterable[nn.Module], *, backend: str = "inductor") -> None:
    """Compile each block in place when it first runs. Sizes that have changed once count as free from then on.

    Attention stays outside: which clips it computes together depends on their lengths, so every pack would have a graph
    of its own.
    """
    # A block's own: training or not, one time for all tokens or several, attention to itself or to text. Past 8, torch
    # would go on without compiling.
    torch._dynamo.config.recompile_limit = 64
    for block in blocks:
        for part in block.modules():
            if hasattr(part, "attend"):
                part.attend = torch.compiler.disable(part.attend)
        block.compile(backend=backend)
