"""The protocol with a benchmark that is not the toy: clips of one grey, which are read by their brightness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from videodit.eval.protocol import DISTANCE, PROMPTS_SEED, Ask, Benchmark, by_shape, follow
from videodit.eval.report import reconstruction, summary
from videodit.eval.scoring import Marks
from videodit.shapes import VideoShape

LEVELS = {"dark": -0.5, "light": 0.5}


class Greys:
    """Half of the prompts ask for a dark clip, half for a light one."""

    kinds = ("grey",)
    shape = VideoShape(2, 16, 16)
    shapes = (VideoShape(1, 16, 16), VideoShape(2, 16, 16))
    fps = 4.0

    def prompts(self, kind: str, count: int, seed: int) -> list[tuple[str, str]]:
        words = [("dark", "light")[(index + seed) % 2] for index in range(count)]
        return [(f"a {word} clip", word) for word in words]

    def render(self, asked: Sequence[str], shape: VideoShape) -> Tensor:
        return torch.stack([torch.full((3, shape.frames, shape.height, shape.width), LEVELS[word]) for word in asked])

    def samples(self, seed: int, indices: range) -> list[str]:
        return [("dark", "light")[(seed + index) % 2] for index in indices]

    def read(self, clips: Tensor) -> tuple[list[Mapping[str, Any]], Tensor]:
        means = clips.mean((1, 2, 3, 4))
        return [{"grey": "dark" if mean < 0 else "light"} for mean in means], torch.stack([means, means.abs()], 1)

    def compare(self, seen: Mapping[str, str], asked: str, frames: int) -> Marks:
        return {"grey": (asked, seen["grey"])}

    def shares(self, reads: Sequence[Mapping[str, str]]) -> dict[str, float]:
        return {"light": sum(one["grey"] == "light" for one in reads) / len(reads)}


def painter(wrong: int) -> Any:
    """A pipe that gives what is asked for, but light for the prompt at this place of all."""
    made: list[str] = []

    def pipe(prompt: Sequence[str], *, frames: int, height: int, width: int, **request: Any) -> list[SimpleNamespace]:
        clips = []
        for one in prompt:
            level = 0.5 if len(made) == wrong else LEVELS[one.split()[1]]
            made.append(one)
            clips.append(SimpleNamespace(clip=torch.full((3, frames, height, width), level)))
        return clips

    return pipe


def ask(count: int) -> Ask:
    return Ask(count, 0, 2, {}, lambda done, total: None)


def test_scores_of_another_benchmark_stand_between_its_floor_and_its_ceiling() -> None:
    benchmark: Benchmark = Greys()
    section, shown = follow(painter(wrong=2), benchmark, "grey", benchmark.shape, ask(4))
    asked = [word for _, word in benchmark.prompts("grey", 4, PROMPTS_SEED)]
    assert asked[2] == "dark"
    assert section["accuracy"] == {"grey": 0.75, "all": 0.75} and section["ceiling"] == {"grey": 1.0, "all": 1.0}
    assert section["floor"]["all"] < section["accuracy"]["all"]
    assert section["light"] == 0.75 and [one.wrong for one in shown if one.wrong] == [{"grey": ("dark", "light")}]
    assert section["wrong"] == [{"prompt": "a dark clip", "seed": 2, "grey": ("dark", "light")}]
    assert section[DISTANCE] > section[f"{DISTANCE}, rendered"]


def test_shapes_and_the_vae_are_those_of_the_benchmark() -> None:
    table = by_shape(painter(wrong=-1), Greys(), ask(2))
    assert list(table) == ["16x16, 1 frames", "16x16, 2 frames"]
    assert all(row["accuracy"]["all"] == 1 for row in table.values())
    vae = SimpleNamespace(encode=lambda clip: clip, decode=lambda latents: latents + 0.02, mean=torch.zeros(1))
    rows = reconstruction(vae, Greys(), Greys.shapes, count=3, seed=0, batch=2, device="cpu")
    assert [row["psnr"] for row in rows.values()] == pytest.approx([40, 40], abs=1e-3)
    assert len(list(summary({"shapes": table, "reconstruction": rows}))) == 9
