"""The evaluation of a model of the toy world: prompt following, other shapes, the VAE, the loss; as JSON and a sheet.

A section of the report is a plain dict that goes to JSON as it is. Distances and scores are numbers of `metrics` and
`scoring`; the judge's own score on rendered clips of the same scenes stands beside each as the ceiling, and the score
with shuffled prompts as the floor.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from videodit.alive import doing
from videodit.data.render import render
from videodit.data.toy import Scene, evaluation_prompts, scene
from videodit.data.video import replacing
from videodit.eval.attributes import Judge, read
from videodit.eval.metrics import frechet, psnr, ssim
from videodit.eval.scoring import accuracy, compare, floor, wrong
from videodit.shapes import VideoShape

ORDINARY = VideoShape(17, 64, 64)
SHAPES = (  # what the same weights must make
    VideoShape(1, 64, 64),
    VideoShape(9, 64, 64),
    ORDINARY,
    VideoShape(33, 64, 64),
    VideoShape(17, 64, 96),
    VideoShape(17, 96, 64),
)
FPS = 8.0
PROMPTS_SEED = 2  # of the prompts, the same for every model; `seed` is that of the noise
DISTANCE = "judge Fréchet distance"
REFERENCES = 1000  # rendered clips that features are compared with
LOT = 50  # clips rendered at a time

Section = dict[str, Any]
Report = Callable[[int, int], None]  # (clips done, clips in all)


class HasClip(Protocol):
    """What a pipe gives: a clip (3,T,H,W) in [-1,1]."""

    clip: Tensor


class Pipe(Protocol):
    """Prompts to videos; clip i of a call is made from the noise of seed + i."""

    def __call__(self, prompt: Sequence[str], **request: Any) -> Sequence[HasClip]: ...


class Autoencoder(Protocol):
    """Clips (B,3,T,H,W) in [-1,1] to latents and back."""

    def encode(self, clip: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Shown:
    """A generated clip as a row of the sheet. wrong: by attribute, the word asked for and the word read."""

    clip: Tensor  # (3,T,H,W) in [-1,1]
    prompt: str
    seed: int
    wrong: dict[str, tuple[str, str]]


@dataclass(frozen=True)
class Ask:
    """How clips are asked for: `count` prompts, clip i from the noise of seed + i, `batch` at a time; `request` goes
    to the pipe as it is, and `report` hears of every batch."""

    count: int
    seed: int
    batch: int
    request: Mapping[str, Any]
    report: Report


def follow(pipe: Pipe, judge: Judge, kind: str, shape: VideoShape, ask: Ask) -> tuple[Section, list[Shown]]:
    """How well clips of `shape` show what prompts of a kind ask for: the section and every clip made, in order.

    Raises InputError at an unknown kind of prompt.
    """
    pairs = evaluation_prompts(kind, ask.count, PROMPTS_SEED)
    scenes = [drawn for _, drawn in pairs]
    reads, features, shown = [], [], []
    for start in range(0, ask.count, ask.batch):
        part = pairs[start : start + ask.batch]
        size = {"frames": shape.frames, "height": shape.height, "width": shape.width, "fps": FPS}
        videos = pipe([prompt for prompt, _ in part], seed=ask.seed + start, **size, **ask.request)
        words, vectors = read(judge, torch.stack([video.clip for video in videos]))
        reads, features = reads + words, [*features, vectors]
        for place, (video, (prompt, drawn)) in enumerate(zip(videos, part, strict=True)):
            missed = wrong(compare(words[place], drawn, shape.frames))
            shown.append(Shown(video.clip, prompt, ask.seed + start + place, missed))
        ask.report(start + len(part), ask.count)
    with doing("render the same scenes and read them"):
        rendered, real = _read_rendered(judge, scenes, shape)
    section = {
        "prompts": ask.count,
        "shape": str(shape),
        "accuracy": accuracy(reads, scenes, shape.frames),
        "ceiling": accuracy(rendered, scenes, shape.frames),
        "floor": floor(reads, scenes, shape.frames, ask.seed),
        "one body seen": sum(words["bodies"] == "1" for words in reads) / ask.count,
        "wrong": [{"prompt": one.prompt, "seed": one.seed, **one.wrong} for one in shown if one.wrong],
    }
    with doing("compare with rendered clips"):
        return section | _distances(judge, kind, shape, torch.cat(features), real), shown


def by_shape(pipe: Pipe, judge: Judge, ask: Ask) -> Section:
    """`follow` for ordinary prompts in every shape of SHAPES: by shape, how the attributes that it can show fare."""
    table: Section = {}
    for place, shape in enumerate(SHAPES):

        def report(done: int, total: int, place: int = place) -> None:
            ask.report(place * total + done, len(SHAPES) * total)

        table[str(shape)] = follow(pipe, judge, "ordinary", shape, replace(ask, report=report))[0]
    return table


@torch.no_grad()
def reconstruction(
    vae: Autoencoder, shapes: Sequence[VideoShape], *, count: int, seed: int, batch: int, device: torch.device | str
) -> Section:
    """PSNR (dB) and SSIM of rendered clips that went through the VAE, by shape: the means and the worst clip's.

    The scenes are of seed `seed`, which must not be one that the VAE was trained on.
    """
    table: Section = {}
    for shape in shapes:
        decibels, similarity = [], []
        for start in range(0, count, batch):
            scenes = [scene(seed, index, split="any") for index in range(start, min(start + batch, count))]
            clips = render_all(scenes, shape).to(device)
            back = vae.decode(vae.encode(clips.to(vae.mean.dtype))).float().clamp(-1, 1)
            decibels.append(psnr(back, clips))
            similarity.append(ssim(back.double(), clips.double()).mean(1))
        scores = {"psnr": torch.cat(decibels), "ssim": torch.cat(similarity)}
        table[str(shape)] = {"clips": count} | {name: score.mean().item() for name, score in scores.items()}
        table[str(shape)] |= {f"worst {name}": score.min().item() for name, score in scores.items()}
    return table


def distance(features: Tensor, references: Tensor) -> float:
    """Fréchet distance of (N,D) from (M,D) in the mean variance of the references' features: 1 is a feature's worth.

    One unit for all features. A unit each would let one decide that hardly varies in rendered clips: any generated clip
    that moves it at all is hundreds of deviations away.
    """
    return (frechet(features, references) / references.double().var(0).mean()).item()


def by_time(t: Tensor, losses: Tensor, bins: int) -> list[dict[str, float]]:
    """Held-out losses (N,) at times t (N,) in [0,1] → the mean loss in each of `bins` equal stretches of time.

    A stretch without a loss is left out.
    """
    place = (t * bins).long().clamp(0, bins - 1)
    chosen = {bin: losses[place == bin] for bin in range(bins)}
    return [
        {"from": bin / bins, "to": (bin + 1) / bins, "count": len(some), "loss": some.mean().item()}
        for bin, some in chosen.items()
        if len(some)
    ]


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """The report, whole or not at all. Raises InputError when the file cannot be written."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def summary(value: Mapping[str, Any]) -> Iterator[str]:
    """The report's numbers as lines to print."""
    for kind, section in value.get("prompts", {}).items():
        yield f"{kind}: {section['prompts']} prompts, {section['shape']}"
        yield from _table({name: section[name] for name in ("accuracy", "ceiling", "floor")})
        if DISTANCE in section:  # of two clips and more
            rendered = section[f"{DISTANCE}, rendered"]
            yield f"  {DISTANCE} {section[DISTANCE]:.2f}, of as many rendered clips {rendered:.2f}"
    if shapes := value.get("shapes", {}):
        yield "ordinary prompts by shape"
        yield from _table({shape: row["accuracy"] for shape, row in shapes.items()})
        yield from _table({f"{shape}, ceiling": row["ceiling"] for shape, row in shapes.items()})
    for shape, row in value.get("reconstruction", {}).items():
        yield f"VAE, {shape}: PSNR {row['psnr']:.2f} dB (worst {row['worst psnr']:.2f}), SSIM {row['ssim']:.4f}"
    for row in value.get("loss", []):
        yield f"held-out loss, t {row['from']:.1f} to {row['to']:.1f}: {row['loss']:.4f}"


def _distances(judge: Judge, kind: str, shape: VideoShape, made: Tensor, real: Tensor) -> Section:
    """How far the features (N,D) of generated clips, and of as many rendered ones, are from those of REFERENCES more.
    Nothing for shapes other than ORDINARY: their scores say enough."""
    if shape != ORDINARY or len(made) < 2:
        return {}
    others = [drawn for _, drawn in evaluation_prompts(kind, REFERENCES, PROMPTS_SEED + 1)]
    references = _read_rendered(judge, others, shape)[1]
    return {DISTANCE: distance(made, references), f"{DISTANCE}, rendered": distance(real, references)}


def _read_rendered(judge: Judge, scenes: Sequence[Scene], shape: VideoShape) -> tuple[list[dict[str, str]], Tensor]:
    """What the judge reads off rendered clips of the scenes, and its features."""
    parts = [read(judge, render_all(scenes[start : start + LOT], shape)) for start in range(0, len(scenes), LOT)]
    return [words for part, _ in parts for words in part], torch.cat([features for _, features in parts])


def render_all(scenes: Sequence[Scene], shape: VideoShape) -> Tensor:
    """Clips (B,3,T,H,W) of the scenes in a shape, at FPS."""
    return render(scenes, frames=shape.frames, height=shape.height, width=shape.width, fps=FPS)


def _table(rows: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Shares as a table of percentages: a line of column names, then one a row; a blank where a row lacks one."""
    columns = max((list(row) for row in rows.values()), key=len)
    first = max(map(len, rows)) + 2
    yield "  " + " " * first + "".join(f"{name.removeprefix('first ').removeprefix('second '):>9}" for name in columns)
    for label, row in rows.items():
        cells = (f"{100 * row[name]:9.1f}" if name in row else " " * 9 for name in columns)
        yield "  " + label.ljust(first) + "".join(cells)
