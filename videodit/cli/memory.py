"""The check that every generation passes before it loads anything: whether its stages fit into the memory."""

from __future__ import annotations

import torch

from videodit.decode import Way
from videodit.errors import InputError
from videodit.generate import Pipe, Request
from videodit.plan.generation import Job, Planner, Setup, base_memory
from videodit.plan.machine import Limit, limits, resident
from videodit.printable import say

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def dtype_of(name: str) -> torch.dtype | None:
    """The type of that name; None for an empty one."""
    if name and name not in DTYPES:
        raise InputError(f"dtype={name}: it is one of {', '.join(DTYPES)}")
    return DTYPES[name] if name else None


def job_of(pipe: Pipe, requests: list[Request]) -> Job:
    """What requests that are made together ask of the networks."""
    stride = pipe.parts.sizes("vae").stride
    prompts = [one.prompt for one in requests] + [one.negative for one in requests]
    steps = requests[0].steps
    return Job(
        shapes=tuple(pipe.native(one).latent(stride) for one in requests),
        lengths=pipe.parts.tokenizer(prompts)[1],
        calls=2 * steps - 1 if requests[0].sampler == "heun" else steps,
        guided=any(one.guidance != 1 for one in requests),
        cached=requests[0].step_cache > 0,
    )


def setup_of(pipe: Pipe) -> Setup:
    """How the model is open."""
    return Setup(pipe.parts.offload, pipe.parts.dtype, pipe.way, pipe.parts.quantize, pipe.passes)


def passes_of(passes: int) -> int:
    """InputError for another number than 1 or 2."""
    if passes not in (1, 2):
        raise InputError(f"passes={passes}: it is 1 or 2")
    return passes


def way_of(chunk: int) -> Way:
    """To decode so many latent frames at a time, or 0: all of them. InputError for anything else."""
    if not isinstance(chunk, int) or chunk < 0:
        raise InputError(f"chunk={chunk}: how many latent frames are decoded at a time, or 0 for all")
    return Way(chunk)


def check_memory(pipe: Pipe, requests: list[Request], how: str) -> None:
    """Refuse requests that cannot fit, or with `how` "auto" find a setup that does. Nothing has been loaded yet."""
    if how not in ("check", "auto", "off"):
        raise InputError(f"memory={how}: it is check, auto or off")
    if how == "off":
        return
    base = base_memory(pipe.parts.device, resident())
    planner = Planner(pipe.parts, room(limits(pipe.parts.device)[0], base), base=base)
    job, setup = job_of(pipe, requests), setup_of(pipe)
    if how == "auto":
        planned = planner.choose(job, setup)
        if planned.setup != setup:
            say(f"memory=auto: {planner.words(job, setup, job, planned.setup)}")
            chosen = planned.setup
            pipe.parts.offload, pipe.way, pipe.passes = chosen.offload, chosen.way, chosen.passes
            pipe.parts.compiled = pipe.parts.compiled and chosen.offload != "block"  # blocks that come and go are not
        return
    planned = planner.plan(job, setup)
    if not planned.fits:
        raise InputError(f"{planner.refusal(job, planned)} (memory=auto chooses; memory=off tries)")


def room(limit: Limit, base: int) -> Limit:
    """The limit counted from nothing, as stages are, which hold what the process holds already."""
    return Limit(limit.name, limit.free + base)
