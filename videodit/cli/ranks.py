"""The first steps of a training on some processes that are started for it, without torchrun."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING, Any

import torch
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, start_processes

from videodit.cli.compose import plain
from videodit.cli.train import train
from videodit.config import Launch
from videodit.errors import InputError
from videodit.parallel.mesh import AXES, filled
from videodit.track.jsonl import records

if TYPE_CHECKING:
    from omegaconf import DictConfig

SMALLER = 4  # times, the steps are than those of the run
JSONL = {"trackers": [{"_target_": "videodit.track.jsonl.Jsonl", "path": "${run_dir}/metrics.jsonl"}]}


def first_losses(cfg: DictConfig, folder: Path, ranks: int, steps: int) -> list[float]:
    """The losses of so many steps, smaller than the run's. InputError where they could not be made."""
    cfg = cfg.copy()
    cfg.run_dir, cfg.tracker, cfg.samples.prompts = str(folder), JSONL, []
    cfg.loop = {**plain(cfg.loop), "steps": steps, "log_every": 1, "save_every": steps, "sample_every": steps}
    cfg.packs.tokens, cfg.crops.pixels = max(1, cfg.packs.tokens // SMALLER), max(1, cfg.crops.pixels // SMALLER)
    for axis, size in zip(AXES, sizes_for(tuple(cfg.parallel[axis] for axis in AXES), ranks), strict=True):
        cfg.parallel[axis] = size
    folder.mkdir(parents=True)
    with socket() as free:
        free.bind((Launch().address, 0))
        port = free.getsockname()[1]
    try:
        start_processes(_one, (plain(cfg), ranks, port, str(folder / "log")), ranks, start_method="spawn")
    except (ProcessRaisedException, ProcessExitedException) as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"the first steps on {ranks} process{'es' * (ranks > 1)} failed: {reason}") from None
    return [record["loss"] for record in records(folder / "metrics.jsonl") if "loss" in record]


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
