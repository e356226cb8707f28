"""Plans: what they say, when they refuse, what they choose, and that nothing is read for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import videodit
from tests.parity import pipelines
from tests.parity.pipelines import WORDS
from tests.tiny import TEXT
from videodit.checkpoint.find import open_pipeline, sketch_pipeline
from videodit.checkpoint.pretrained import Part
from videodit.checkpoint.weights import Weights
from videodit.cli.main import main
from videodit.decode import Way
from videodit.errors import InputError
from videodit.generate import Pipe, admission
from videodit.generate.admission import admit, job_of
from videodit.plan import generation
from videodit.plan.generation import Job, Planner, Setup
from videodit.plan.machine import GIB, Limit, limits
from videodit.plan.stages import Cost, Storage, by_blocks, text_cost, trace_network
from videodit.plan.trace import Trace
from videodit.shapes import LatentShape

SHAPE = LatentShape(5, 30, 52)


def planner(free: float, *, name: str = "wan2.1-t2v-1.3b", device: str = "cuda") -> Planner:
    parts = sketch_pipeline(name, device=device, dtype=torch.bfloat16)
    return Planner(parts, Limit("a test", round(free * GIB)), base=GIB)


JOB = Job(shapes=(SHAPE,), prompts={"text": (22,)}, negatives={"text": (1,)}, calls=50, guided=True)
SETUP = Setup("none", torch.bfloat16, Way(4))


def test_stages_add_up() -> None:
    """Weights are those of the published sizes; with offload only one network is there at a time."""
    plan = planner(100).plan(JOB, SETUP)
    text, denoise, decode = plan.stages
    assert [stage.name for stage in plan.stages] == ["text", "denoise", "decode"]
    assert text.memory == pytest.approx(GIB + 2 * 5.68e9, rel=0.01)
    assert denoise.memory - text.memory == pytest.approx(2 * 1.42e9, rel=0.25)
    alone = planner(100).plan(JOB, replace(SETUP, offload="model")).stages
    assert alone[0].memory == text.memory and alone[1].memory < denoise.memory - 2 * 5.6e9
    blocks = planner(100).plan(JOB, replace(SETUP, offload="block")).stages
    assert blocks[0].memory < alone[0].memory / 3 and blocks[1].memory < alone[1].memory


def test_more_frames_and_whole_decoding_need_more() -> None:
    small = planner(100).plan(JOB, SETUP).stages
    large = planner(100).plan(replace(JOB, shapes=(replace(SHAPE, frames=21),)), SETUP).stages
    assert large[1].memory > small[1].memory and large[0].memory == small[0].memory
    assert large[2].memory < small[2].memory + GIB / 2, "chunks of a longer clip need no more"
    whole = planner(100).plan(JOB, replace(SETUP, way=Way(0))).stages
    assert whole[2].memory > small[2].memory
    single = planner(100).plan(replace(JOB, guided=False), SETUP).stages
    assert single[1].memory < small[1].memory


def test_two_experts_are_both_there_without_offload() -> None:
    one, two = (planner(200, name=name).plan(JOB, SETUP).stages[1] for name in ("wan2.1-t2v-14b", "wan2.2-t2v-a14b"))
    assert two.memory - one.memory == pytest.approx(2 * 14.3e9, rel=0.02)


def test_choosing_and_refusing() -> None:
    assert planner(100).choose(JOB, SETUP).setup == SETUP
    chosen = planner(13).choose(JOB, SETUP)
    assert chosen.fits and chosen.setup.offload == "model"
    assert planner(7).choose(JOB, SETUP).setup.offload == "block"
    with pytest.raises(InputError, match=r"needs .* GiB, a test leaves 6.0; what would fit: .*frames=\d+"):
        planner(6).choose(replace(JOB, shapes=(LatentShape(121, 90, 160),)), SETUP)
    with pytest.raises(InputError, match="nothing that could be given up would help"):
        planner(0.5).choose(JOB, SETUP)


def test_text_is_counted_as_a_trace_would() -> None:
    """Without a library that takes seconds to load; for T5 and umT5, in every type."""
    for per_layer, dtype, int8 in ((False, torch.float32, False), (True, torch.bfloat16, False)):
        arguments = {**TEXT, "dim": 64, "ffn": 160, "layers": 3, "bias_per_layer": per_layer}
        part = Part({"architecture": "t5", "arguments": arguments}, Weights([]))
        lengths, storage = (30, 9, 120), Storage("cpu", dtype, int8)

        def run(model: nn.Module, trace: Trace, at: torch.device) -> None:
            model(torch.zeros(sum(lengths), dtype=torch.long, device=at), lengths)  # noqa: B023 - called at once

        def trace(spec: Any) -> Cost:
            return trace_network(spec, run, storage)  # noqa: B023 - called at once

        counted, traced = text_cost(part, lengths, storage), by_blocks(part.spec, trace)
        assert (counted.weights, counted.block) == (traced.weights, traced.block)
        assert counted.work["matmul"] == pytest.approx(traced.work["matmul"], rel=0.01)
        assert traced.peak / 2 < counted.peak < 2 * traced.peak


def test_what_was_traced_once_is_not_traced_again(monkeypatch: pytest.MonkeyPatch) -> None:
    one = planner(100)
    first = one.plan(JOB, SETUP)

    def trace(*_: object) -> None:
        raise AssertionError("it was traced again")

    monkeypatch.setattr(generation, "step_cost", trace)
    monkeypatch.setattr(generation, "decode_cost", trace)
    assert one.plan(JOB, SETUP) == first
    assert one.plan(JOB, replace(SETUP, offload="block")).peak.memory < first.peak.memory
    for other in (replace(SETUP, dtype=torch.float16), replace(SETUP, way=Way(1)), replace(SETUP, passes=2)):
        with pytest.raises(AssertionError, match="traced again"):
            one.plan(JOB, other)


@pytest.mark.parametrize("name", ["toy", "wan2.1-t2v-1.3b", "wan2.2-ti2v-5b", "wan2.2-t2v-a14b"])
@pytest.mark.parametrize("shape", [LatentShape(1, 16, 16), LatentShape(2, 16, 16), LatentShape(5, 16, 24)], ids=str)
@pytest.mark.parametrize("way", [Way(0), Way(4), Way(1), Way(1, 8)], ids=str)
def test_no_stage_exceeds_what_a_job_takes_at_most(name: str, shape: LatentShape, way: Way) -> None:
    parts = open_pipeline(name, device="cpu", dtype=None) if name == "toy" else None
    parts = parts or sketch_pipeline(name, device="cpu", dtype=torch.float32)
    job, setup = Job((shape,), {"text": (20,)}, {"text": (1,)}, 5, guided=True), Setup("none", torch.float32, way)
    one = Planner(parts, Limit("a test", GIB), base=GIB)
    assert one.at_most(job, setup) >= one.plan(job, setup).peak.memory


def test_a_small_job_is_not_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = planner(100), planner(30)
    monkeypatch.setattr(generation, "step_cost", lambda *_: pytest.fail("traced"))
    small.check(JOB, SETUP)
    with pytest.raises(pytest.fail.Exception, match="traced"):
        large.check(JOB, SETUP)


def test_limits_of_this_machine() -> None:
    found = limits(torch.device("cpu"))
    assert found and all(limit.free > 0 for limit in found)
    assert [limit.free for limit in found] == sorted(limit.free for limit in found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    pipelines.pipeline("2.1", folder)
    return folder


def test_generate_refuses_before_anything_is_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read(self: Weights, name: str) -> None:
        raise AssertionError("a weight was read")

    monkeypatch.setattr(Weights, "read", read)
    monkeypatch.setattr(admission, "limits", lambda device: [Limit("this test", 2**20)])
    out = f"out={tmp_path / 'x.mp4'}"
    words = ["generate", WORDS[0], f"model={folder}", out, "size=832x480", "frames=81", "steps=2"]
    assert main(words) == 2
    assert "this test leaves" in capsys.readouterr().err
    assert main([*words, "memory=perhaps"]) == 2
    assert main([*words, "memory=auto"]) == 2
    assert "this test leaves" in capsys.readouterr().err


def test_auto_changes_the_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit below what the first choice needs and above what a smaller chunk does."""
    pipe = videodit.load(str(folder), device="cpu")
    request = pipe.request(WORDS[0], frames=81, height=256, width=256, fps=16.0)
    job = job_of(pipe, [request])
    planner = Planner(pipe.parts, Limit("x", 0), base=0)
    plans = {chunk: planner.plan(job, Setup("none", pipe.parts.dtype, Way(chunk))) for chunk in (4, 1)}
    between = (plans[4].peak.memory + plans[1].peak.memory) // 2
    assert plans[1].peak.memory < between
    monkeypatch.setattr(admission, "limits", lambda device: [Limit("this test", between)])
    monkeypatch.setattr(admission, "resident", lambda: 0)
    other = admit(pipe, [request], "auto")
    assert other.options.decoding.chunk < 4 or other.parts.offload != "none"
    assert (pipe.options.decoding.chunk, pipe.parts.offload) == (4, "none"), "this one is as it was"
    assert "memory=auto: " in capsys.readouterr().err


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Published models need no files; a GPU that is not there can be planned for."""
    assert main(["plan", "model=wan2.1-t2v-1.3b", "device=cuda", "limit=24GiB", "size=416x240", "frames=17"]) == 0
    said = capsys.readouterr().out
    assert "416x240, 17 frames" in said and "24.00 GiB left by limit: fits" in said
    assert "disk: 0.5 MiB of latents" in said
    name = "model=Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    words = ["plan", name, "device=cuda", "limit=24GiB", "size=416x240", "frames=17"]
    assert main(words) == 0  # its repository on the hub
    assert capsys.readouterr().out.splitlines()[1:] == said.splitlines()[1:]
    assert main(["plan", "model=wan2.2-t2v-a14b", "device=cuda", "limit=8GiB"]) == 2
    assert "what would fit" in (error := capsys.readouterr().err) or "nothing that could" in error
    assert main(["plan", "model=ltx-video-0.9", "device=cuda", "limit=8GiB"]) == 2
    assert "its VAE has no class here yet" in capsys.readouterr().err
    assert main(["plan", "limit=much"]) == 2


def test_halves_in_two_passes_change_no_pixel(folder: Path) -> None:
    """And in the plan they need less, and as much work."""
    request = {"frames": 5, "height": 32, "width": 32, "fps": 16.0, "steps": 3, "guidance": 4.0, "seed": 2}
    pipe = videodit.load(str(folder), device="cpu")
    expected = pipe([WORDS[0], WORDS[1]], **request)
    twice = pipe.with_options(passes=2)
    for video, other in zip(twice([WORDS[0], WORDS[1]], **request), expected, strict=True):
        assert (video.clip - other.clip).abs().max() < 1e-5
    job = job_of(pipe, [pipe.request(WORDS[0], size="256x256", frames=33)])
    setups = (Setup("none", torch.float32, Way(4), passes=passes) for passes in (1, 2))
    one, two = (Planner(pipe.parts, Limit("x", 0), base=0).plan(job, setup).stages[1] for setup in setups)
    assert two.memory < one.memory


@pytest.mark.parametrize("offload", ["none", "model", "block"])
def test_what_is_open_changes_no_pixel(
    folder: Path, offload: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VIDEODIT_CACHE", str(tmp_path))
    request = {"frames": 5, "height": 32, "width": 32, "fps": 16.0, "steps": 3, "guidance": 4.0, "seed": 2}
    expected = videodit.load(str(folder), device="cpu", offload="none")(WORDS[0], **request).clip
    pipe = videodit.load(str(folder), device="cpu", offload=offload)
    for _ in range(2):  # the second time the states of the prompt come from the disk
        assert (pipe(WORDS[0], **request).clip - expected).abs().max() < 1e-5
    assert len(pipe.parts._open) == (3 if offload == "none" else 1)
    assert len(list((tmp_path / "text").glob("*.safetensors")) if offload != "none" else [1, 2]) == 2


def test_half_precision_keeps_the_times_exact(folder: Path) -> None:
    request = {"frames": 5, "height": 32, "width": 32, "fps": 16.0, "steps": 3, "guidance": 4.0, "seed": 2}
    full = videodit.load(str(folder), device="cpu")(WORDS[0], **request).clip
    for offload in ("none", "block"):
        pipe = videodit.load(str(folder), device="cpu", dtype=torch.bfloat16, offload=offload)
        half = pipe(WORDS[0], **request).clip
        assert 0 < (half - full).abs().mean() < 0.1 * full.std()
        dit = pipe.parts.network("dit")
        assert dit.time_embed.linear1.weight.dtype == dit.blocks[0].modulation.table.dtype == torch.float32
    assert isinstance(pipe, Pipe)
