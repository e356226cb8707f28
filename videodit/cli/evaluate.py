"""`videodit evaluate`: how well a model of the toy world follows prompts, and how well its VAE reconstructs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from videodit.alive import doing
from videodit.atomic import check_output
from videodit.checkpoint.store import give, load_tensors
from videodit.checkpoint.weights import fingerprint
from videodit.cli.settings import SAMPLED, Evaluate
from videodit.config import assets_dir
from videodit.data.toy import evaluation_prompts
from videodit.errors import InputError
from videodit.eval.attributes import Judge
from videodit.eval.page import page
from videodit.eval.report import (
    ORDINARY,
    PROMPTS_SEED,
    SHAPES,
    Ask,
    by_shape,
    by_time,
    follow,
    reconstruction,
    render_all,
    summary,
    write_json,
)
from videodit.generate.pipe import Pipe, load
from videodit.generate.request import check_keys, given_of
from videodit.printable import answer
from videodit.shapes import LatentShape
from videodit.track.progress import Progress

BINS = 10  # of time, for the held-out loss
CLIPS_SEED = 3_000_000  # of the scenes that go through the VAE; training uses small seeds


def run(asked: Evaluate) -> None:
    """Evaluate `asked.model`, write the report into the folder `asked.out`, print its numbers."""
    check(asked)
    check_output(Path(asked.out) / "report.json")
    path = Path(asked.judge) if asked.judge else assets_dir() / "judge.safetensors"
    judge, out = load_judge(path), Path(asked.out)
    pipe = load(asked.model, device=asked.device or None, base=asked.base, kernel=asked.kernel)
    report: dict[str, Any] = {
        "model": pipe.parts.name,
        "weights": pipe.parts.fingerprints,
        "judge": fingerprint(path),
        "request": pipe.defaults | request(asked),
        "seed": asked.seed,
    }
    report |= measure(asked, pipe, judge, out)
    write_json(out / "report.json", report)
    answer(*summary(report))
    answer(f"written: {out / 'report.json'} and a page of clips for each kind of prompt")


def measure(asked: Evaluate, pipe: Pipe, judge: Judge, out: Path) -> dict[str, Any]:
    """The sections of the report that `asked` asks for; writes the pages of clips on the way."""
    sections: dict[str, Any] = {}
    if asked.clips:
        device = pipe.parts.device
        with doing("reconstruct clips"):
            sections["reconstruction"] = reconstruction(
                pipe.parts.vae, SHAPES, count=asked.clips, seed=CLIPS_SEED, batch=asked.batch, device=device
            )
    if asked.losses:
        with doing("losses on held-out clips"):
            sections["loss"] = by_time(*held_out_losses(pipe, asked.losses, asked.batch), BINS)
    sections["prompts"] = {}
    for kind in asked.prompts:
        with asking(asked, asked.count, f"{kind} prompts", 1) as ask:
            sections["prompts"][kind], shown = follow(pipe, judge, kind, ORDINARY, ask)
        page(out / f"{kind}.png", shown[: asked.page], columns=2)
        write_json(out / "report.json", sections)  # what is known so far, should the rest be cut off
    if asked.shapes:
        with asking(asked, asked.shapes, "shapes", len(SHAPES)) as ask:
            sections["shapes"] = by_shape(pipe, judge, ask)
    return sections


@torch.no_grad()
def held_out_losses(pipe: Pipe, count: int, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The training loss on rendered clips of the ordinary prompts' scenes, which no training sees: times spread evenly
    over (0,1) and the mean squared error of each clip at its time, (N,) each."""
    times = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    pairs, losses = evaluation_prompts("ordinary", count, PROMPTS_SEED), []
    for part in torch.arange(count).split(batch):
        clips = render_all([pairs[i][1] for i in part], ORDINARY).to(pipe.parts.device)
        latents = list(pipe.parts.vae.encode(clips.to(pipe.parts.vae.mean.dtype)).float())
        shapes = [LatentShape(*x.shape[1:]) for x in latents]
        noise = [pipe.noise(int(i), shape).to(x) for i, shape, x in zip(part, shapes, latents, strict=True)]
        points = list(zip(latents, noise, times[part], strict=True))
        predict = pipe.network("dit", pipe.encode([pairs[i][0] for i in part]), times[part])
        predicted = predict([pipe.path.add_noise(*point) for point in points], times[part])
        wanted = [pipe.path.target(*point) for point in points]
        losses += [(x.float() - y).square().mean().cpu() for x, y in zip(predicted, wanted, strict=True)]
    return times, torch.stack(losses)


@contextmanager
def asking(asked: Evaluate, count: int, label: str, rounds: int) -> Iterator[Ask]:
    """How to ask for clips, with a progress bar that follows."""
    with Progress(total=count * rounds, label=label) as progress:
        yield Ask(count, asked.seed, asked.batch, request(asked), lambda done, total: progress.update(done))


def request(asked: Evaluate) -> dict[str, Any]:
    """What the command line says about sampling; the model's own settings stand for the rest."""
    return given_of({key: getattr(asked, key) for key in SAMPLED})


def check(asked: Evaluate) -> None:
    """Raise InputError, naming the key, for what cannot be evaluated."""
    check_keys(request(asked))
    if Path(asked.out).is_file():
        raise InputError(f"out={asked.out}: is a file; give the name of a folder")


def load_judge(path: Path) -> Judge:
    """The judge in a file that tools/train_judge.py wrote, in float32. Raises InputError for anything else."""
    tensors, header = load_tensors(path)
    if header.get("architecture") != "judge":
        raise InputError(f"{path} holds no judge")
    with torch.device("meta"):
        judge = Judge(**header["arguments"])
    give(judge, tensors, source=path, dtype=torch.float32)
    return judge.eval()
