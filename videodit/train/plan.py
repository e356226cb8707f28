"""`plan=true`: what a step of a training will need, without the training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from videodit.alive import doing
from videodit.atomic import check_room
from videodit.config import Launch
from videodit.errors import InputError
from videodit.nn.device import pick_device
from videodit.parallel.mesh import AXES, Mesh
from videodit.plan.generation import base_memory
from videodit.plan.machine import GIB, Limit, limits, rates, resident, room, size_of
from videodit.plan.training import StepPlan
from videodit.printable import note
from videodit.train.build import Prepared, prepare, stand_ins
from videodit.train.check import check_possible, check_settings
from videodit.train.machine import release
from videodit.train.settings import Train
from videodit.train.sketch import is_sketched, sketched


def plan(cfg: Train, here: Launch) -> Iterator[str]:
    """Lines that say what a step will need, and whether that fits: the main process has them, and each plans its part.

    Nothing stays but latents that the cache lacked, which tell the shapes. InputError for a step that cannot fit.
    """
    away = cfg.device == "cuda" and not torch.cuda.is_available()  # a GPU that is not here
    mesh = meshed(cfg, here, torch.device("cuda") if away else pick_device(cfg.device, here.local_rank))
    limit = None
    if isinstance(cfg.limit, str):
        limit, cfg = Limit("limit", size_of(cfg.limit)), replace(cfg, limit=None)
    if not is_sketched(cfg):
        check_possible(cfg)  # mistakes are told before anything is done
    if away and not (limit and is_sketched(cfg)):
        more = "limit=24GiB" if is_sketched(cfg) else "init= by a public name, and limit=24GiB"
        raise InputError(f"device=cuda: there is no GPU here; say what to plan for: {more}")
    yield from (of_numbers(cfg, mesh, limit, away=away) if is_sketched(cfg) else of_networks(cfg, mesh, limit))
    with suppress(OSError):
        Path(cfg.run_dir).rmdir()  # which hydra made


def meshed(cfg: Train, here: Launch, device: torch.device) -> Mesh:
    """The processes of a training, as its config arranges them."""
    return Mesh(launch=here, device=device, sizes=tuple(getattr(cfg.parallel, axis) for axis in AXES))


def of_networks(cfg: Train, mesh: Mesh, limit: Limit | None) -> Iterator[str]:
    """The lines of a training whose networks are here, or can be made."""
    with TemporaryDirectory(prefix="videodit-plan-") as own:
        scratch = Path(mesh.exchange(own)[0])
        cfg, absent = stand_ins(cfg, scratch / f"{mesh.rank}", mesh)
        if absent and mesh.main:
            note(__name__, f"{', '.join(absent)}: not there yet, untrained ones serve")
        (scratch / "run").mkdir(exist_ok=True)
        step = planned(prepare(cfg, scratch / "run", mesh))
        base = held(mesh.device)
        if mesh.main:
            yield step.line(base, rates(mesh.device, step.precision))
        check_fits(cfg, step, base, mesh, limit)
        if cfg.memory != "off" and limit and mesh.main:
            yield fits(limit)
        mesh.wait()


def of_numbers(cfg: Train, mesh: Mesh, limit: Limit | None, *, away: bool) -> Iterator[str]:
    """The lines of a training from a public model, of which nothing is here. away: for a GPU that is not here."""
    check_settings(cfg)
    cfg = replace(cfg, precision="bf16") if away and cfg.precision == "auto" else cfg
    found, base = sketched(cfg, mesh), base_memory(mesh.device, resident())
    limit = limit or room(limits(mesh.device)[0], base)
    if mesh.main:
        yield found.line(mesh.device, base)
        yield found.plan.line(base + found.vae, None if away else rates(mesh.device, found.plan.precision))
    if cfg.memory != "off":
        found.check(base, limit)
        if mesh.main:
            yield fits(limit)


def fits(limit: Limit) -> str:
    """That what was planned fits."""
    return f"it fits into the {limit.free / GIB:.1f} GiB that {limit.name} leaves"


def planned(prepared: Prepared) -> StepPlan:
    """What a step will need."""
    with doing("plan a step"):
        return prepared.plan()


def held(device: torch.device) -> int:
    """Bytes of the machine's memory that this process has already, less what an earlier run in it kept."""
    release(device)
    return resident() if device.type == "cpu" else 0


def check_fits(cfg: Train, step: StepPlan, base: int, mesh: Mesh, limit: Limit | None = None) -> None:
    """InputError for a step that cannot fit into the limit, or what is free here, beside `base` bytes."""
    if cfg.memory != "off":
        with mesh.together():
            step.check(base, limit or room(limits(mesh.device)[0], base))
            check_room(Path(cfg.run_dir), step.checkpoint, "a checkpoint")
