"""The house knows no network by name: one as unlike the DiT as packs allow does all that the DiT does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import videodit
from tests.compare import assert_equal, denoised, distance, noise, shaken
from tests.second.house import NAME, furnish, opened
from tests.second.twin import Twin
from tests.train import tiny
from videodit.accel.step_cache import StepCache
from videodit.cli.main import main
from videodit.models.pack import Ragged, patchify
from videodit.track.jsonl import records

ARGUMENTS = {"latents": 4, "patch": [1, 2, 2], "size": 24, "early": 2, "late": 3, "groups": 2, "words": [16]}
BRIEF = "loop={{steps: {}, save_every: 2, sample_every: 4, log_every: 1}}"
MODEL = [word for word in tiny.COMMAND if not word.startswith("model")]
VIDEO = ["steps=3", "frames=5", "size=32x32", "seed=4"]


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = furnish(tmp_path_factory.mktemp("house") / "conf")
    with opened(folder):
        yield folder


@pytest.fixture(scope="module")
def command(conf: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A training's, with a VAE and latents at hand."""
    place = tmp_path_factory.mktemp("second")
    words = [*MODEL, f"model={NAME}", f"vae_from={tiny.saved_vae(place)}", f"cache={place / 'cache'}", "workers=0"]
    assert main(["encode", *[w for w in words if w.startswith(("data", "vae_from", "cache", "model", "workers"))]]) == 0
    return words


@pytest.fixture(scope="module")
def run(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps that saved after two and after four."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert main(["train", *command, BRIEF.format(4), f"run_dir={folder}"]) == 0
    return folder


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "dit.safetensors")


def test_a_pack_equals_its_clips_alone() -> None:
    """Also with a step cache that skips nothing."""
    model = shaken(Twin(**ARGUMENTS)).double()
    sizes, states = [(1, 2, 2), (2, 4, 2), (3, 4, 6)], [3, 1, 9]
    latents = [noise(4, *size, seed=i).double() for i, size in enumerate(sizes)]
    texts = [noise(n, 16, seed=9 + i).double() for i, n in enumerate(states)]
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    together = denoised(model, patchify(latents, model.patch), t, Ragged(torch.cat(texts), tuple(states)))
    alone = [
        denoised(model, patchify([x], model.patch), t[i : i + 1], Ragged(texts[i], (states[i],)))
        for i, x in enumerate(latents)
    ]
    assert together.std() > 0.05
    assert_equal(together, torch.cat(alone))
    how = {"run": StepCache(threshold=1e-9)}
    assert_equal(
        denoised(model, patchify(latents, model.patch), t, Ragged(torch.cat(texts), tuple(states)), **how), together
    )


def test_it_trains_and_makes_videos(run: Path, tmp_path: Path) -> None:
    losses = [record["loss"] for record in records(run / "metrics.jsonl") if "loss" in record]
    assert len(losses) == 4 and list((run / "samples").glob("*.mp4"))
    assert all(name.split(".")[0] != "blocks" for name in weights(run))
    assert main(["generate", "a large red ball", f"model={run}", f"out={tmp_path / 'a.mp4'}", *VIDEO]) == 0
    record = json.loads((tmp_path / "a.mp4.json").read_text())
    assert record["weights"].keys() == {"dit", "text", "vae"}


def test_it_resumes_to_the_bit(run: Path, command: list[str], tmp_path: Path) -> None:
    for steps in (2, 4):
        assert main(["train", *command, BRIEF.format(steps), f"run_dir={tmp_path}"]) == 0
    ours, theirs = weights(tmp_path), weights(run)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_networks_that_come_and_go_make_the_same_video(run: Path) -> None:
    clips = {}
    for offload in ("none", "model", "block"):
        pipe = videodit.load(str(run), device="cpu", offload=offload)
        clips[offload] = pipe("a small blue ball", steps=3, frames=5, size="32x32", seed=1).clip
    assert torch.equal(clips["none"], clips["model"])
    assert_equal(clips["none"], clips["block"])


def test_it_takes_a_lora(run: Path, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of its own matrices, as a run and as a file."""
    words = [word for word in command if not word.startswith(("model", "text", "vae", "area"))]
    lora = ["adapter=lora", "adapter.rank=2", "adapter.alpha=2", f"init={run}"]
    adapted, targets = tmp_path / "adapted", "adapter.targets=[mixer.qkv,think.0]"
    assert main(["train", *words, *lora, "adapter.targets=[attention.q]", BRIEF.format(2), f"run_dir={adapted}"]) == 2
    assert "they are some of mixer.qkv, mixer.join, think.0, think.2" in capsys.readouterr().err
    assert main(["train", *words, *lora, targets, BRIEF.format(2), f"run_dir={adapted}"]) == 0
    keys = load_file(adapted / "model" / "adapter.safetensors").keys()
    assert {key.split(".")[1] for key in keys} == {"opening", "closing"} and len(keys) == 2 * (2 + 2 * 3)
    clips = [
        videodit.load(str(run), device="cpu", lora=lora)("a ball", steps=2, frames=5, size="32x32").clip
        for lora in (None, adapted / "model" / "adapter.safetensors")
    ]
    assert distance(*clips) > 0


def test_it_is_planned(run: Path, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Both stacks count."""
    assert main(["plan", "a ball", f"model={run}", "device=cpu", "size=32x32", "frames=5"]) == 0
    assert "denoise" in capsys.readouterr().out
    peaks = []
    for depth in ([], ["model.early=200"], ["model.late=200"]):
        assert main(["train", *command, "model.size=256", *depth, "plan=true", "run_dir=never"]) == 0
        peaks.append(float(capsys.readouterr().out.split("optimizer ")[1].split(" GiB")[0]))
    assert peaks[1] > peaks[0] and peaks[2] > peaks[1]


def test_it_is_exported(run: Path, tmp_path: Path) -> None:
    assert main(["export", f"model={run}", f"out={tmp_path / 'model'}"]) == 0
    again = load_file(tmp_path / "model" / "dit.safetensors")
    assert all(torch.equal(again[name], value) for name, value in weights(run).items())


@pytest.mark.slow
@pytest.mark.parametrize("axes", ["parallel=fsdp", "parallel=fsdp_cp"])
def test_two_processes_are_one(axes: str, run: Path, conf: Path, command: list[str], tmp_path: Path) -> None:
    """Its weights shared out, and the tokens of its packs with them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["train", *command, BRIEF.format(4), f"run_dir={tmp_path}", axes]
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.second.house", str(conf), *words],
            env={
                **os.environ,
                "RANK": str(rank),
                "WORLD_SIZE": "2",
                "LOCAL_RANK": str(rank),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
            },
        )  # fmt: skip
        for rank in range(2)
    ]
    assert [process.wait(300) for process in both] == [0, 0]
    ours, theirs = weights(tmp_path), weights(run)
    for name in theirs:
        assert_equal(ours[name], theirs[name], tolerance=1e-3)
