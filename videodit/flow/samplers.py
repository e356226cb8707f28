"""Samplers: from noise to data along dx/dt = velocity(x, t), for clips of any sizes together.

A sampler is a function (velocity, x, times, callback) -> x, without randomness and without state:

    velocity    (B tensors, fp64 t (B,) on the CPU) -> B tensors: noise − data on the straight line (path.rectified)
    x           B tensors of any shapes, each as it is at its first time
    times       a schedule for each clip, (steps + 1,), falling; all of one length; the last step may be none
    callback    called as callback(step, steps, x) after each step, 1 ≤ step ≤ steps

Each clip goes its own way: as far as `velocity` keeps clips apart, it comes out the same alone and in any pack.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from videodit.errors import InputError
from videodit.flow.path import Velocity

Callback = Callable[[int, int, list[Tensor]], None]
Sampler = Callable[..., list[Tensor]]


def euler(velocity: Velocity, x: list[Tensor], times: list[Tensor], callback: Callback | None = None) -> list[Tensor]:
    """First order, one call a step. On the straight line this is DDIM (Song, Meng & Ermon 2021)."""
    grid = _grid(x, times)
    for step, (t, after) in enumerate(zip(grid, grid[1:], strict=False), 1):
        x = _move(x, velocity(x, t), after - t)
        if callback:
            callback(step, len(grid) - 1, x)
    return x


def heun(velocity: Velocity, x: list[Tensor], times: list[Tensor], callback: Callback | None = None) -> list[Tensor]:
    """Second order, two calls a step (Karras et al. 2022, algorithm 1); as there, the step to 0 is Euler's."""
    grid = _grid(x, times)
    for step, (t, after) in enumerate(zip(grid, grid[1:], strict=False), 1):
        first = velocity(x, t)
        ahead = _move(x, first, after - t)
        if (after > 0).any():
            second = velocity(ahead, after)
            corrected = _move(_move(x, first, (after - t) / 2), second, (after - t) / 2)
            ahead = [c if end > 0 else a for a, c, end in zip(ahead, corrected, after, strict=True)]
        x = ahead
        if callback:
            callback(step, len(grid) - 1, x)
    return x


def unipc(
    velocity: Velocity, x: list[Tensor], times: list[Tensor], callback: Callback | None = None, **solver: Any
) -> list[Tensor]:
    """UniPC, a multistep predictor-corrector (Zhao et al. 2023), one call a step: diffusers', second order, bh2.

    `solver`: what diffusers' class is told otherwise.
    """
    return _multistep(partial(_scheduler, "UniPCMultistepScheduler", solver), velocity, x, times, callback)


def dpmpp(
    velocity: Velocity, x: list[Tensor], times: list[Tensor], callback: Callback | None = None, **solver: Any
) -> list[Tensor]:
    """DPM-Solver++(2M), multistep (Lu et al. 2022), one call a step: diffusers', second order, midpoint.

    `solver`: what diffusers' class is told otherwise.
    """
    return _multistep(partial(_scheduler, "DPMSolverMultistepScheduler", solver), velocity, x, times, callback)


SAMPLERS: Mapping[str, Sampler] = MappingProxyType({"euler": euler, "heun": heun, "unipc": unipc, "dpmpp": dpmpp})


def sampler(name: str, **solver: Any) -> Sampler:
    """The sampler of that name, told this; InputError lists the names there are."""
    if name not in SAMPLERS:
        raise InputError(f"sampler={name!r}: expected one of {', '.join(SAMPLERS)}")
    return partial(SAMPLERS[name], **solver) if solver else SAMPLERS[name]


def visits(name: str, times: list[Tensor]) -> Tensor:
    """The times at which that sampler asks for velocities when it goes through these schedules, in any order."""
    grid = torch.stack([t.double().cpu() for t in times])
    return _seen(grid) if name in ("unipc", "dpmpp") else grid


def _seen(times: Tensor) -> Tensor:
    """Times as diffusers' multistep samplers hand them to a network: floor(1000·t)/1000, below 1."""
    return (1000 * times.clamp(max=1 - 1e-6)).long().double() / 1000


def _grid(x: list[Tensor], times: list[Tensor]) -> Tensor:
    """The schedules as one fp64 tensor (steps + 1, B) on the CPU: row i is where the clips are before step i."""
    if len(x) != len(times) or len({len(t) for t in times}) != 1:
        raise InputError(f"{len(x)} clips, schedules of {[len(t) for t in times]} times: one for each, of one length")
    grid = torch.stack([t.detach().double().cpu() for t in times], dim=1)
    falls = grid.diff(dim=0)
    if len(grid) < 2 or not (falls[:-1] < 0).all() or not (falls[-1] <= 0).all() or grid.min() < 0 or grid.max() > 1:
        raise InputError("a schedule needs at least 2 times, falling from at most 1 to at least 0")
    return grid


def _move(x: list[Tensor], velocity: list[Tensor], by: Tensor) -> list[Tensor]:
    """Each clip moved along its velocity; the state keeps its precision even when the network answers in bf16."""
    return [xi + h * vi.to(xi.dtype) for xi, vi, h in zip(x, velocity, by.tolist(), strict=True)]


def _multistep(
    new: Callable[[Tensor], Any], velocity: Velocity, x: list[Tensor], times: list[Tensor], callback: Callback | None
) -> list[Tensor]:
    """One scheduler a clip: each remembers its clip's past. The network sees floor(1000·t)/1000, as in diffusers."""
    schedulers = [new(t) for t in _grid(x, times).T]
    timesteps = torch.stack([s.timesteps for s in schedulers], dim=1)
    for step, at in enumerate(timesteps, 1):
        v = velocity(x, at.double() / 1000)
        x = [
            scheduler.step(vi[None].to(xi.dtype), k, xi[None], return_dict=False)[0][0]  # they expect a batch
            for scheduler, vi, k, xi in zip(schedulers, v, at, x, strict=True)
        ]
        if callback:
            callback(step, len(timesteps), x)
    return x


def _scheduler(name: str, solver: Mapping[str, Any], times: Tensor) -> Any:
    """A diffusers scheduler of that class, told to go through `times` (steps + 1,)."""
    try:
        import diffusers
    except ImportError as error:
        raise InputError("samplers unipc and dpmpp need `pip install diffusers`; euler and heun do not") from error
    scheduler = getattr(diffusers, name)(prediction_type="flow_prediction", use_flow_sigmas=True, **solver)
    scheduler.set_timesteps(len(times) - 1)
    sigmas = times.clamp(max=1 - 1e-6)  # as diffusers does: at 1 the log signal-to-noise ratio is −∞
    scheduler.sigmas, scheduler.timesteps = sigmas.float(), (1000 * sigmas[:-1]).long()
    scheduler.set_begin_index(0)
    return scheduler
