"""`videodit plan`: what a generation will need, without reading a weight."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from videodit.cli.generate import KEYS
from videodit.cli.memory import dtype_of, job_of, room
from videodit.decode import Way
from videodit.errors import InputError
from videodit.generate import load
from videodit.plan.generation import Setup, base_memory, plan, refusal
from videodit.plan.machine import GIB, Limit, limits, rates, resident

if TYPE_CHECKING:
    from omegaconf import DictConfig

UNITS = {"": GIB, "gib": GIB, "gb": 10**9, "mib": 2**20, "mb": 10**6}


def run(cfg: DictConfig) -> None:
    """Print the plan of one request; exit code 2 if it does not fit."""
    pipe = load(cfg.model, device=cfg.device or None, dtype=dtype_of(cfg.dtype), offload=cfg.offload)
    request = pipe.request(cfg.prompt, **{key: cfg[key] for key in KEYS if key in cfg and cfg[key] not in ("", None)})
    base = base_memory(pipe.parts.device, resident())
    limit = limits(pipe.parts.device)[0]
    limit = Limit("limit=", size_of(cfg.limit) - base) if cfg.limit else limit
    job, setup = job_of(pipe, [request]), Setup(pipe.parts.offload, pipe.parts.dtype, Way(cfg.chunk))
    measured = rates(pipe.parts.device, pipe.parts.dtype)
    planned = plan(pipe.parts, job, setup, room(limit, base), base=base, rates=measured)
    native = pipe.native(request)
    print(f"{cfg.model}: {native}, {request.steps} steps, {setup.offload=!s}, {pipe.parts.dtype}")
    print("\n".join(planned.lines()))
    if not planned.fits:
        raise InputError(refusal(pipe.parts, job, planned, base=base))


def size_of(text: str) -> int:
    """Bytes of a size such as 24GiB."""
    match = re.fullmatch(r"\s*([\d.]+)\s*([A-Za-z]*)\s*", str(text))
    if not match or match[2].lower() not in UNITS:
        raise InputError(f"limit={text}: expected a size such as 24GiB or 800MB")
    return int(float(match[1]) * UNITS[match[2].lower()])

