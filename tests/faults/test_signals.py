"""Told to stop by SIGTERM, a command clears up, keeps what it has, and says whether it can go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny import CAPTIONS, tiny_pipeline
from tests.train import tiny
from videodit.checkpoint.latents import LatentCache

PATIENCE = 300  # seconds: other tests may have the cores
pytestmark = pytest.mark.slow


def stopped(place: Path, ready: Callable[[str], bool], *words: str) -> tuple[int, str]:
    """Start a command in a folder, send SIGTERM when what it said is `ready` -> its exit code and what it said."""
    log = place / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "videodit", *words],
            cwd=place,
            stdout=out,
            stderr=out,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        )
    until = time.monotonic() + PATIENCE
    try:
        while not ready(log.read_text()):
            assert process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        code = process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text() and not list(place.rglob("*.part")), log.read_text()
    return code, log.read_text()


def test_an_encoding_keeps_what_is_encoded(tmp_path: Path) -> None:
    clips = [word for word in tiny.COMMAND if word.startswith("data=")]
    clips += ["data.train.0.size=3000", "data.train.1.size=1", "data.heldout.0.size=1"]
    words = ["encode", *clips, f"vae_from={tiny.saved_vae(tmp_path)}", "cache=cache", "workers=0"]
    begun: list[float] = []

    def busy(log: str) -> bool:
        begun.extend([time.monotonic()] * ("encode  step" in log and not begun))
        return bool(begun) and time.monotonic() > begun[0] + 1

    code, said = stopped(tmp_path, busy, *words)
    assert code == 75 and "the same command goes on from there" in said
    kept = len(LatentCache(tmp_path / "cache"))
    assert 0 < kept < 3000
    _, said = stopped(tmp_path, lambda log: f"/{3000 - kept}" in log, *words)
    assert len(LatentCache(tmp_path / "cache")) >= kept and f"/{3000 - kept}" in said, "it does the rest"


def test_a_training_that_has_not_begun_can_go_on(tmp_path: Path) -> None:
    words = ["train", *tiny.COMMAND, f"vae_from={tiny.saved_vae(tmp_path)}", "cache=cache", "run_dir=run", "workers=0"]
    code, said = stopped(tmp_path, lambda log: "encode  step" in log, *words)
    assert code == 75 and "stopped" in said


def test_a_generation_leaves_nothing_half_written(tmp_path: Path) -> None:
    tiny_pipeline(tmp_path / "m")
    words = ["generate", CAPTIONS[0], "model=m", "out=o.mp4", "steps=3000"]
    code, said = stopped(tmp_path, lambda log: "denoise  step" in log, *words)
    assert code == 75 and "the same command makes what is missing" in said and not (tmp_path / "o.mp4").exists()
