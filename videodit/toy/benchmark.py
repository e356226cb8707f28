"""The toy world as a benchmark: prompts, rendered clips of what they ask for, and a judge that reads any clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from videodit.eval.scoring import Marks
from videodit.shapes import VideoShape
from videodit.toy.grammar import KINDS_OF_PROMPT, evaluation_prompts
from videodit.toy.judge import Judge, read
from videodit.toy.render import render
from videodit.toy.scenes import Scene, scene
from videodit.toy.scoring import compare

ORDINARY = VideoShape(17, 64, 64)


class ToyBenchmark:
    """Evaluates models of the toy world by what a judge reads off their clips: see `eval.protocol.Benchmark`."""

    kinds = KINDS_OF_PROMPT
    shape = ORDINARY
    shapes = (
        VideoShape(1, 64, 64), VideoShape(9, 64, 64), ORDINARY, VideoShape(33, 64, 64),
        VideoShape(17, 64, 96), VideoShape(17, 96, 64),
    )  # fmt: skip
    fps = 8.0

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    def prompts(self, kind: str, count: int, seed: int) -> list[tuple[str, Scene]]:
        """Prompts and their scenes. Raises InputError at an unknown kind."""
        return evaluation_prompts(kind, count, seed)

    def render(self, asked: Sequence[Scene], shape: VideoShape) -> Tensor:
        """Clips (B,3,T,H,W) in [-1,1] of the scenes."""
        return render(asked, frames=shape.frames, height=shape.height, width=shape.width, fps=self.fps)

    def samples(self, seed: int, indices: range) -> list[Scene]:
        """Scenes of any kind, held-out pairs among them."""
        return [scene(seed, index, split="any") for index in indices]

    def read(self, clips: Tensor) -> tuple[list[dict[str, str]], Tensor]:
        """Words by label of each clip, and features (B,D): see `judge.read`."""
        return read(self.judge, clips)

    def compare(self, seen: Mapping[str, str], asked: Scene, frames: int) -> Marks:
        """The words asked for and read, by attribute."""
        return compare(seen, asked, frames)

    def shares(self, reads: Sequence[Mapping[str, str]]) -> dict[str, float]:
        """How many of the clips show one body."""
        return {"one body seen": sum(words["bodies"] == "1" for words in reads) / len(reads)}
