from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from videodit.checkpoint.store import save_tensors
from videodit.cli import evaluate
from videodit.cli.settings import Evaluate
from videodit.data.sample import to_frames
from videodit.errors import InputError
from videodit.eval.protocol import PROMPTS_SEED
from videodit.features.measures import measure
from videodit.flow.path import RectifiedFlow
from videodit.settings import read
from videodit.shapes import LatentShape
from videodit.toy.grammar import evaluation_prompts
from videodit.toy.judge import Judge, vocabulary
from videodit.toy.render import render


def asked(**changes) -> Evaluate:
    return read(Evaluate, changes)


def judge() -> Judge:
    torch.manual_seed(0)
    return Judge(words=vocabulary(), width=8, maps=1, features=4).eval()


def save(path: Path, tensors: dict, architecture: str = "judge") -> Path:
    save_tensors(path, tensors, {"architecture": architecture, "arguments": judge().arguments})
    return path


class FakePipe:
    """Renders what is asked for; its VAE loses nothing."""

    def __init__(self) -> None:
        vae = SimpleNamespace(encode=lambda clip: clip, decode=lambda latents: latents + 0.01, mean=torch.zeros(1))
        self.parts = SimpleNamespace(name="fake", fingerprints={"dit": "0"}, vae=vae, device="cpu", experts=["dit"])
        self.defaults = {"steps": 30, "guidance": 3.0}
        self.path = RectifiedFlow(prediction="velocity")
        self.asked: list[dict] = []

    def noise(self, seed: int, shape: LatentShape) -> torch.Tensor:
        return torch.full((3, shape.frames, shape.height, shape.width), 2.0)

    def encode(self, prompts: list[str]) -> list[str]:
        return list(prompts)

    def network(self, name: str, prompts: list, times: torch.Tensor) -> Callable:
        """Knows that the noise is 2 everywhere, so at time t it is wrong about nothing but an offset of t."""

        def predict(x: list, t: torch.Tensor) -> list:
            clean = [(one - time * 2.0) / (1 - time) for one, time in zip(x, t, strict=True)]
            return [2.0 - one + time for one, time in zip(clean, t, strict=True)]

        return predict

    def __call__(self, prompt: list[str], *, frames: int, height: int, width: int, fps: float, **rest) -> list:
        self.asked.append(rest)
        scenes = dict(pair for kind in ("ordinary", "two") for pair in evaluation_prompts(kind, 2, PROMPTS_SEED))
        clips = render([scenes[one] for one in prompt], frames=frames, height=height, width=width, fps=fps)
        return [SimpleNamespace(clip=clip) for clip in clips]


def test_a_saved_judge_reads_the_same(tmp_path: Path) -> None:
    loaded = evaluate.load_judge(save(tmp_path / "judge.safetensors", judge().state_dict()))
    clips = torch.rand(2, 3, 3, 24, 24)
    for label, scores in judge()(clips).items():
        assert torch.equal(loaded.judge(clips)[label], scores)


def test_a_judge_is_loaded_strictly(tmp_path: Path) -> None:
    state, path = judge().state_dict(), tmp_path / "judge.safetensors"
    name = next(iter(state))
    for tensors in ({**state, "extra": torch.zeros(1)}, {key: value for key, value in state.items() if key != name}):
        with pytest.raises(InputError, match="judge.safetensors.*missing tensors"):
            evaluate.load_judge(save(path, tensors))
    with pytest.raises(InputError, match="expected"):
        evaluate.load_judge(save(path, {**state, name: torch.zeros(1)}))
    with pytest.raises(InputError, match="holds no judge"):
        evaluate.load_judge(save(path, state, architecture="dit"))


def test_the_command_writes_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = FakePipe()
    monkeypatch.setattr(evaluate, "load", lambda model, **how: pipe)
    monkeypatch.setattr("videodit.eval.protocol.REFERENCES", 4)
    path = save(tmp_path / "judge.safetensors", judge().state_dict())
    small = {"count": 2, "shapes": 1, "clips": 1, "losses": 4, "steps": 2, "prompts": ["ordinary", "two"]}
    evaluate.run(asked(out=str(tmp_path / "out"), judge=str(path), **small))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["loss"] for row in report["loss"]] == pytest.approx([0.125**2, 0.375**2, 0.625**2, 0.875**2], rel=1e-3)
    assert report["model"] == "fake" and report["request"] == {"steps": 2, "guidance": 3.0}
    assert set(report["prompts"]) == {"ordinary", "two"} and len(report["shapes"]) == len(report["reconstruction"]) == 6
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.json", "ordinary.png", "two.png"}
    assert pipe.asked[0] == {"seed": 0, "steps": 2}
    assert "ceiling" in capsys.readouterr().out


def test_measures_of_the_clips_stand_beside_those_of_rendered_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = FakePipe()
    monkeypatch.setattr(evaluate, "load", lambda model, **how: pipe)
    monkeypatch.setattr("videodit.eval.protocol.REFERENCES", 4)
    path = save(tmp_path / "judge.safetensors", judge().state_dict())
    small = {"count": 2, "shapes": 1, "clips": 0, "losses": 0, "prompts": ["ordinary"], "judge": str(path)}
    evaluate.run(asked(out=str(tmp_path / "out"), measures=["compression", "motion"], **small))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    found = report["prompts"]["ordinary"]["measures"]
    assert list(found) == ["generated", "give or take", "rendered"]
    assert found["generated"] == found["rendered"] and list(found["generated"]) == ["motion", "compression"]
    pairs = evaluation_prompts("ordinary", 2, PROMPTS_SEED)
    clips = render([scene for _, scene in pairs], frames=17, height=64, width=64, fps=8.0)
    alone = [measure(to_frames(clip), 8.0, edge=256)["motion"] for clip in clips]
    assert found["generated"]["motion"] == pytest.approx(sum(alone) / 2) and min(alone) >= 0 < max(alone)
    assert found["give or take"]["motion"] == pytest.approx(1.96 * abs(alone[0] - alone[1]) / 2)
    assert not any("measures" in section for section in report["shapes"].values())
    lines = capsys.readouterr().out.splitlines()
    head = next(place for place, line in enumerate(lines) if line.split() == ["motion", "compression"])
    assert lines[head + 1].split() == ["generated", *(f"{x:.3f}" for x in found["generated"].values())]
    with pytest.raises(InputError, match="measures: no such measure 'mozion'; .*did you mean 'motion'"):
        evaluate.run(asked(out=str(tmp_path / "out"), measures=["mozion"], **small))


@pytest.mark.parametrize(
    "changes", [{"count": 0}, {"prompts": ["rhyming"]}, {"shapes": -1}, {"batch": "many"}, {"out": __file__}]
)
def test_bad_settings_are_refused_before_anything_is_loaded(changes: dict) -> None:
    with pytest.raises(InputError, match=next(iter(changes))):
        evaluate.run(asked(**changes))
