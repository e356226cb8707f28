"""How a model is evaluated: which prompts, from which noise, beside what.

A benchmark knows what its prompts ask for and can show it. So each score of generated clips stands between a ceiling,
the score of real clips that show the same, and a floor, the score with the prompts shuffled among the clips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from videodit.alive import doing
from videodit.data.sample import to_frames
from videodit.eval.metrics import frechet
from videodit.eval.scoring import Marks, accuracy, floor, wrong
from videodit.features.measures import Measure, measure
from videodit.shapes import VideoShape

PROMPTS_SEED = 2  # of the prompts, the same for every model; `seed` is that of the noise
DISTANCE = "judge Fréchet distance"
REFERENCES = 1000  # real clips that features are compared with
LOT = 50  # real clips made at a time
EDGE = 256  # pixels of the short side that measures look at

Section = dict[str, Any]  # of the report: plain values that JSON holds
Report = Callable[[int, int], None]  # (clips done, clips in all)


class Benchmark(Protocol):
    """A world whose videos can be checked: its prompts, real clips of what they ask for, and what any clip shows.

    kinds: of prompts, the first of them like those that models were trained on. shape: of the usual clip; shapes: all
    that a model is asked for. fps: of every clip.
    """

    kinds: Sequence[str]
    shape: VideoShape
    shapes: Sequence[VideoShape]
    fps: float

    def prompts(self, kind: str, count: int, seed: int) -> Sequence[tuple[str, Any]]:
        """Prompts and what each asks for, as this benchmark knows it."""

    def render(self, asked: Sequence[Any], shape: VideoShape) -> Tensor:
        """Real clips (B,3,T,H,W) in [-1,1] that show what is asked for."""

    def samples(self, seed: int, indices: range) -> Sequence[Any]:
        """Contents of clips that no prompt asks for, as `render` takes them."""

    def read(self, clips: Tensor) -> tuple[list[Any], Tensor]:
        """What each of the clips (B,3,T,H,W) shows, and features (B,D)."""

    def compare(self, seen: Any, asked: Any, frames: int) -> Marks:
        """By attribute the word asked for and the word read, of what a clip of so many frames can show."""

    def shares(self, reads: Sequence[Any]) -> dict[str, float]:
        """Other shares of what was read, by name, for the report."""


class HasClip(Protocol):
    """What a pipe gives: a clip (3,T,H,W) in [-1,1]."""

    clip: Tensor


class Pipe(Protocol):
    """Prompts to videos; clip i of a call is made from the noise of seed + i."""

    def __call__(self, prompt: Sequence[str], **request: Any) -> Sequence[HasClip]: ...


@dataclass(frozen=True)
class Shown:
    """A generated clip as a row of the sheet. wrong: by attribute, the word asked for and the word read."""

    clip: Tensor  # (3,T,H,W) in [-1,1]
    prompt: str
    seed: int
    wrong: Marks


@dataclass(frozen=True)
class Ask:
    """How clips are asked for: `count` prompts, clip i from the noise of seed + i, `batch` at a time; `request` goes
    to the pipe as it is, `report` hears of every batch, and `measures` are taken of the clips of the usual shape."""

    count: int
    seed: int
    batch: int
    request: Mapping[str, Any]
    report: Report
    measures: Sequence[Measure] = ()


def follow(pipe: Pipe, benchmark: Benchmark, kind: str, shape: VideoShape, ask: Ask) -> tuple[Section, list[Shown]]:
    """Measure how well clips of `shape` show what prompts of a kind ask for: the section, and every clip in order.

    Raises InputError at an unknown kind of prompt.
    """
    pairs = benchmark.prompts(kind, ask.count, PROMPTS_SEED)
    asked = [content for _, content in pairs]

    def mark(seen: Any, content: Any) -> Marks:
        return benchmark.compare(seen, content, shape.frames)

    reads, features, shown = [], [], []
    for start in range(0, ask.count, ask.batch):
        part = pairs[start : start + ask.batch]
        size = {"frames": shape.frames, "height": shape.height, "width": shape.width, "fps": benchmark.fps}
        videos = pipe([prompt for prompt, _ in part], seed=ask.seed + start, **size, **ask.request)
        seen, vectors = benchmark.read(torch.stack([video.clip for video in videos]))
        reads, features = reads + seen, [*features, vectors]
        for place, (video, (prompt, content)) in enumerate(zip(videos, part, strict=True)):
            shown.append(Shown(video.clip, prompt, ask.seed + start + place, wrong(mark(seen[place], content))))
        ask.report(start + len(part), ask.count)
    with doing("render the same scenes and read them"):
        rendered, real = read_real(benchmark, asked, shape)
    section = {
        "prompts": ask.count,
        "shape": str(shape),
        "accuracy": accuracy(mark, reads, asked),
        "ceiling": accuracy(mark, rendered, asked),
        "floor": floor(mark, reads, asked, ask.seed),
        **benchmark.shares(reads),
        "wrong": [{"prompt": one.prompt, "seed": one.seed, **one.wrong} for one in shown if one.wrong],
    }
    if ask.measures:
        with doing("measure the clips"):
            section["measures"] = compared([one.clip for one in shown], benchmark, asked, shape, ask.measures)
    if shape != benchmark.shape or len(asked) < 2:  # of other shapes the scores say enough
        return section, shown
    with doing("compare with rendered clips"):
        others = [content for _, content in benchmark.prompts(kind, REFERENCES, PROMPTS_SEED + 1)]
        references = read_real(benchmark, others, shape)[1]
    distances = {DISTANCE: torch.cat(features), f"{DISTANCE}, rendered": real}
    return section | {name: distance(vectors, references) for name, vectors in distances.items()}, shown


def by_shape(pipe: Pipe, benchmark: Benchmark, ask: Ask) -> Section:
    """`follow` prompts of the first kind in every shape: by shape, how the attributes that it can show fare."""
    shapes, table = benchmark.shapes, {}
    for place, shape in enumerate(shapes):

        def report(done: int, total: int, place: int = place) -> None:
            ask.report(place * total + done, len(shapes) * total)

        own = replace(ask, report=report, measures=())
        table[str(shape)] = follow(pipe, benchmark, benchmark.kinds[0], shape, own)[0]
    return table


def compared(
    made: Sequence[Tensor], benchmark: Benchmark, asked: Sequence[Any], shape: VideoShape, measures: Sequence[Measure]
) -> Section:
    """Means of the measures over generated clips, with half their 95 % intervals, and over real clips of the same."""

    def of(clips: Iterable[Tensor]) -> Tensor:
        rows = [measure(to_frames(clip), benchmark.fps, edge=EDGE, measures=measures) for clip in clips]
        return torch.tensor([list(row.values()) for row in rows], dtype=torch.float64)

    ours, real = of(made), of(clip for some in lots(asked, LOT) for clip in benchmark.render(some, shape))
    half = 1.96 * ours.std(0, correction=1) / len(ours) ** 0.5 if len(ours) > 1 else ours[0] * 0
    rows = {"generated": ours.mean(0), "give or take": half, "rendered": real.mean(0)}
    names = [one.name for one in measures]
    return {row: dict(zip(names, numbers.tolist(), strict=True)) for row, numbers in rows.items()}


def read_real(benchmark: Benchmark, asked: Sequence[Any], shape: VideoShape) -> tuple[list[Any], Tensor]:
    """What the benchmark reads off real clips of these contents, and its features (N,D)."""
    parts = [benchmark.read(benchmark.render(some, shape)) for some in lots(asked, LOT)]
    return [seen for part, _ in parts for seen in part], torch.cat([features for _, features in parts])


def lots(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """The items, so many at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))


def distance(features: Tensor, references: Tensor) -> float:
    """Fréchet distance of (N,D) from (M,D) in the mean variance of the references' features: 1 is a feature's worth.

    One unit for all features. A unit each would let one decide that hardly varies in rendered clips: any generated clip
    that moves it at all is hundreds of deviations away.
    """
    return (frechet(features, references) / references.double().var(0).mean()).item()
