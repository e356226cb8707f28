"""`videodit plan`: what a generation will need, without reading a weight."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from videodit.alive import doing
from videodit.checkpoint.find import sketch_pipeline
from videodit.checkpoint.resolve import family_of
from videodit.cli.generate import given
from videodit.cli.memory import job_of, passes_of, room, setup_of, size_of, way_of
from videodit.errors import InputError
from videodit.generate import Pipe, load
from videodit.nn.device import pick_device, pick_dtype
from videodit.plan.generation import Planner, base_memory
from videodit.plan.machine import GIB, Limit, limits, rates, resident
from videodit.printable import answer
from videodit.request import Request

if TYPE_CHECKING:
    from omegaconf import DictConfig

PACKED = 0.1  # bytes a pixel of an mp4, more or less


def run(cfg: DictConfig) -> None:
    """Print the plan of one request; exit code 2 if it does not fit."""
    pipe = opened(cfg)
    request = pipe.request(**{"prompt": cfg.prompt, **given(cfg)})
    device, here = pipe.parts.device, pipe.parts.device.type != "cuda" or torch.cuda.is_available()
    if not here and not cfg.limit:
        raise InputError("device=cuda: there is no GPU here; say what to plan for, such as limit=24GiB")
    base = base_memory(device, resident())
    limit = Limit("limit", size_of(cfg.limit)) if cfg.limit else room(limits(device)[0], base)
    planner = Planner(pipe.parts, limit, base=base)
    pipe.way, pipe.passes = way_of(cfg.chunk), passes_of(cfg.passes)
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
    answer(f"{cfg.model}: {native}, {request.steps} steps, {kind}, {told}")
    answer(*planned.lines())
    answer(disk(pipe, request))
    if not planned.fits:
        raise InputError(planner.refusal(job, planned))


def disk(pipe: Pipe, request: Request) -> str:
    """What is written where the command runs: latents before decoding, then the video."""
    vae, shape = pipe.parts.sizes("vae"), pipe.native(request)
    latent = shape.latent(vae.stride)
    latents = 4 * vae.latent_channels * latent.frames * latent.height * latent.width
    video = PACKED * request.frames * request.height * request.width
    free = shutil.disk_usage(Path.cwd()).free
    sizes = f"{latents / 2**20:.1f} MiB of latents, a video of about {video / 2**20:.1f} MiB"
    return f"disk: {sizes}; {free / GIB:.0f} GiB free"


def opened(cfg: DictConfig) -> Pipe:
    """The model that the plan is for: a name in conf/pretrained needs no files for that."""
    away = cfg.device == "cuda"  # a GPU that is not here can be planned for
    device = "cuda" if away else str(pick_device(cfg.device))
    dtype = pick_dtype(cfg.dtype) or (torch.float32 if device == "cpu" else torch.bfloat16)
    how = {"vae_dtype": pick_dtype(cfg.vae_dtype, "vae_dtype"), "offload": cfg.offload, "quantize": cfg.quantize}
    if family := family_of(cfg.model):
        return Pipe(sketch_pipeline(family, device=device, dtype=dtype, **how))
    return load(cfg.model, device=device, dtype=dtype, base=cfg.base, **how)
