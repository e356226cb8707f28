"""Plans of training steps: against the same steps on real tensors, and what changes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.compare import denoised
from tests.tiny import DIT, TEXT, VAE
from tests.train import tiny
from videodit.checkpoint.find import describe
from videodit.checkpoint.pretrained import Part
from videodit.checkpoint.resolve import read_family
from videodit.checkpoint.weights import Weights
from videodit.cli.main import main
from videodit.cli.typed import settings
from videodit.config import Launch
from videodit.errors import InputError
from videodit.models.build import build
from videodit.models.pack import patchify
from videodit.parallel.mesh import Mesh
from videodit.parallel.shard import forget
from videodit.plan.generation import CUDA_CONTEXT
from videodit.plan.machine import Limit, Rates
from videodit.plan.stages import Storage, step_cost
from videodit.plan.trace import Trace
from videodit.plan.training import Training, dit_step, vae_step
from videodit.shapes import LatentShape, VideoShape
from videodit.train import plan as training
from videodit.train import sketch
from videodit.train.build import prepare

ADAMW = Training(torch.float32, (), muon=False)
SPECS = {
    "dit": {"architecture": "dit", "arguments": {**DIT, "dim": 96, "ffn": 384, "layers": 4, "heads": 4}},
    "text": {"architecture": "t5", "arguments": TEXT},
}
WEIGHTS = sum(4 * p.numel() for s in SPECS.values() for p in build(s["architecture"], **s["arguments"]).parameters())
SHAPES, WORDS = [LatentShape(5, 16, 16), LatentShape(1, 16, 24)], {"text": (9, 12)}
TWICE = {name: own * 2 for name, own in WORDS.items()}


def watched(recompute: str = "nothing") -> tuple[int, float]:
    """Peak and products of the same step on tensors with values."""
    dit, text = (build(s["architecture"], **s["arguments"]) for s in (SPECS["dit"], SPECS["text"]))
    forget(dit, recompute)
    pack = patchify([torch.randn(4, s.frames, s.height, s.width) for s in SHAPES], dit.patch)
    with Trace() as trace:
        views = [p.view_as(p) for network in (dit, text) for p in network.parameters()]  # has weights be known
        weights = trace.alive
        states = text(torch.zeros(sum(WORDS["text"]), dtype=torch.long), WORDS["text"])
        out = denoised(dit, pack, torch.tensor([0.1, 0.9], dtype=torch.float64), states)
        (out - pack.tokens).square().mean().backward()
    assert weights == WEIGHTS == sum(4 * view.numel() for view in views)
    return trace.peak - weights, trace.work["matmul"]


def test_a_step_of_the_dit_is_what_really_happens() -> None:
    plan, (peak, products) = dit_step(SPECS, SHAPES, WORDS, ADAMW), watched()
    assert plan.state == plan.checkpoint == 4 * WEIGHTS, "weights, averages, and AdamW's two"
    assert plan.peak == pytest.approx(1.05 * peak, rel=0.05)
    assert plan.work["matmul"] == pytest.approx(products, rel=0.01)


def test_before_weights_are_shared_out_they_are_whole() -> None:
    """However many processes there are, each has had them all."""
    plan = dit_step(SPECS, [LatentShape(1, 2, 2)], {"text": (1,)}, replace(ADAMW, shards=64))
    assert plan.state < WEIGHTS == plan.state + plan.peak


@pytest.mark.parametrize("recompute", ["cheap", "blocks"])
def test_blocks_that_forget(recompute: str) -> None:
    """Less memory for more work, as it really is."""
    plan = dit_step(SPECS, SHAPES, WORDS, ADAMW)
    less = dit_step(SPECS, SHAPES, WORDS, replace(ADAMW, change=lambda networks: forget(networks, recompute)))
    peak, products = watched(recompute)
    assert less.state == plan.state and less.peak == pytest.approx(1.05 * peak, rel=0.05)
    assert less.peak < 0.65 * plan.peak and less.work["matmul"] == pytest.approx(products, rel=0.02)
    assert less.calls > plan.calls


def test_what_changes_it() -> None:
    plan = dit_step(SPECS, SHAPES, WORDS, ADAMW)
    assert dit_step(SPECS, SHAPES * 2, TWICE, ADAMW).peak > 1.7 * plan.peak
    half = dit_step(SPECS, SHAPES, WORDS, replace(ADAMW, precision=torch.bfloat16))
    assert half.peak < 0.95 * plan.peak and half.state == plan.state
    muon = dit_step(SPECS, SHAPES, WORDS, replace(ADAMW, muon=True))
    assert 3 / 4 * plan.state < muon.state < 0.85 * plan.state
    frozen = dit_step(SPECS, SHAPES, WORDS, replace(ADAMW, frozen=("text", "dit.blocks")))
    assert frozen.state < 0.6 * plan.state


def test_a_teacher_is_counted() -> None:
    plan, part = dit_step(SPECS, SHAPES, WORDS, ADAMW), Part(SPECS["dit"], Weights([]))
    cost = step_cost(part, SHAPES * 2, TWICE, Storage("cpu", torch.float32)).times(3)
    taught = dit_step(SPECS, SHAPES, WORDS, replace(ADAMW, accumulate=2, teacher=cost))
    alone = dit_step(SPECS, SHAPES, WORDS, replace(ADAMW, accumulate=2))
    assert taught.state - alone.state == cost.weights == sum(4 * p.numel() for p in part.skeleton.parameters())
    assert taught.peak == max(alone.peak, round(1.05 * cost.peak)) and taught.checkpoint == plan.checkpoint
    forward = plan.work["attention"] / 3.5  # the backward pass is 2.5 times as much
    assert taught.work["attention"] == pytest.approx(2 * plan.work["attention"] + 2 * 3 * 2 * forward, rel=0.05)


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
    command = tiny.VAE_COMMAND if stage == "vae" else [*tiny.COMMAND, f"vae_from={tiny.saved_vae(tmp_path)}"]
    words = ["train", *command, "workers=0", f"cache={tmp_path / 'cache'}", f"run_dir={run}"]
    assert main([*words, "plan=true"]) == 0, capsys.readouterr().err
    assert "a step: up to" in capsys.readouterr().out and not (run / "metrics.jsonl").exists()
    monkeypatch.setattr(training, "limits", lambda device: [Limit("this test", 0)])
    monkeypatch.setattr(training, "resident", lambda: 0)
    assert main(words) == 2
    assert "this test leaves 0.0" in capsys.readouterr().err and not (run / "metrics.jsonl").exists()


WAN = ["init=wan2.1-t2v-1.3b", "adapter=lora", "plan=true", "data=toy_small", "data.train.0.size=6"]


def test_a_public_models_name_needs_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The hub is not asked, and nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("the hub is asked"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = ["train", *WAN, "data.train.1.size=2", "cache=cache", "run_dir=run", "device=cuda"]
    assert main([*words, "limit=24GiB"]) == 0, capsys.readouterr().err
    told = capsys.readouterr().out
    text = sum(p.numel() for p in Part(read_family("wan2.1-t2v-1.3b")["text"], Weights([])).skeleton.parameters())
    assert f"up to {(2 * text + CUDA_CONTEXT) / 2**30:.2f} GiB before the first step" in told
    assert "it fits into the 24.0 GiB that limit leaves" in told
    assert "bf16 on cuda" in told and "a step: up to" in told and not list(tmp_path.iterdir())
    assert main([*words, "limit=24GiB", "init=Wan-AI/Wan2.1-T2V-1.3B-Diffusers"]) == 0  # its repository on the hub
    assert capsys.readouterr().out == told
    assert main([*words, "limit=4GiB"]) == 2
    assert "limit leaves 4.0" in capsys.readouterr().err
    assert main(words) == 2
    assert "say what to plan for: limit=24GiB" in capsys.readouterr().err


def test_a_sketch_is_the_step_of_the_same_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name whose numbers are those of the bundled model plans what the model's own files do."""
    monkeypatch.chdir(tmp_path)
    words = ["init=toy", "adapter=lora", "data=toy_small", "data.train.0.size=6", "data.train.1.size=2", "workers=0",
             "data.heldout.0.size=2", "samples.prompts=[]", "precision=fp32", "packs={image: 0, whole: 1}"]  # fmt: skip
    cfg = settings("train", words)
    mesh = Mesh(launch=Launch(), device=torch.device("cpu"), sizes=(1, 1, 1))
    (tmp_path / "run").mkdir()
    real = prepare(cfg, tmp_path / "run", mesh).plan()
    specs = {name: dict(part.skeleton.spec) for name, part in describe("toy")[1].items()}
    monkeypatch.setattr(sketch, "read_family", lambda name: {**specs, "defaults": {}})
    monkeypatch.setattr(sketch, "settings", lambda name, exact: {})
    found = sketch.sketched(cfg, mesh)
    assert found.plan.state == real.state and found.plan.checkpoint == real.checkpoint
    assert found.plan.peak == pytest.approx(real.peak, rel=0.1), "captions are counted by words"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["init=wan2.2-t2v-a14b"], "it has two experts"),
        (["init=ltx-video-0.9"], "its VAE has no class here"),
        (["limit=24GiB", "plan=false", "init="], "limit=24GiB: clips of each data set"),
        (["limit=24 apples"], "limit=24 apples: expected a size such as 24GiB"),
        (["limit=1.2.3GiB"], "limit=1.2.3GiB: expected a size such as 24GiB"),
        (["flow=cosine_ddpm"], "init=wan2.1-t2v-1.3b has"),
        (["model=wan2.1-t2v-1.3b", "init="], "weights are taken by init=wan2.1-t2v-1.3b"),
        (["model=runs/mine"], "weights are taken by init=runs/mine"),
    ],
)
def test_what_no_sketch_is_made_of(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {word.partition("=")[0] for word in words}
    kept = [word for word in WAN if word.partition("=")[0] not in given and ("init=" not in words or "ada" not in word)]
    assert main(["train", *kept, *words]) == 2
    assert told in capsys.readouterr().err
