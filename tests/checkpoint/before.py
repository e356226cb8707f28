"""The commands that made tests/fixtures/before, which an earlier version wrote, and numbers that come of opening it.

The words of the commands are those of that version and stay: what they made must open with them for ever.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

import videodit
from videodit.cli.main import main

FOLDER = Path(__file__).parents[1] / "fixtures" / "before"
EXPECTED = "expected.json"
PROMPT = "a large red ball rolls right on a gray ground"
REQUEST = {"size": "32x32", "frames": 5, "steps": 2, "seed": 1, "guidance": 3.0}
STEPS = 4  # that the runs have behind them

_CLIPS = [
    *("data=toy_small", "data.train.0.size=12", "data.train.1.size=4", "data.heldout.0.size=2"),
    *("precision=fp32", "workers=0", "ema=0.5", "optim.warmup=1"),
]
_SHAPES = ["request.height=32", "request.width=32", "request.frames=5", "request.steps=1", "samples.prompts=[]"]
VAE = [
    *("train", "stage=vae", *_CLIPS, "optim=adamw", "crops.pixels=18432", "crops.per_clip=1", "run_dir=vae"),
    "crops.crops=[{_target_: videodit.data.batches.Crop, frames: 9, height: 32, width: 32, weight: 1.0}]",
    *(
        "vae=tiny",
        "vae.latent_channels=4",
        "vae.base=2",
        "vae.decoder_base=2",
        "vae.multipliers=[1,1,1]",
        "vae.linear=false",
    ),
]
DIT = [
    *(
        "train",
        *_CLIPS,
        *_SHAPES,
        "vae_from=vae.safetensors",
        "cache=cache",
        "run_dir=run",
        "packs.tokens=48",
        "area=[1024,1536]",
    ),
    *("vae.latent_channels=4", "model=tiny", "model.dim=12", "model.layers=1", "model.ffn=16"),
    *("model.frequency_dim=8", "text=tiny", "text.dim=8", "text.head_dim=4", "text.ffn=16", "text.vocabulary=96"),
    *("optim.make.lr=0.05", "optim.make.muon_lr=0.05"),  # so that no weight is what it began as
]
ADAPTER = [
    *("train", "data=set", "data.root=set", "init=run", "adapter=lora", "adapter.rank=2", "adapter.alpha=4"),
    *("optim.make.lr=0.05", "optim.warmup=1", "precision=fp32", "workers=0", "ema=0.5", *_SHAPES),
    "packs={tokens: 48, image: 0, whole: 1}",
]
INGEST = [
    *(
        "ingest",
        "clips",
        "out=set",
        "vae=vae.safetensors",
        "text=run",
        "report=false",
        "shape.frames=5",
        "shape.areas=[1024]",
    ),
    *("heldout_share=0.3", "engine.workers=1"),
]
GENERATE = [
    "generate",
    PROMPT,
    "model=run",
    "out=recipe/ball.mp4",
    *(f"{key}={value}" for key, value in REQUEST.items()),
]


def run(folder: Path, *words: str) -> None:
    """A command, in a folder."""
    with contextlib.chdir(folder):
        assert main(list(words)) == 0, words


def loop(steps: int) -> str:
    """How long a run is."""
    return f"loop={{steps: {steps}, save_every: {steps}, sample_every: 1000, log_every: 1}}"


def resumed(folder: Path) -> tuple[float, dict[str, list[float]]]:
    """Take the run a step further -> the loss of that step, and by the weight's name some of how it changed."""
    run(folder, *DIT, loop(STEPS + 1))
    losses = {one["step"]: one["loss"] for one in records(folder / "run") if "loss" in one}
    assert list(losses) == [*range(1, STEPS + 2)], "it began anew"
    before, after = (whole(folder / "run" / "checkpoints" / f"step-{step:09d}") for step in (STEPS, STEPS + 1))
    changes = {name: spread(after[name] - value, 4) for name, value in before.items() if name.startswith("model/")}
    return losses[STEPS + 1], changes


def clip(folder: Path, **how: object) -> Tensor:
    """The video of REQUEST by the run's model: (3,T,H,W)."""
    with contextlib.chdir(folder):
        return videodit.load("run", device="cpu", **how)(PROMPT, **REQUEST).clip


def videos(folder: Path) -> dict[str, list[float]]:
    """Some values of videos: without the adapter, with its file, with half of it."""
    file = "adapter/adapter.safetensors"
    return {
        "video": spread(clip(folder)),
        "video with the adapter": spread(clip(folder, lora=file)),
        "video with half of it": spread(clip(folder, lora=f"{file}:0.5")),
    }


def first_loss_on_the_set(folder: Path) -> float:
    """Of a new adapter, trained one step on the set."""
    run(folder, *ADAPTER, loop(1), "run_dir=again")
    [loss] = [one["loss"] for one in records(folder / "again") if "loss" in one]
    return loss


def records(run_folder: Path) -> list[dict[str, float]]:
    """What a run recorded."""
    return [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]


def whole(folder: Path) -> dict[str, Tensor]:
    """All tensors in a folder's safetensors files."""
    return {name: value for path in sorted(folder.glob("*.safetensors")) for name, value in load_file(path).items()}


def spread(values: Tensor, count: int = 24) -> list[float]:
    """So many values, spread evenly over a tensor."""
    places = torch.linspace(0, values.numel() - 1, min(count, values.numel())).long()
    return [round(value, 6) for value in values.flatten()[places].double().tolist()]
