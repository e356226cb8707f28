"""`videodit plan`: what a generation will need, without reading a weight."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from videodit.alive import doing
from videodit.checkpoint.find import sketch_pipeline
from videodit.checkpoint.resolve import family_of
from videodit.cli.generate import given
from videodit.cli.settings import Plan
from videodit.decode import Way
from videodit.errors import InputError
from videodit.generate.admission import job_of, setup_of
from videodit.generate.pipe import Pipe, load
from videodit.generate.request import Request
from videodit.models.interfaces import VAE
from videodit.nn.device import pick_device, pick_dtype
from videodit.plan.generation import Planner, base_memory
from videodit.plan.machine import GIB, Limit, limits, rates, resident, room, size_of
from videodit.printable import answer

PACKED = 0.1  # bytes a pixel of an mp4, more or less


def run(asked: Plan) -> None:
    """Print the plan of one request; exit code 2 if it does not fit."""
    pipe = opened(asked)
    request = pipe.request(**{"prompt": asked.prompt, **given(asked)})
    device, here = pipe.parts.device, pipe.parts.device.type != "cuda" or torch.cuda.is_available()
    if not here and not asked.limit:
        raise InputError("device=cuda: there is no GPU here; say what to plan for, such as limit=24GiB")
    base = base_memory(device, resident())
    limit = Limit("limit", size_of(asked.limit)) if asked.limit else room(limits(device)[0], base)
    planner = Planner(pipe.parts, limit, base=base)
    job, setup = job_of(pipe, [request]), setup_of(pipe)
    with doing("plan the stages"):
        planned = planner.plan(job, setup)
    native = pipe.native(request)
    if planned.fits and here:  # measured once on a machine, for seconds: a refusal does not wait for that
        planner.rates = rates(device, pipe.parts.dtype)
        planned = planner.plan(job, setup)
    kind = str(setup.dtype).removeprefix("torch.")
    kind += "" if setup.vae_dtype == setup.dtype else f" (the VAE in {str(setup.vae_dtype).removeprefix('torch.')})"
    told = f"offload={setup.offload}, passes={setup.passes}, decoding {setup.way}"
    told += f", quantize={setup.quantize}" if setup.quantize else ""
    answer(f"{asked.model}: {native}, {request.steps} steps, {kind}, {told}")
    answer(*planned.lines())
    answer(disk(pipe, request))
    if not planned.fits:
        raise InputError(planner.refusal(job, planned))


def disk(pipe: Pipe, request: Request) -> str:
    """What is written where the command runs: latents before decoding, then the video."""
    vae, shape = pipe.parts.sizes(VAE), pipe.native(request)
    latent = shape.latent(vae.stride)
    latents = 4 * vae.latent_channels * latent.frames * latent.height * latent.width
    video = PACKED * request.frames * request.height * request.width
    free = shutil.disk_usage(Path.cwd()).free
    sizes = f"{latents / 2**20:.1f} MiB of latents, a video of about {video / 2**20:.1f} MiB"
    return f"disk: {sizes}; {free / GIB:.0f} GiB free"


def opened(asked: Plan) -> Pipe:
    """The model that the plan is for: a name in conf/pretrained needs no files for that."""
    away = asked.device == "cuda"  # a GPU that is not here can be planned for
    device = "cuda" if away else str(pick_device(asked.device))
    dtype = pick_dtype(asked.dtype) or (torch.float32 if device == "cpu" else torch.bfloat16)
    how = {"vae_dtype": pick_dtype(asked.vae_dtype, "vae_dtype"), "offload": asked.offload, "quantize": asked.quantize}
    if family := family_of(asked.model):
        pipe = Pipe(sketch_pipeline(family, device=device, dtype=dtype, **how))
    else:
        pipe = load(asked.model, device=device, dtype=dtype, base=asked.base, **how)
    options = {} if asked.passes is None else {"passes": asked.passes}
    return pipe.with_options(**options, **({} if asked.chunk is None else {"decoding": Way(asked.chunk)}))
