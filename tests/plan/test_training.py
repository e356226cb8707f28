"""Plans of training steps: against the same steps on real tensors, and what changes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.tiny import DIT, TEXT, VAE
from tests.train import tiny
from videodit.cli import train
from videodit.cli.main import main
from videodit.errors import InputError
from videodit.models.build import build
from videodit.models.pack import patchify
from videodit.plan.machine import Limit, Rates
from videodit.plan.trace import Trace
from videodit.plan.training import Training, dit_step, vae_step
from videodit.shapes import LatentShape, VideoShape

ADAMW = Training(torch.float32, (), muon=False)
SPECS = {
    "dit": {"architecture": "dit", "arguments": {**DIT, "dim": 96, "ffn": 384, "layers": 4, "heads": 4}},
    "text": {"architecture": "t5", "arguments": TEXT},
}
SHAPES, WORDS = [LatentShape(5, 16, 16), LatentShape(1, 16, 24)], (9, 12)


def test_a_step_of_the_dit_is_what_really_happens() -> None:
    """The same step on tensors with values, watched."""
    plan = dit_step(SPECS, SHAPES, WORDS, ADAMW)
    dit, text = (build(s["architecture"], **s["arguments"]) for s in (SPECS["dit"], SPECS["text"]))
    pack = patchify([torch.randn(4, s.frames, s.height, s.width) for s in SHAPES], dit.patch)
    with Trace() as trace:
        states = text(torch.zeros(sum(WORDS), dtype=torch.long), WORDS)
        out = dit(pack, torch.full((2,), 0.5, dtype=torch.float64), states)
        (out - pack.tokens).square().mean().backward()
    weights = sum(4 * p.numel() for network in (dit, text) for p in network.parameters())
    assert plan.state == plan.checkpoint == 4 * weights, "weights, averages, and AdamW's two"
    assert plan.peak == pytest.approx(1.05 * trace.peak, rel=0.1)
    assert plan.work["matmul"] == pytest.approx(trace.work["matmul"], rel=0.01)


def test_what_changes_it() -> None:
    plan = dit_step(SPECS, SHAPES, WORDS, ADAMW)
    assert dit_step(SPECS, SHAPES * 2, WORDS * 2, ADAMW).peak > 1.7 * plan.peak
    half = dit_step(SPECS, SHAPES, WORDS, replace(ADAMW, precision=torch.bfloat16))
    assert half.peak < 0.95 * plan.peak and half.state == plan.state
    muon = dit_step(SPECS, SHAPES, WORDS, replace(ADAMW, muon=True))
    assert 3 / 4 * plan.state < muon.state < 0.85 * plan.state
    frozen = dit_step(SPECS, SHAPES, WORDS, replace(ADAMW, frozen=("text", "dit.blocks")))
    assert frozen.state < 0.6 * plan.state


def test_a_step_of_the_vae() -> None:
    spec = {"architecture": "video_vae", "arguments": VAE}
    crops = [(4, VideoShape(1, 32, 32)), (2, VideoShape(9, 32, 32))]
    plan = vae_step(spec, crops, ADAMW)
    assert plan.peak == vae_step(spec, crops[1:], ADAMW).peak > vae_step(spec, crops[:1], ADAMW).peak
    frozen = vae_step(spec, crops, replace(ADAMW, frozen=("encoder",)))
    assert frozen.state < plan.state and frozen.peak < plan.peak
    rates = Rates(matmul=1e9, conv=1e9, winograd=1e9, attention=1e9, bytes=1e9, call=0.0)
    assert "a step: up to" in plan.line(0, rates) and " s; weights" in plan.line(0, rates)
    plan.check(0, Limit("x", plan.state + plan.peak))
    with pytest.raises(InputError, match=r"needs .* GiB, .* x leaves"):
        plan.check(1, Limit("x", plan.state + plan.peak))


@pytest.mark.parametrize("stage", ["dit", "vae"])
def test_the_command(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = ["train", *tiny.COMMAND, f"stage={stage}", f"vae_from={tiny.saved_vae(tmp_path)}", "workers=0"]
    words += [f"cache={tmp_path / 'cache'}", f"run_dir={run}"]
    assert main([*words, "plan=true"]) == 0, capsys.readouterr().err
    assert "a step: up to" in capsys.readouterr().out and not (run / "metrics.jsonl").exists()
    monkeypatch.setattr(train, "limits", lambda device: [Limit("this test", 0)])
    monkeypatch.setattr(train, "resident", lambda: 0)
    assert main(words) == 2
    assert "this test leaves 0.0" in capsys.readouterr().err and not (run / "metrics.jsonl").exists()
