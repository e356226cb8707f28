"""Killed at any moment and run again, a set is the one of a run that was never killed, byte for byte."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.ingest.commands import contents, folder, started
from tests.ingest.nasty import tarred
from tests.ingest.test_engine import gone
from tests.train import tiny

PATIENCE = 240  # seconds
BUNDLE = 2
Moment = Callable[[Path], bool]


def lines(stage: str, least: int) -> Moment:
    """When a stage has so many results."""

    def ready(out: Path) -> bool:
        path = out / ".ingest" / f"{stage}.jsonl"
        return path.exists() and path.read_bytes().count(b"\n") >= least

    return ready


def shards(least: int) -> Moment:
    """When so many are written."""
    return lambda out: len(list((out / "cache").glob("shard-*.safetensors"))) >= least


def half(folder: str) -> Moment:
    """While a file of the folder is being written."""
    return lambda out: any((out / folder).glob(".*.part"))


def children(pid: int) -> set[int]:
    """The processes below one."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, last = {pid}, set()
    while found != last:
        last, found = found, found | {one for one, parent in parents.items() if parent in found}
    return found - {pid}


def kill(process: subprocess.Popen, out: Path, ready: Moment, *, workers_first: bool) -> bool:
    """Kill the command with -9 as soon as it is ready; whether it came to that. None of its processes stays."""
    until = time.monotonic() + PATIENCE
    while process.poll() is None and not ready(out):
        assert time.monotonic() < until
        time.sleep(0.0005)
    below = children(process.pid)
    for pid in sorted(below) * workers_first:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    time.sleep(0.02 * workers_first)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    while not all(map(gone, below)):
        assert time.monotonic() < until, "workers outlive the command"
        time.sleep(0.01)
    return process.returncode == -signal.SIGKILL


def finished(process: subprocess.Popen) -> None:
    """Wait until the command is through."""
    told, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors.decode()
    assert told.startswith(b"list ")


def compare(place: Path, count: int, moments: Sequence[Moment], *overrides: str) -> int:
    """Run to the end through kills at these moments, and once without; how many kills came in time."""
    videos = folder(place / "videos", count)
    (videos / "text.mp4").write_text("no video")
    tarred(videos / "shard.tar", (videos / "0.mp4").read_bytes()[:-1] + b"\x01")
    options = [f"vae={tiny.saved_vae(place)}", f"encode.bundle={BUNDLE}", "shape.areas=[1024]", "heldout_share=0.3"]
    options += overrides
    whole, broken = place / "whole", place / "broken"
    scratch = place / "tmp"
    scratch.mkdir()
    environment = {"TMPDIR": str(scratch)}
    hits = 0
    for number, moment in enumerate(moments):
        first = number % 2 == 1  # then nobody is left to clear up
        process = started(videos, broken, *options, environment={} if first else environment)
        hits += kill(process, broken, moment, workers_first=first)
    finished(started(videos, broken, *options, environment=environment))
    finished(started(videos, whole, *options))
    assert contents(broken) == contents(whole)
    assert len(contents(whole)) == 3 + -(-count // BUNDLE)
    assert sorted(path.name for path in broken.iterdir()) == sorted(path.name for path in whole.iterdir())
    assert not [path for path in scratch.rglob("*") if path.is_file()], "no copies of a tar's members are left"
    return hits


@pytest.mark.slow
def test_killed_and_run_again_is_never_killed(tmp_path: Path) -> None:
    assert compare(tmp_path, 3, [shards(1)], "engine.workers=1", "report=false") == 1


@pytest.mark.slow
def test_killed_in_every_stage_is_never_killed(tmp_path: Path) -> None:
    rng, count = random.Random(), 12
    begin = time.monotonic() + rng.random() * 4
    stages = [lines(stage, rng.randint(1, count)) for stage in ("scan", "cut", "measure", "measure", "caption")]
    all_there = shards(count // BUNDLE)
    moments = [
        lambda out: time.monotonic() > begin,
        *stages,
        shards(1),
        half("cache"),
        shards(rng.randint(3, 5)),
        all_there,
        lambda out: half(".")(out) or (out / "manifest.parquet").exists(),
    ]
    assert compare(tmp_path, count, moments) >= len(moments) - 2
