"""Two processes killed at random moments, also in the middle of a save, end as two that never were."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parallel.cases import STEPS, start
from tests.train.test_resume import learned, state, steps_done

KILLS = 10
pytestmark = pytest.mark.slow


def _finish(folder: Path, ranks: int) -> None:
    processes = start(folder, ranks, ["long"])
    told = [process.communicate(timeout=300)[1].decode() for process in processes]
    assert all(process.returncode == 0 for process in processes), "\n".join(told)[-4000:]


def _kill(folder: Path, ready: Callable[[], bool], rng: random.Random) -> list[int]:
    """Start, and kill -9 all as soon as it is `ready`, one a moment after the other, in any order."""
    processes: list[subprocess.Popen] = start(folder, 2, ["long"])
    until = time.monotonic() + 120
    while not ready() and all(process.poll() is None for process in processes):
        assert time.monotonic() < until
        time.sleep(0.0005)
    rng.shuffle(processes)
    for process in processes:
        process.send_signal(signal.SIGKILL)
        time.sleep(rng.random() * 0.01)
    return [process.wait() for process in processes]


def _same(ours: Path, theirs: Path) -> None:
    """To the bit: what every step recorded, weights, averages, optimizer."""
    assert learned(ours) == learned(theirs)
    assert [record["step"] for record in learned(ours)] == list(range(1, STEPS + 1))
    (tensors, info), (expected, same) = (state(folder / "run" / "checkpoints") for folder in (ours, theirs))
    assert info == same and info["step"] == STEPS and tensors.keys() == expected.keys()
    assert {name.split("/")[0] for name in tensors} == {"model", "ema", "optim"}
    for name, value in tensors.items():
        assert torch.equal(value, expected[name]), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole")
    _finish(folder, 2)
    return folder


def test_killed_ten_times_is_never_killed(tmp_path: Path, whole: Path) -> None:
    rng, saving = random.Random(), 0
    for number in range(KILLS):
        target = rng.randint(5 * number, 5 * number + 4)  # of 60 steps, with a checkpoint every 4
        beginning = time.monotonic()

        def ready(target: int = target, number: int = number, beginning: float = beginning) -> bool:
            if number == 0:
                return time.monotonic() - beginning > rng.random() * 5  # perhaps before anything is there
            if steps_done(tmp_path) < target:
                return False
            return number % 2 == 0 or any((tmp_path / "run" / "checkpoints").glob(".step-*.part"))

        codes = _kill(tmp_path, ready, rng)
        assert -signal.SIGKILL in codes
        saving += any((tmp_path / "run" / "checkpoints").glob(".step-*.part"))
    assert saving >= 1, "no kill came into the middle of a save"
    _finish(tmp_path, 2)
    _same(tmp_path, whole)


def test_two_processes_become_one(tmp_path: Path, whole: Path) -> None:
    """Killed on two, resumed on one, on the same clips: the same losses within rounding. And back again."""
    _kill(tmp_path, lambda: steps_done(tmp_path) >= 21, random.Random())
    other = tmp_path.with_name("other")
    shutil.copytree(tmp_path, other)
    _finish(tmp_path, 1)
    ours, theirs = learned(tmp_path), learned(whole)
    assert len(ours) == STEPS
    names = [name for name in ours[0] if "loss" in name]
    assert names and _far(ours, theirs, names) < 1e-5
    _finish(other, 2)
    _same(other, whole)


def test_told_to_stop_they_stop_together(tmp_path: Path, whole: Path) -> None:
    """SIGTERM, which reaches one a little before the other: both save after the same step, and leave."""
    processes = start(tmp_path, 2, ["long"])
    until = time.monotonic() + 120
    while steps_done(tmp_path) < 17 and all(process.poll() is None for process in processes):
        assert time.monotonic() < until
        time.sleep(0.0005)
    for process in reversed(processes):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.002)
    told = [process.communicate(timeout=120)[1].decode() for process in processes]
    stops = {line.split("stopped at step ")[1].split()[0] for text in told for line in text.splitlines()
             if "Interrupted: stopped at step " in line}  # fmt: skip
    assert len(stops) == 1 and all("stopped at step" in text for text in told), told
    assert (tmp_path / "run" / "checkpoints" / f"step-{int(stops.pop()):09d}").is_dir()
    _finish(tmp_path, 2)
    _same(tmp_path, whole)


def _far(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], names: list[str]) -> float:
    pairs = zip(ours, theirs, strict=True)
    return max(abs(a[name] - b[name]) for a, b in pairs for name in names if name in a)
