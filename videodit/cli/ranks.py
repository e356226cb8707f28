"""The first steps of a training on some processes that are started for it, without torchrun."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING, Any

import torch
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, start_processes

from videodit.cli.compose import plain, resolved
from videodit.cli.train import train
from videodit.config import Launch
from videodit.errors import InputError
from videodit.parallel.mesh import AXES, filled
from videodit.track.jsonl import records

if TYPE_CHECKING:
    from omegaconf import DictConfig

SMALLER = 8  # times, steps are than those of the run, where two of the largest clips still fit
JSONL = {"trackers": [{"_target_": "videodit.track.jsonl.Jsonl", "path": "${run_dir}/metrics.jsonl"}]}


def shortened(cfg: DictConfig, folder: Path, largest: int, steps: int) -> DictConfig:
    """The config of the run's first steps, with smaller ones, in a folder of their own; `largest`: see `Prepared`."""
    cfg = resolved(cfg)
    cfg.run_dir, cfg.tracker, cfg.samples.prompts = str(folder), JSONL, []
    # The rest is what samples and checkpoints need; the plan is told already.
    cfg.loop = {**plain(cfg.loop), "steps": steps, "log_every": 1, "save_every": steps, "sample_every": steps}
    cfg.memory, cfg.workers = "off", 0
    cfg.optim.warmup, cfg.optim.decay = min(cfg.optim.warmup, steps // 4), 0
    group, key = ("packs", "tokens") if cfg.stage == "dit" else ("crops", "pixels")
    cfg[group][key] = max(cfg[group][key] // SMALLER, 2 * largest)
    return cfg


def run_on(ranks: int, cfg: DictConfig) -> None:
    """Train on so many processes. InputError where one of them failed."""
    for axis, size in zip(AXES, sizes_for(tuple(cfg.parallel[axis] for axis in AXES), ranks), strict=True):
        cfg.parallel[axis] = size
    folder = Path(cfg.run_dir)
    folder.mkdir(parents=True)
    with socket() as free:
        free.bind((Launch().address, 0))
        port = free.getsockname()[1]
    try:
        start_processes(_one, (plain(cfg), ranks, port, str(folder / "log")), ranks, start_method="spawn")
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


def _one(rank: int, cfg: dict[str, Any], ranks: int, port: int, log: str) -> None:
    """One of the processes."""
    from omegaconf import OmegaConf

    with open(log, "a") as file:  # what it prints is not the doctor's
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    torch.set_num_threads(max(1, torch.get_num_threads() // ranks))
    train(OmegaConf.create(cfg), Launch(rank, ranks, rank, port=port))
