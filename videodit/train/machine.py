"""What the machine can do, measured in a moment: for choosing the precision and for stating how much of it is used."""

from __future__ import annotations

import time

import torch


def matmul_rate(device: torch.device, dtype: torch.dtype, *, size: int = 1024, seconds: float = 0.2) -> float:
    """Floating-point operations a second of square matmuls of this type: the best of several tries."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end or not best:
        started = time.perf_counter()
        (a @ b)[0, 0].item()  # reading a value waits for a GPU
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def training_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of `precision`: "fp32", "bf16", or "auto", bf16 where its matmuls are at least 1.5 times as fast."""
    if precision == "auto":
        faster = matmul_rate(device, torch.bfloat16) > 1.5 * matmul_rate(device, torch.float32)
        precision = "bf16" if faster else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
