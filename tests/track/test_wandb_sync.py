"""What `wandb sync` brings to a server of an offline run: the numbers, the video's bytes, and our own steps."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.track.wandb_server import Backend
from videodit.data.video import write

# A run of eight steps, stopped at five after a checkpoint at three and resumed, as `videodit train` uses the tracker.
OFFLINE = """
import math, sys
from videodit.track.wandb import Wandb
for first, last in ((0, 5), (3, 8)):
    with Wandb(folder=".", project="demo", name="first", group="", mode="offline") as tracker:
        tracker.start({"model": {"dim": 64}}, first)
        for step in range(first + 1, last + 1):
            tracker.scalars(step, {"loss": math.exp(-step / 5), "lr/adamw": 1e-3})
        tracker.video(last, "sample 0", "clip.mp4", "a red ball rolls left")
        tracker.table(last, "samples/prompts", ["prompt", "file"], [["a red ball rolls left", "clip.mp4"]])
"""


def test_a_synced_run_has_its_numbers_its_video_and_its_steps(tmp_path: Path, checkout: Path) -> None:
    """Also where it was resumed. wandb's exit code says nothing: what counts is what the server holds."""
    frames = np.zeros((9, 64, 64, 3), np.uint8)
    frames[:, :, 20:40] = 250
    write(tmp_path / "clip.mp4", frames, 8.0)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    clean |= {f"WANDB_{kind}_DIR": str(tmp_path / "home") for kind in ("CONFIG", "CACHE", "DATA")}
    clean |= {"WANDB_DIR": str(tmp_path), "WANDB_ERROR_REPORTING": "false", "PYTHONPATH": str(checkout)}
    quiet = {"cwd": tmp_path, "timeout": 60, "stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    subprocess.run([sys.executable, "-c", OFFLINE], env=clean, check=True, **quiet)
    sessions = sorted((tmp_path / "wandb").glob("offline-run-*"))  # their names begin with the time
    assert len(sessions) == 2
    with Backend() as backend:
        for session in sessions:
            command = [Path(sys.executable).with_name("wandb"), "sync", str(session)]
            done = subprocess.run(command, env=clean | backend.environment(), **quiet)
            told = done.stdout + done.stderr
        assert not backend.unknown, told
    (run,) = backend.runs.values()
    assert run.project == "demo" and run.name == "first" and run.complete, told
    assert run.config["model"] == {"value": {"dim": 64}}
    losses = [(row["step"], row["loss"]) for row in run.history if "loss" in row]
    assert losses == [(step, math.exp(-step / 5)) for step in (1, 2, 3, 4, 5, 4, 5, 6, 7, 8)]
    assert all(row["step"] == 5 or row["step"] == 8 for row in run.history if "sample 0" in row)
    videos = [row["sample 0"] for row in run.history if "sample 0" in row]
    assert len(videos) == 2 and videos[0]["caption"] == "a red ball rolls left"
    for video in videos:
        assert run.files[video["path"]] == (tmp_path / "clip.mp4").read_bytes()
    tables = [row["samples/prompts"]["path"] for row in run.history if "samples/prompts" in row]
    assert all(b"a red ball rolls left" in run.files[path] for path in tables) and len(tables) == 2
    axis, every = run.config["_wandb"]["value"]["m"]  # wandb's record of define_metric: "5" is the axis, from 1
    assert axis["1"] == "step" and (every["2"], every["5"]) == ("*", 1)
