from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from videodit.errors import InputError
from videodit.eval.page import page
from videodit.eval.protocol import DISTANCE, PROMPTS_SEED, Ask, Shown, by_shape, distance, follow
from videodit.eval.report import by_time, reconstruction, summary, write_json
from videodit.shapes import VideoShape
from videodit.toy.benchmark import ORDINARY, ToyBenchmark
from videodit.toy.grammar import evaluation_prompts
from videodit.toy.judge import Judge, vocabulary
from videodit.toy.render import render


@pytest.fixture(scope="module")
def toy() -> ToyBenchmark:
    torch.manual_seed(0)
    return ToyBenchmark(Judge(words=vocabulary(), width=8, maps=1, features=4).eval())


@pytest.fixture(autouse=True)
def few_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("videodit.eval.protocol.REFERENCES", 12)


class Oracle:
    """A pipe that renders what the prompt asks for, and remembers how it was asked."""

    def __init__(self, kind: str, count: int) -> None:
        self.scenes = dict(evaluation_prompts(kind, count, PROMPTS_SEED))
        self.calls: list[tuple[int, dict]] = []

    def __call__(self, prompt: list[str], *, frames: int, height: int, width: int, fps: float, **rest) -> list:
        self.calls.append((len(prompt), rest))
        scenes = [self.scenes[one] for one in prompt]
        clips = render(scenes, frames=frames, height=height, width=width, fps=fps)
        return [SimpleNamespace(clip=clip) for clip in clips]


def ask(count: int, done: list | None = None, **request) -> Ask:
    return Ask(count, 7, 4, request, lambda clips, total: None if done is None else done.append((clips, total)))


@pytest.mark.parametrize("kind", ["ordinary", "composition", "two"])
def test_a_perfect_pipe_reaches_the_ceiling_exactly(toy: ToyBenchmark, kind: str) -> None:
    pipe, done = Oracle(kind, 6), []
    section, shown = follow(pipe, toy, kind, ORDINARY, ask(6, done, steps=3))
    assert section["accuracy"] == section["ceiling"]
    assert section[DISTANCE] == pytest.approx(section[f"{DISTANCE}, rendered"], rel=1e-6)
    assert [one.seed for one in shown] == [7, 8, 9, 10, 11, 12]
    assert pipe.calls == [(4, {"seed": 7, "steps": 3}), (2, {"seed": 11, "steps": 3})]
    assert done == [(4, 6), (6, 6)]
    assert len(section["wrong"]) == sum(bool(one.wrong) for one in shown)
    assert section["accuracy"]["all"] == pytest.approx(1 - len(section["wrong"]) / 6)


def test_a_feature_that_hardly_varies_in_rendered_clips_does_not_decide_the_distance() -> None:
    generator = torch.Generator().manual_seed(0)
    references, good = (torch.randn(count, 4, generator=generator) for count in (1000, 200))
    poor = good + 1  # a deviation off in every feature
    for features in (references, good, poor):
        features[:, 3] *= 1e-3
    good[0, 3] = 0.5  # one clip of the good ones moves the quiet feature, by 500 of its deviations
    assert distance(good, references) < 0.2
    assert 3 < distance(poor, references) < 5  # three features are off by 1, of a mean variance of 3/4
    assert distance(8 * good, 8 * references) == pytest.approx(distance(good, references))


def test_every_shape_has_its_row_and_a_still_is_not_asked_to_move(toy: ToyBenchmark) -> None:
    done: list = []
    table = by_shape(Oracle("ordinary", 2), toy, ask(2, done))
    assert list(table) == [str(shape) for shape in toy.shapes]
    assert done[-1] == (12, 12)
    assert "motion" not in table["64x64, 1 frames"]["accuracy"]
    assert "motion" in table["96x64, 17 frames"]["accuracy"]


def test_an_unknown_kind_of_prompt_is_refused(toy: ToyBenchmark) -> None:
    with pytest.raises(InputError, match="kind of prompt"):
        follow(Oracle("ordinary", 1), toy, "rhyming", ORDINARY, ask(1))


def test_reconstruction_of_a_known_loss(toy: ToyBenchmark) -> None:
    vae = SimpleNamespace(encode=lambda clip: clip * 0.5, decode=lambda latents: latents * 2 + 0.02,
                          mean=torch.zeros(1))  # fmt: skip
    shapes = (VideoShape(1, 16, 16), VideoShape(2, 16, 24))
    table = reconstruction(vae, toy, shapes, count=3, seed=1, batch=2, device="cpu")
    assert list(table) == ["16x16, 1 frames", "24x16, 2 frames"]
    for row in table.values():
        assert row["clips"] == 3
        assert row["psnr"] == pytest.approx(40, abs=0.3)  # an error of 0.02 of a span of 2, but where it is clipped
        assert row["worst psnr"] <= row["psnr"] and 0.9 < row["worst ssim"] <= row["ssim"] <= 1


def test_losses_fall_into_their_bins() -> None:
    t, losses = torch.tensor([0.0, 0.05, 0.31, 1.0]), torch.tensor([1.0, 3.0, 5.0, 7.0])
    rows = by_time(t, losses, 10)
    assert [(row["from"], row["count"], row["loss"]) for row in rows] == [(0, 2, 2), (0.3, 1, 5), (0.9, 1, 7)]


def test_the_report_is_written_whole_and_summed_up(toy: ToyBenchmark, tmp_path: Path) -> None:
    section, shown = follow(Oracle("ordinary", 3), toy, "ordinary", ORDINARY, ask(3))
    losses = by_time(torch.ones(1), torch.ones(1), 2)
    report = {"prompts": {"ordinary": section}, "shapes": {"64x64, 17 frames": section}, "loss": losses}
    write_json(tmp_path / "deep" / "report.json", report)
    assert json.loads((tmp_path / "deep" / "report.json").read_text()) == json.loads(json.dumps(report))
    text = "\n".join(summary(report))
    assert all(word in text for word in ("ordinary", "ceiling", "floor", "motion", DISTANCE, "held-out loss"))
    page(tmp_path / "page.png", shown, columns=2)
    assert Image.open(tmp_path / "page.png").width > 800
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "page.png"]


def test_a_page_marks_what_is_wrong_in_red(tmp_path: Path) -> None:
    clip = torch.zeros(3, 1, 64, 64)
    for name, wrong in (("good", {}), ("bad", {"kind": ("ball", "cube")})):
        page(tmp_path / f"{name}.png", [Shown(clip, "a ball " * 40, 0, wrong)], columns=1)
    reds = {name: _red(tmp_path / f"{name}.png") for name in ("good", "bad")}
    assert reds["good"] == 0 < reds["bad"]


def _red(path: Path) -> int:
    pixels = torch.tensor(list(Image.open(path).convert("RGB").get_flattened_data()))
    return int(((pixels[:, 0] > 150) & (pixels[:, 1] < 80)).sum())


def test_shapes_read_width_first() -> None:
    assert str(VideoShape(17, 64, 96)) == "96x64, 17 frames"
