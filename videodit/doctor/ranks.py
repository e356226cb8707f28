"""The first steps of a training on some processes that are started for it, without torchrun."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from socket import socket

import torch
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, start_processes

from videodit.config import Launch
from videodit.errors import InputError
from videodit.parallel.mesh import AXES, filled
from videodit.track.jsonl import records
from videodit.train.run import train
from videodit.train.settings import Trackers, Train

SMALLER = 8  # times, steps are than those of the run, where two of the largest clips still fit


def shortened(cfg: Train, folder: Path, largest: int, steps: int) -> Train:
    """The config of the run's first steps, with smaller ones, in a folder of their own; `largest`: see `Prepared`."""
    log = cfg.optim.make.another("tracker.trackers.0", "videodit.track.jsonl.Jsonl", path=str(folder / "metrics.jsonl"))
    return replace(
        cfg,
        run_dir=str(folder),
        tracker=Trackers(trackers=[log]),
        samples=replace(cfg.samples, prompts=[]),
        # The rest is what samples and checkpoints need; the plan is told already.
        loop=replace(cfg.loop, steps=steps, log_every=1, save_every=steps, sample_every=steps),
        memory="off",
        workers=0,
        optim=replace(cfg.optim, warmup=min(cfg.optim.warmup, steps // 4), decay=0),
        packs=replace(cfg.packs, tokens=max(cfg.packs.tokens // SMALLER, 2 * largest)),
        crops=replace(cfg.crops, pixels=max(cfg.crops.pixels // SMALLER, 2 * largest)),
    )


def run_on(ranks: int, cfg: Train) -> None:
    """Train on so many processes. InputError where one of them failed."""
    sizes = sizes_for(tuple(getattr(cfg.parallel, axis) for axis in AXES), ranks)
    cfg = replace(cfg, parallel=replace(cfg.parallel, **dict(zip(AXES, sizes, strict=True))))
    folder = Path(cfg.run_dir)
    folder.mkdir(parents=True)
    with socket() as free:
        free.bind((Launch().address, 0))
        port = free.getsockname()[1]
    try:
        start_processes(_one, (cfg, ranks, port, str(folder / "log")), ranks, start_method="spawn")
    except (ProcessRaisedException, ProcessExitedException) as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"the first steps on {ranks} processes failed: {reason}") from None


def column(folder: Path, name: str) -> list[float]:
    """A number of a run, step by step."""
    return [record[name] for record in records(folder / "metrics.jsonl") if name in record]


def sizes_for(sizes: tuple[int, int, int], ranks: int) -> tuple[int, int, int]:
    """The config's mesh where so many processes can make it, else one of parts."""
    try:
        return filled(sizes, ranks)
    except InputError:
        return 1, ranks, 1


def _one(rank: int, cfg: Train, ranks: int, port: int, log: str) -> None:
    """One of the processes."""
    with open(log, "a") as file:  # what it prints is not the doctor's
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    torch.set_num_threads(max(1, torch.get_num_threads() // ranks))
    train(cfg, Launch(rank, ranks, rank, port=port))
