"""Whether requests fit into the memory, and how: asked before anything is loaded or denoised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from videodit.errors import InputError
from videodit.generate.layout import Layout, layouts, lengths_of
from videodit.generate.model import Model
from videodit.generate.pipe import Pipe
from videodit.generate.request import Request
from videodit.plan.generation import Job, Planner, Setup, base_memory
from videodit.plan.machine import GIB, limits, resident, room
from videodit.printable import note
from videodit.shapes import LatentShape

CHOICES = ("check", "auto", "off")


def admit(pipe: Pipe, requests: Sequence[Request], memory: str = "check", layout: Layout | None = None) -> Pipe:
    """The pipe that makes requests as one pack: this one, or with `memory` "auto" one that is opened and decodes so
    that they fit. InputError, which says what would fit, where they cannot; "off" does not ask.
    """
    told, setup = plan(pipe, requests, memory, layout)
    if told:
        note(__name__, f"memory=auto: {told}")
    return opened_as(pipe, setup)


def plan(
    pipe: Pipe, requests: Sequence[Request], memory: str = "check", layout: Layout | None = None
) -> tuple[str, Setup]:
    """How `admit` would have the model opened, and what of that is another than now, in words."""
    if memory not in CHOICES:
        raise InputError(f"memory={memory}: it is check, auto or off")
    setup = setup_of(pipe)
    if memory == "off":
        return "", setup
    check_results(pipe, requests)
    base = base_memory(pipe.parts.device, resident())
    planner = Planner(pipe.parts, room(limits(pipe.parts.device)[0], base), base=base)
    job = job_of(pipe, requests, layout)
    if memory == "auto":
        chosen = planner.choose(job, setup).setup
        return planner.words(job, setup, job, chosen), chosen
    planner.check(job, setup)
    return "", setup


def opened_as(pipe: Pipe, setup: Setup) -> Pipe:
    """The same model with networks that are opened, and run, as a plan has it."""
    options = replace(pipe.options, passes=setup.passes, decoding=setup.way)
    if setup.offload == pipe.parts.offload:
        return replace(pipe, options=options)
    compiled = pipe.parts.compiled and setup.offload != "block"  # blocks that come and go are not
    return replace(pipe, parts=pipe.parts.opened_as(offload=setup.offload, compiled=compiled), options=options)


def job_of(model: Model, requests: Sequence[Request], layout: Layout | None = None) -> Job:
    """What requests that are made together, or one among dummies, ask of the networks."""
    pack, steps = layout or layouts(model, requests)[0], requests[0].steps
    return Job(
        shapes=tuple(LatentShape(*shape) for shape in pack["shapes"]),
        prompts=lengths_of(pack, "prompts", model.parts.text_encoders),
        negatives=lengths_of(pack, "negatives", model.parts.text_encoders),
        calls=2 * steps - 1 if requests[0].sampler == "heun" else steps,
        guided=any(pack["guided"]),
        cached=requests[0].step_cache > 0,
    )


def setup_of(model: Model) -> Setup:
    """How the model is open, and run."""
    parts, options = model.parts, model.options
    return Setup(parts.offload, parts.dtype, options.decoding, parts.quantize, options.passes, parts.vae_dtype)


def check_results(model: Model, requests: Sequence[Request]) -> None:
    """Refuse videos that, brought to what was asked for, the CPU's memory cannot hold."""
    frames = [12 * one.height * one.width for one in requests]  # bytes of one in float32
    kept = sum(size * one.frames for size, one in zip(frames, requests, strict=True))
    resized = max(size * model.native(one).frames for size, one in zip(frames, requests, strict=True))
    limit = limits(torch.device("cpu"))[0]
    if kept + resized > limit.free:
        need = f"{len(requests)} videos of" if len(requests) > 1 else "a video of"
        one = max(requests, key=lambda one: one.frames * one.height * one.width)
        raise InputError(
            f"{need} {one.width}x{one.height}, {one.frames} frames: {(kept + resized) / GIB:.1f} GiB, "
            f"{limit.name} leaves {limit.free / GIB:.1f}; fewer frames or pixels would fit (memory=off tries)"
        )
