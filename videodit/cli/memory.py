"""The check that every generation passes before it loads anything: whether its stages fit into the memory."""

from __future__ import annotations

import re
from typing import Any

import torch

from videodit.decode import Way
from videodit.errors import InputError
from videodit.generate import Pipe
from videodit.plan.generation import Job, Planner, Setup, base_memory
from videodit.plan.machine import GIB, Limit, limits, resident
from videodit.printable import say
from videodit.record import Layout
from videodit.request import Request
from videodit.shapes import LatentShape

UNITS = {"": GIB, "gib": GIB, "gb": 10**9, "mib": 2**20, "mb": 10**6}


def job_of(pipe: Pipe, requests: list[Request], layout: Layout | None = None) -> Job:
    """What requests that are made together, or one among dummies, ask of the networks."""
    pack, steps = layout or pipe.layouts(requests)[0], requests[0].steps
    return Job(
        shapes=tuple(LatentShape(*shape) for shape in pack["shapes"]),
        lengths=(*pack["prompts"], *pack["negatives"]),
        calls=2 * steps - 1 if requests[0].sampler == "heun" else steps,
        guided=any(pack["guided"]),
        cached=requests[0].step_cache > 0,
    )


def setup_of(pipe: Pipe) -> Setup:
    """How the model is open."""
    parts = pipe.parts
    return Setup(parts.offload, parts.dtype, pipe.way, parts.quantize, pipe.passes, parts.vae_dtype)


def passes_of(passes: Any) -> int:
    """InputError for another number than 1 or 2."""
    if passes not in (1, 2) or isinstance(passes, bool):
        raise InputError(f"passes={passes}: it is 1 or 2")
    return passes


def way_of(chunk: Any) -> Way:
    """To decode so many latent frames at a time, or 0: all of them. InputError for anything else."""
    if not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 0:
        raise InputError(f"chunk={chunk}: how many latent frames are decoded at a time, or 0 for all")
    return Way(chunk)


def check_memory(pipe: Pipe, requests: list[Request], how: str, layout: Layout | None = None) -> None:
    """Refuse requests that cannot fit, or with `how` "auto" find a setup that does. Nothing has been loaded yet."""
    if how not in ("check", "auto", "off"):
        raise InputError(f"memory={how}: it is check, auto or off")
    if how == "off":
        return
    check_results(pipe, requests)
    base = base_memory(pipe.parts.device, resident())
    planner = Planner(pipe.parts, room(limits(pipe.parts.device)[0], base), base=base)
    job, setup = job_of(pipe, requests, layout), setup_of(pipe)
    if how == "auto":
        planned = planner.choose(job, setup)
        if planned.setup != setup:
            say(f"memory=auto: {planner.words(job, setup, job, planned.setup)}")
            chosen = planned.setup
            pipe.parts.offload, pipe.way, pipe.passes = chosen.offload, chosen.way, chosen.passes
            pipe.parts.compiled = pipe.parts.compiled and chosen.offload != "block"  # blocks that come and go are not
        return
    planner.check(job, setup)


def check_results(pipe: Pipe, requests: list[Request]) -> None:
    """Refuse videos that, brought to what was asked for, the CPU's memory cannot hold."""
    frames = [12 * one.height * one.width for one in requests]  # bytes of one in float32
    kept = sum(size * one.frames for size, one in zip(frames, requests, strict=True))
    resized = max(size * pipe.native(one).frames for size, one in zip(frames, requests, strict=True))
    limit = limits(torch.device("cpu"))[0]
    if kept + resized > limit.free:
        need = f"{len(requests)} videos of" if len(requests) > 1 else "a video of"
        one = max(requests, key=lambda one: one.frames * one.height * one.width)
        raise InputError(
            f"{need} {one.width}x{one.height}, {one.frames} frames: {(kept + resized) / GIB:.1f} GiB, "
            f"{limit.name} leaves {limit.free / GIB:.1f}; fewer frames or pixels would fit (memory=off tries)"
        )


def room(limit: Limit, base: int) -> Limit:
    """The limit counted from nothing, as stages are, which hold what the process holds already."""
    return Limit(limit.name, limit.free + base)


def size_of(text: str) -> int:
    """Bytes of a size such as 24GiB."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)\s*", str(text))
    if not match or match[2].lower() not in UNITS:
        raise InputError(f"limit={text}: expected a size such as 24GiB or 800MB")
    return int(float(match[1]) * UNITS[match[2].lower()])
