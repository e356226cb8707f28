"""What the machine can do, measured in a moment: for choosing the precision and for stating how much of it is used."""

from __future__ import annotations

import ctypes
import resource
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

import torch

from videodit.errors import InputError

PRECISIONS = MappingProxyType({"fp32": torch.float32, "bf16": torch.bfloat16})


class Compute(NamedTuple):
    """The type in which a run multiplies, and the flops a second of which this machine is capable; 0: unknown."""

    precision: torch.dtype
    matmul_rate: float = 0.0


@cache
def matmul_rate(device: torch.device, dtype: torch.dtype, *, seconds: float = 0.2) -> float:
    """Floating-point operations a second of square matmuls of this type: the best of several tries."""
    size = 8192 if device.type == "cuda" else 1024  # milliseconds, beside which a launch and the wait are nothing
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    (a @ b)[0, 0].item()  # libraries start with their first product
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end or not best:
        started = time.perf_counter()
        (a @ b)[0, 0].item()  # reading a value waits for a GPU
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def pick_precision(precision: str, device: torch.device) -> str:
    """A name in PRECISIONS. "auto" is bf16 where its matmuls are at least 1.5 times as fast, else fp32."""
    if precision == "auto":
        faster = matmul_rate(device, torch.bfloat16) > 1.5 * matmul_rate(device, torch.float32)
        return "bf16" if faster else "fp32"
    if precision not in PRECISIONS:
        raise InputError(f"precision={precision}: it is auto, {' or '.join(PRECISIONS)}")
    return precision


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager:
    """Within it matmuls are in this precision."""
    return nullcontext() if precision == torch.float32 else torch.autocast(device.type, precision)


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, until `release`; whether it does: only with glibc.

    Otherwise large blocks go back to the system, which clears them page by page when the next step asks for them:
    without that a step on a CPU was 1.04 to 1.17 times as fast (docs/training.md).
    """
    most_mapped, trim_threshold = -4, -1  # malloc.h: M_MMAP_MAX, M_TRIM_THRESHOLD
    mallopt = _glibc("mallopt")
    return bool(mallopt(most_mapped, 0) and mallopt(trim_threshold, -1))  # none, and no size at which to hand back


def release(device: torch.device) -> None:
    """Hand back the freed memory that is kept for the next step, for something else that needs other sizes."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        _glibc("malloc_trim")(0)


def _glibc(name: str) -> Callable[..., int]:
    """A function of the C library; one that does nothing and says 0 where it has none of that name."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return getattr(library, name, lambda *arguments: 0)


def peak_memory(device: torch.device) -> int:
    """Bytes that this process has needed at most so far: of the GPU's memory, or of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
