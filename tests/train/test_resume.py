"""Killed and started again, a training is the training that was never killed: the same losses, the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.train import tiny
from tests.train.runs import alone
from videodit.checkpoint.latents import LatentCache
from videodit.checkpoint.store import load_tensors
from videodit.cli.main import main
from videodit.parallel.store import Checkpoints
from videodit.track.jsonl import records

STEPS, SAVE_EVERY = 24, 10
PATIENCE = 240  # seconds


def train(folder: Path, overrides: list[str]) -> subprocess.Popen:
    """The command, as a process of its own in a folder of its own."""
    folder.mkdir(exist_ok=True)
    with (folder / "output.txt").open("a") as output:
        return subprocess.Popen(
            tiny.command(*overrides, "run_dir=run"),
            cwd=folder,
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        )


def finished(process: subprocess.Popen, folder: Path) -> None:
    """Wait until a process is through."""
    assert process.wait(PATIENCE) == 0, (folder / "output.txt").read_text()


def kill(process: subprocess.Popen, folder: Path, ready: Callable[[], bool]) -> None:
    """Kill a process with -9 as soon as it is `ready`."""
    until = time.monotonic() + PATIENCE
    while not ready():
        assert process.poll() is None and time.monotonic() < until, (folder / "output.txt").read_text()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def steps_done(folder: Path) -> int:
    """How many steps a run has recorded."""
    path = folder / "run" / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def checkpoints(folder: Path) -> list[str]:
    """Names of a run's checkpoints."""
    return sorted(path.name for path in (folder / "run" / "checkpoints").glob("*"))


def learned(folder: Path) -> list[dict[str, Any]]:
    """What every step recorded, less what is about time."""
    timed = ("time", "clips/s", "tokens/s", "mfu", "data wait", "memory GiB", "seconds")
    return [
        {name: value for name, value in record.items() if name not in timed}
        for record in records(folder / "run" / "metrics.jsonl")
    ]


def state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of the newest checkpoint, and its JSON."""
    saved = Checkpoints(folder=folder, keep=1, mesh=alone()).latest()
    parts = {
        part: {name: torch.zeros(shape) for name, shape in shapes.items()} for part, shapes in saved.shapes.items()
    }
    saved.load(parts)
    return {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}, {
        key: value for key, value in saved.info.items() if key != "seconds"
    }


@pytest.mark.slow
def test_killed_and_started_again_is_never_killed(tmp_path: Path) -> None:
    """Mixed shapes, two loader workers, kill -9 before the first checkpoint and again after it."""
    data = [override for override in tiny.COMMAND if override.startswith("data")]
    vae, cache = f"vae_from={tiny.saved_vae(tmp_path)}", f"cache={tmp_path / 'cache'}"
    assert main(["encode", *data, vae, cache, "workers=0"]) == 0
    stored = LatentCache(tmp_path / "cache")
    assert {stored.shape(i).width for i in range(len(stored))} == {4, 6}

    loop = f"loop={{steps: {STEPS}, save_every: {SAVE_EVERY}, log_every: 1, sample_every: 1000}}"
    overrides = [vae, cache, "workers=2", loop]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    reference = train(whole, overrides)

    kill(train(broken, overrides), broken, lambda: steps_done(broken) >= 2)
    assert checkpoints(broken) == []
    kill(train(broken, overrides), broken, lambda: steps_done(broken) > SAVE_EVERY + 1)
    assert checkpoints(broken) and f"step-{STEPS:09d}" not in checkpoints(broken)
    finished(train(broken, overrides), broken)
    finished(reference, whole)

    assert learned(broken) == learned(whole)
    assert [record["step"] for record in learned(whole) if "loss" in record] == list(range(1, STEPS + 1))
    (ours, info), (theirs, their_info) = (state(folder / "run" / "checkpoints") for folder in (broken, whole))
    assert {name.split("/")[0] for name in ours} == {"model", "ema", "optim"}
    assert info == their_info and info["step"] == STEPS and ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
    for name in ("dit", "text"):  # what it publishes, too
        mine, same = (load_tensors(folder / "run" / "model" / f"{name}.safetensors")[0] for folder in (broken, whole))
        assert all(torch.equal(value, same[key]) for key, value in mine.items())
    assert json.loads((broken / "run" / "config.json").read_text())["precision"] == "fp32"
