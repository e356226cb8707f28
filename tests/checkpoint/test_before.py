"""What an earlier version wrote opens, and is what it was: a run, an adapter, a recorded video, a set.

The files, and how they were made: tests/fixtures/before. Another machine may round otherwise: numbers within 1e-4.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import videodit
from tests.checkpoint import before
from tests.compare import assert_equal, distance

EXPECTED = json.loads((before.FOLDER / before.EXPECTED).read_text())
TOLERANCE = 1e-4


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files, which may change, as the folder where commands run."""
    shutil.copytree(before.FOLDER, tmp_path / "before")
    monkeypatch.chdir(tmp_path / "before")
    return tmp_path / "before"


def assert_expected(found: float | list[float], name: str) -> None:
    """Within rounding what the version found that wrote the files."""
    assert_equal(torch.tensor(found), torch.tensor(EXPECTED[name]), tolerance=TOLERANCE)


def frames(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]).astype(int)


def test_a_run_goes_on(opened: Path) -> None:
    """With its weights, and with its optimizers' state: its next step changes each weight as it did then."""
    loss, changes = before.resumed(opened)
    assert_expected(loss, "loss")
    assert changes.keys() == EXPECTED["changes"].keys()
    for name, expected in EXPECTED["changes"].items():
        # Muon multiplies in bfloat16 on some machines, in float32 on others: up to 0.1. Without its momentum: 0.35.
        ours, theirs = torch.tensor(changes[name]), torch.tensor(expected)
        assert (ours - theirs).norm() <= 0.2 * theirs.norm() + 1e-5, name
    assert before.clip(opened).isfinite().all(), "its new weights are a model too"


def test_an_adapter_changes_the_video(opened: Path) -> None:
    found = before.videos(opened)
    for name, values in found.items():
        assert_expected(values, name)
    plain, whole = (torch.tensor(found[name]) for name in ("video", "video with the adapter"))
    assert (plain - whole).abs().max() > 100 * TOLERANCE
    with_file = before.clip(opened, lora="adapter/adapter.safetensors")
    model = videodit.load("adapter/model", device="cpu", base="run")  # where the base was, nothing is now
    assert torch.equal(model(before.PROMPT, **before.REQUEST).clip, with_file)


@pytest.mark.parametrize(
    "pair",
    [
        ("dit", "blocks.0.attention.q.weight", "blocks.0.attention.k.weight"),
        (
            "text",
            "encoder.block.0.layer.1.DenseReluDense.wi_0.weight",
            "encoder.block.0.layer.1.DenseReluDense.wi_1.weight",
        ),
        ("vae", "decoder.levels.0.blocks.0.conv1.weight", "decoder.levels.0.blocks.0.conv2.weight"),
    ],
    ids=lambda pair: pair[0],
)
def test_weights_read_in_wrong_places_would_show(opened: Path, pair: tuple[str, str, str]) -> None:
    part, one, other = pair
    path = opened / "run" / "model" / f"{part}.safetensors"
    with safe_open(path, "pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    save_file({**tensors, one: tensors[other], other: tensors[one]}, path, header)
    found = torch.tensor(before.spread(before.clip(opened)))
    assert distance(found, torch.tensor(EXPECTED["video"])) > 5 * TOLERANCE


def test_a_recorded_video_is_made_again(opened: Path) -> None:
    before.run(opened, "generate", "recipe=recipe/ball.mp4", "model=run", "out=again/")
    made, kept = frames(opened / "again"), frames(opened / "recipe" / "frames")
    assert made.shape == kept.shape == (5, 32, 32, 3) and kept.std() > 20
    assert np.abs(made - kept).max() <= 1


def test_a_set_trains(opened: Path) -> None:
    """With its own latents and text states: neither is made again, and its videos are not needed."""
    shutil.rmtree(opened / "clips")
    kept = sorted(path.name for path in (opened / "set" / "cache").rglob("*"))
    assert_expected(before.first_loss_on_the_set(opened), "loss on the set")
    assert sorted(path.name for path in (opened / "set" / "cache").rglob("*")) == kept


def test_latents_of_a_set_are_those_of_its_videos(opened: Path) -> None:
    """Made again from them, under the same names."""
    before.run(opened, *before.ADAPTER, before.loop(1), "run_dir=again", "cache=again/cache", "data.sources=clips")
    for folder in (Path("cache"), Path("cache/text")):
        ours, theirs = before.whole(opened / "again" / folder), before.whole(opened / "set" / folder)
        assert ours.keys() == theirs.keys() and len(theirs) >= 1
        for name, value in theirs.items():
            assert_equal(ours[name].float(), value.float(), tolerance=2e-3)  # half precision, of decoded video
