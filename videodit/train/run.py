"""A training from its settings: check, plan, build, and hand what was built to the loop."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from videodit.alive import doing
from videodit.atomic import check_room
from videodit.checkpoint.store import sole
from videodit.config import Launch
from videodit.data.batches import load
from videodit.errors import InputError
from videodit.nn.device import pick_device
from videodit.parallel.mesh import AXES, Mesh
from videodit.parallel.shard import parallelize, use_kernel
from videodit.parallel.store import STATE, Checkpoints
from videodit.plan.generation import base_memory
from videodit.plan.machine import GIB, Limit, limits, rates, resident, room, size_of
from videodit.plan.training import StepPlan
from videodit.printable import answer, say
from videodit.settings import tree_of
from videodit.track.tracker import Composite, Tracker
from videodit.train.build import Made, Prepared, prepare, stand_ins
from videodit.train.check import check_possible, check_settings
from videodit.train.ema import EMA
from videodit.train.folder import settle, stamp, start_over
from videodit.train.inputs import runs_before
from videodit.train.loop import Run
from videodit.train.machine import PRECISIONS, Compute, keep_freed_memory, matmul_rate, release
from videodit.train.optim import warmup_decay
from videodit.train.settings import Train
from videodit.train.sketch import is_sketched, sketched


def train(cfg: Train, here: Launch) -> float | None:
    """Train what `cfg.stage` names, after the runs of `cfg.after`, as this one of the processes.

    Gives the number that a sweep makes small: see `Made.at_interval`; None after a plan.
    """
    folder = Path(cfg.run_dir)
    away = bool(cfg.plan) and cfg.device == "cuda" and not torch.cuda.is_available()  # a GPU that is not here
    device = torch.device("cuda") if away else pick_device(cfg.device, here.local_rank)
    mesh = Mesh(launch=here, device=device, sizes=tuple(getattr(cfg.parallel, axis) for axis in AXES))
    limit = None
    if cfg.plan and isinstance(cfg.limit, str):
        limit, cfg = Limit("limit", size_of(cfg.limit)), replace(cfg, limit=None)
    if not (cfg.plan and is_sketched(cfg)):
        check_possible(cfg)  # mistakes are told before anything is done
    if cfg.plan:
        plan(cfg, mesh, limit, away=away)
        with suppress(OSError):
            folder.rmdir()  # which hydra made
        return None
    folder.mkdir(parents=True, exist_ok=True)
    with sole(folder / ".lock", f"run_dir={folder}") if mesh.main else nullcontext():
        if cfg.fresh and mesh.main:
            start_over(folder)
        for before in runs_before(cfg):
            train(before, here)
        mesh.wait()
        with doing("prepare the training"):
            prepared = prepare(cfg, folder, mesh)
        if cfg.memory != "off":
            check(cfg, planned(prepared), mesh)
        with doing("make the networks"):
            made = prepared.make()
        return fit(cfg, folder, made, mesh)


def plan(cfg: Train, mesh: Mesh, limit: Limit | None, *, away: bool) -> None:
    """Only say what a step will need. Nothing stays but latents that the cache lacked, which tell the shapes.

    away: for a GPU that is not here, which only a model's numbers can be planned for.
    """
    if away and not (limit and is_sketched(cfg)):
        more = "limit=24GiB" if is_sketched(cfg) else "init= by a public name, and limit=24GiB"
        raise InputError(f"device=cuda: there is no GPU here; say what to plan for: {more}")
    if is_sketched(cfg):
        check_sketch(cfg, mesh, limit, away=away)
        return
    with TemporaryDirectory(prefix="videodit-plan-") as own:
        scratch = Path(mesh.exchange(own)[0])
        cfg, absent = stand_ins(cfg, scratch / f"{mesh.rank}", mesh)
        if absent and mesh.main:
            say(f"{', '.join(absent)}: not there yet, untrained ones serve")
        (scratch / "run").mkdir(exist_ok=True)
        check(cfg, planned(prepare(cfg, scratch / "run", mesh)), mesh, limit)
        mesh.wait()


def planned(prepared: Prepared) -> StepPlan:
    """What a step will need."""
    with doing("plan a step"):
        return prepared.plan()


def check(cfg: Train, plan: StepPlan, mesh: Mesh, limit: Limit | None = None) -> None:
    """Say what a step will need, and refuse one that cannot fit: into the limit, or what is free here."""
    device = mesh.device
    release(device)  # what an earlier run in this process kept is free as well
    base = resident() if device.type == "cpu" else 0
    if mesh.main and cfg.plan:
        answer(plan.line(base, rates(device, plan.precision)))
    elif mesh.main:
        say(plan.line(base, None))
    if cfg.memory != "off":
        with mesh.together():
            plan.check(base, limit or room(limits(device)[0], base))
            if limit and mesh.main:
                tell_fit(limit)
            check_room(Path(cfg.run_dir), plan.checkpoint, "a checkpoint")


def tell_fit(limit: Limit) -> None:
    """Say that what was planned fits."""
    answer(f"it fits into the {limit.free / GIB:.1f} GiB that {limit.name} leaves")


def check_sketch(cfg: Train, mesh: Mesh, limit: Limit | None, *, away: bool) -> None:
    """The same of a public model, of which nothing is here."""
    check_settings(cfg)
    cfg = replace(cfg, precision="bf16") if away and cfg.precision == "auto" else cfg
    found, base = sketched(cfg, mesh), base_memory(mesh.device, resident())
    limit = limit or room(limits(mesh.device)[0], base)
    if mesh.main:
        answer(found.line(mesh.device, base))
        answer(found.plan.line(base + found.vae, None if away else rates(mesh.device, found.plan.precision)))
    if cfg.memory != "off":
        found.check(base, limit)
        if mesh.main:
            tell_fit(limit)


def fit(cfg: Train, folder: Path, made: Made, mesh: Mesh) -> float | None:
    """Run the loop."""
    if mesh.device.type == "cpu":
        keep_freed_memory()
    objective, tracker = made.objective, make_tracker(cfg, mesh)
    curve = warmup_decay(warmup=cfg.optim.warmup, steps=cfg.loop.steps, decay=cfg.optim.decay, floor=cfg.optim.floor)
    resuming = any((folder / "checkpoints").glob(f"*/{STATE}"))
    config = settle({**tree_of(cfg), "clips": dict(made.clips)}, folder, mesh, resuming=resuming)
    checkpoints = Checkpoints(folder=folder / "checkpoints", keep=cfg.keep, mesh=mesh, stamp=stamp(config))
    precision = PRECISIONS[config["precision"]]
    sizes = [(p.numel(), p.requires_grad) for p in objective.module.parameters()]
    count, trained = sum(size for size, _ in sizes), sum(size for size, trains in sizes if trains)
    attention = use_kernel(objective.module, cfg.kernel, mesh.device, precision)
    shared = cfg.parallel
    parallelize(objective.module, mesh, recompute=shared.recompute, compile=shared.compile, offload=shared.offload,
                precision=precision)  # fmt: skip
    rate = matmul_rate(mesh.device, precision)
    if mesh.main:
        if attention:
            say(attention)
        say(
            f"{folder}: {count / 1e6:.2f} million parameters, {trained / 1e6:.2f} trained, {config['precision']}, "
            f"{rate / 1e9:.0f} GFLOP/s matmul{f', {mesh.ranks} processes' * (mesh.ranks > 1)}"
        )

    def stream(start: int, stop: int) -> Generator:
        return load(made.batches, start=start, stop=stop, workers=cfg.workers)

    found = Run(
        folder=folder,
        objective=objective,
        batches=stream,
        optimizer=cfg.optim.make()(objective.module, curve=curve),
        ema=EMA(module=objective.module, decay=cfg.ema),
        checkpoints=checkpoints,
        tracker=tracker,
        settings=cfg.loop,
        compute=Compute(precision, rate),
        config=config,
        mesh=mesh,
        sample=lambda step: made.at_interval(step, tracker),
    ).fit(made.unread)
    if mesh.main:
        say(f"{folder}: videodit report {folder}, model={folder}")
    return found


def make_tracker(cfg: Train, mesh: Mesh) -> Tracker:
    """All trackers of the config as one; only the main process has them."""
    if not mesh.main:
        return Tracker()
    return Composite(trackers=[factory() for factory in cfg.tracker.trackers])
