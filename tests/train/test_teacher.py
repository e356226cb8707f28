"""A student of few steps: what its teacher tells it, and a run of one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import videodit
from tests.compare import assert_equal
from tests.tiny import tiny_pipeline
from tests.train.test_finetune import command
from videodit.cli.main import main
from videodit.data.video import write
from videodit.flow.path import RectifiedFlow
from videodit.flow.samplers import euler
from videodit.flow.schedules import linear
from videodit.generate import load
from videodit.toy.world import ToyWorld
from videodit.track.jsonl import records
from videodit.train.teacher import Teacher
from videodit.untrusted import read_json

TEACHER = [
    "teacher={model: MODEL, steps: 6, guidance: 8.0}",
    "area=[1024,1536]",
    "request.steps=2",
    "request.guidance=1",
    "drop=0",
]


class Field:
    """Stands for a Pipe whose velocity at (x, t) is known: x + 10 t, three times that with the guidance."""

    path, patch = RectifiedFlow(prediction="velocity"), (1, 2, 2)
    parts = SimpleNamespace(pipeline={"shift": 2.0}, experts=["dit"], name="field")

    def encode(self, prompts: list[str]) -> list[str]:
        return prompts

    def expert(self, name: str, texts: list[str], times: Tensor, scales: list[float]) -> Any:
        assert texts[len(texts) // 2 :] == [""] * (len(texts) // 2)
        return lambda x, t: [s * (xi + 10 * ti) for xi, ti, s in zip(x, t.tolist(), scales, strict=True)]


def test_it_tells_where_its_own_steps_end() -> None:
    """Euler's steps by hand, for clips at other times of other sizes."""
    teacher = Teacher(pipe=Field(), steps=6, guidance=3.0, student=2)
    t = teacher(torch.zeros(4), torch.tensor([0.0, 0.49, 0.5, 0.999]), [4, 4, 4, 4])
    schedule = linear(6, 2.0)
    assert torch.equal(t, schedule[[0, 0, 3, 3]]) and torch.equal(teacher.schedule(4), schedule)
    x = [torch.randn(3, 1, 4, 4), torch.randn(3, 2, 4, 2)]
    told = teacher.velocities(["a", "b"], x, t[[0, 2]])
    for one, velocity, first in zip(x, told, (0, 3), strict=True):
        end = one.double()
        for now, then in zip(schedule[first : first + 3], schedule[first + 1 : first + 4], strict=True):
            end = end + (then - now) * 3 * (end + 10 * now)
        reached = one.double() + (schedule[first + 3] - schedule[first]) * velocity
        torch.testing.assert_close(reached, end, rtol=1e-4, atol=1e-4)


def test_a_perfect_student_gives_the_teachers_video(tmp_path: Path) -> None:
    """Its steps, one after the other, as generation takes the teacher's."""
    pipe = load(str(tiny_pipeline(tmp_path / "toy")), device="cpu")
    teacher = Teacher(pipe=pipe, steps=6, guidance=3.0, student=2)
    request = pipe.request("a large red ball", steps=6, guidance=3.0, seed=5, sampler="euler")
    x = pipe.noise(5, pipe.native(request).latent((4, 8, 8)))
    tokens = pipe.native(request).latent((4, 8, 8)).grid((1, 2, 2)).count

    def student(clips: list[Tensor], t: Tensor) -> list[Tensor]:
        return teacher.velocities(["a large red ball"], clips, t)

    reached = euler(student, [x], [teacher.schedule(tokens)[::3]])
    assert_equal(reached[0], pipe.denoise([request])[0].latents, tolerance=1e-5)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("student")
    tiny_pipeline(place / "ours")
    (place / "clips").mkdir()
    world, lines = ToyWorld(seed=0, size=3, frames=5, height=32, width=32, fps=8.0), []
    for number, sample in enumerate(world.__getitems__(range(3))):
        clip = ((sample.clip.permute(1, 2, 3, 0) + 1) * 127.5).byte().numpy()
        write(place / "clips" / f"{number}.mp4", clip, 8.0)
        lines.append(f'{{"file_name": "{number}.mp4", "caption": "a large red ball"}}\n')
    (place / "clips" / "metadata.jsonl").write_text("".join(lines))
    return place


def of(place: Path) -> list[str]:
    return [override.replace("MODEL", str(place / "ours")) for override in TEACHER]


def test_a_run_lowers_the_error_and_is_a_model_of_few_steps(place: Path) -> None:
    rates = ["optim.make.lr=1e-3", "optim.make.muon_lr=2e-3", "freeze=[text]", "loop.log_every=1", "ema=0.9"]
    assert main([*command(place, "fast", "ours", *of(place), *rates, steps=60), "plan=true"]) == 0
    assert main([*command(place, "fast", "ours", *of(place), *rates, steps=60)]) == 0
    losses = [record["loss"] for record in records(place / "fast" / "metrics.jsonl") if "loss" in record]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    pipeline = read_json(place / "fast" / "model" / "pipeline.json")
    assert pipeline["defaults"]["steps"] == 2 and pipeline["defaults"]["guidance"] == 1
    assert pipeline["shift"] == read_json(place / "ours" / "pipeline.json")["shift"]
    asked = {"frames": 5, "seed": 3}
    goal = videodit.load(str(place / "ours"), device="cpu")("a large red ball", steps=6, guidance=8.0, **asked).clip
    student = videodit.load(str(place / "fast"), device="cpu")("a large red ball", **asked)
    untaught = videodit.load(str(place / "ours"), device="cpu")("a large red ball", steps=2, guidance=1.0, **asked)
    assert student.record["steps"] == 2
    assert (student.clip - goal).square().mean() < 0.5 * (untaught.clip - goal).square().mean()


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("request.steps=4", "multiple of the student's request.steps=4"),
        ("request.guidance=2", "say request.guidance=1"),
        ("request.sampler=unipc", "request.sampler=euler"),
        ("teacher.model=nowhere", "teacher.model=nowhere"),
        ("flow=cosine_ddpm", "say flow=rectified"),
    ],
)
def test_what_cannot_be_taught_is_told_in_one_line(
    place: Path, override: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command(place, "bad", "ours", *of(place), override)
    if "flow" in override:  # another flow than that of init is refused before
        new = ["vae=tiny", "vae.latent_channels=4", "model=tiny", "text=tiny", f"vae_from={place / 'ours'}"]
        arguments = [argument for argument in arguments if not argument.startswith("init=")] + new
    assert main(arguments) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert says in told and told.startswith("videodit: error: ")
