"""A training from its settings: check, build, and hand what was built to the loop."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import nullcontext
from pathlib import Path

from videodit.alive import doing
from videodit.checkpoint.store import sole
from videodit.config import Launch
from videodit.data.batches import load
from videodit.nn.device import pick_device
from videodit.parallel.mesh import Mesh
from videodit.parallel.shard import parallelize, use_kernel
from videodit.parallel.store import STATE, Checkpoints
from videodit.plan.training import StepPlan
from videodit.printable import note
from videodit.settings import tree_of
from videodit.track.tracker import Composite, Tracker
from videodit.train.build import Made, prepare
from videodit.train.check import check_possible
from videodit.train.ema import EMA
from videodit.train.folder import settle, stamp, start_over
from videodit.train.inputs import runs_before
from videodit.train.loop import Run
from videodit.train.machine import PRECISIONS, Compute, keep_freed_memory, matmul_rate
from videodit.train.optim import warmup_decay
from videodit.train.plan import check_fits, held, meshed, planned
from videodit.train.settings import Train


def train(cfg: Train, here: Launch) -> float | None:
    """Train what `cfg.stage` names, after the runs of `cfg.after`, as this one of the processes.

    Gives the number that a sweep makes small: see `Made.at_interval`.
    """
    folder, mesh = Path(cfg.run_dir), meshed(cfg, here, pick_device(cfg.device, here.local_rank))
    check_possible(cfg)  # mistakes are told before anything is done
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


def check(cfg: Train, step: StepPlan, mesh: Mesh) -> None:
    """Say what a step will need, and refuse one that cannot fit into what is free here."""
    base = held(mesh.device)
    if mesh.main:
        note(__name__, step.line(base, None))
    check_fits(cfg, step, base, mesh)


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
            note(__name__, attention)
        note(
            __name__,
            f"{folder}: {count / 1e6:.2f} million parameters, {trained / 1e6:.2f} trained, {config['precision']}, "
            f"{rate / 1e9:.0f} GFLOP/s matmul{f', {mesh.ranks} processes' * (mesh.ranks > 1)}",
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
        note(__name__, f"{folder}: videodit report {folder}, model={folder}")
    return found


def make_tracker(cfg: Train, mesh: Mesh) -> Tracker:
    """All trackers of the config as one; only the main process has them."""
    if not mesh.main:
        return Tracker()
    return Composite(trackers=[factory() for factory in cfg.tracker.trackers])
