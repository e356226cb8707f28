"""Training and sampling on a GPU: what a CPU does, within the rounding of half precision."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.train import tiny
from videodit.cli.main import main
from videodit.track.jsonl import records

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
LOOP = "loop={steps: 12, save_every: 6, sample_every: 12, log_every: 1}"


def _losses(folder: Path, *overrides: str) -> np.ndarray:
    """Of a run of 12 steps."""
    shared = [f"vae_from={tiny.saved_vae(folder.parent)}", f"cache={folder.parent / 'cache'}", "workers=1", LOOP]
    assert main(["train", *tiny.COMMAND, *shared, f"run_dir={folder}", *overrides]) == 0
    assert len(list((folder / "samples").glob("*.mp4"))) == 1
    return np.array([one["loss"] for one in records(folder / "metrics.jsonl") if "loss" in one])


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["precision=bf16"],
        ["precision=bf16", "model.time=in_context", "model.norm=rms", "model.qk_norm=head"],
        ["precision=bf16", "parallel.recompute=blocks"],
        ["precision=bf16", "parallel.recompute=cheap"],
        ["precision=bf16", "parallel.compile=true"],
        ["precision=bf16", "optim=adamw"],
    ],
    ids=" ".join,
)
def test_a_dit_trains_as_on_a_cpu(tmp_path: Path, overrides: list[str]) -> None:
    same = [one for one in overrides if not one.startswith(("precision", "parallel"))]
    there, here = _losses(tmp_path / "gpu", "device=cuda", *overrides), _losses(tmp_path / "cpu", "device=cpu", *same)
    assert np.isfinite(there).all()
    np.testing.assert_allclose(there, here, rtol=0.05 if "precision=bf16" in overrides else 0.005)


def test_a_vae_trains_as_on_a_cpu(tmp_path: Path) -> None:
    given = ["train", *tiny.VAE_COMMAND, LOOP, "workers=1", "crops.pixels=65536"]
    ends = []
    for device, precision in (("cpu", "fp32"), ("cuda", "bf16")):
        folder = tmp_path / device
        assert main([*given, f"device={device}", f"precision={precision}", f"run_dir={folder}"]) == 0
        ends.append([one["loss"] for one in records(folder / "metrics.jsonl") if "loss" in one])
    np.testing.assert_allclose(*ends, rtol=0.1)


def test_a_run_goes_on(tmp_path: Path) -> None:
    """From a checkpoint in the middle, with losses as they were, within what a GPU's order of sums changes."""
    whole = _losses(tmp_path / "whole", "device=cuda", "precision=bf16", "keep=9")
    shutil.rmtree(tmp_path / "whole" / "checkpoints" / "step-000000012")
    again = _losses(tmp_path / "whole", "device=cuda", "precision=bf16", "keep=9")
    np.testing.assert_allclose(again[-6:], whole[-6:], rtol=0.02)
