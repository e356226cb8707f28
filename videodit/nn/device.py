"""Where networks run, and in which type: the names that keys and Python take, made sure of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch

from videodit.errors import InputError, did_you_mean

DTYPES = MappingProxyType({"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16})


def pick_device(device: Any, local_rank: int = 0) -> torch.device:
    """The device of this name, made sure of; "auto", "" and None are the GPU of this rank if there is one."""
    name = str(device) if isinstance(device, str | torch.device) and device else "auto" if device in ("", None) else ""
    if name in ("auto", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", local_rank % torch.cuda.device_count())
    if name == "auto":
        return torch.device("cpu")
    try:
        return torch.ones(1, device=name).sum().cpu().to(name).device  # of a device without values the sum is none
    except (RuntimeError, AssertionError, NotImplementedError):  # the second from a build without CUDA
        raise InputError(f"device={device}: this machine has no such device; auto takes what there is") from None


def pick_dtype(dtype: Any, key: str = "dtype") -> torch.dtype | None:
    """The type of this name, or the type itself; None for "" and None. `key`: what it was given to."""
    if dtype is None or dtype == "":
        return None
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype if dtype in DTYPES.values() else None
    if found is None:
        raise InputError(f"{key}={dtype}: it is one of {', '.join(DTYPES)}{did_you_mean(str(dtype), DTYPES)}")
    return found


def name_of(dtype: torch.dtype) -> str:
    """What keys and records call a type."""
    return str(dtype).removeprefix("torch.")


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with so many threads of this process while the `with` block lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
