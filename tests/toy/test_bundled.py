"""The weights that ship: what `videodit generate` makes shows what was asked, as the shipped judge reads it."""

from __future__ import annotations

import pytest
import torch

from videodit.cli.evaluate import held_out_losses, load_judge
from videodit.config import assets_dir
from videodit.eval.protocol import PROMPTS_SEED, Ask, Benchmark, follow
from videodit.eval.report import reconstruction
from videodit.generate import Pipe, load
from videodit.shapes import VideoShape

CLIP = VideoShape(17, 64, 64)
SMALL = VideoShape(5, 48, 48)  # some CPUs are many times as slow in half precision


@pytest.fixture(scope="module")
def pipe() -> Pipe:
    return load()


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    return load_judge(assets_dir() / "judge.safetensors")


@pytest.mark.parametrize("kind", ["ordinary", "composition"])
def test_prompts_are_followed(pipe: Pipe, benchmark: Benchmark, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quick look at what `videodit evaluate` measures: most of a few clips show every attribute asked for."""
    monkeypatch.setattr("videodit.eval.protocol.REFERENCES", 50)
    section, shown = follow(pipe, benchmark, kind, CLIP, Ask(12, 0, 12, {"steps": 12}, lambda done, total: None))
    assert section["accuracy"]["all"] >= 0.6, [one.wrong for one in shown]
    assert section["ceiling"]["all"] >= 0.9
    assert section["floor"]["all"] <= 0.3


def test_the_vae_restores_clips_that_it_never_saw(pipe: Pipe, benchmark: Benchmark) -> None:
    how = {"count": 8, "seed": PROMPTS_SEED + 5000, "batch": 8, "device": "cpu"}
    row = reconstruction(pipe.parts.vae, benchmark, [CLIP], **how)[str(CLIP)]
    assert row["psnr"] >= 30
    assert row["ssim"] >= 0.9


def test_half_precision_is_measured_too(pipe: Pipe, benchmark: Benchmark) -> None:
    """It is what GPUs compute in."""
    half = load(dtype=torch.bfloat16)
    how = {"count": 2, "seed": PROMPTS_SEED + 5000, "batch": 2, "device": "cpu"}
    wide, narrow = (reconstruction(one.parts.vae, benchmark, [SMALL], **how)[str(SMALL)] for one in (pipe, half))
    assert narrow["psnr"] == pytest.approx(wide["psnr"], abs=0.5)
    (times, losses), (_, others) = (held_out_losses(one, benchmark, 4, 2) for one in (half, pipe))
    assert len(times) == 4
    torch.testing.assert_close(losses, others, rtol=0.1, atol=0.01)


def test_a_known_prompt_has_no_unknown_words(pipe: Pipe) -> None:
    assert not pipe.parts.tokenizers["text"].unknown_words("a large red ball rolls right on a gray ground")
    assert torch.isfinite(pipe("a small blue cube spins on a white ground", steps=2, frames=1).clip).all()
