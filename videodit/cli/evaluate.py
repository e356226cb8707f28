"""`videodit evaluate`: how well a model of the toy world follows prompts, and how well its VAE reconstructs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from videodit.alive import doing
from videodit.atomic import check_output
from videodit.checkpoint.store import give, load_tensors
from videodit.checkpoint.weights import fingerprint
from videodit.config import assets_dir
from videodit.data.toy import evaluation_prompts
from videodit.errors import InputError
from videodit.eval.attributes import Judge
from videodit.eval.page import page
from videodit.eval.report import (
    KINDS_OF_PROMPT,
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
from videodit.generate import Pipe, load
from videodit.printable import answer
from videodit.shapes import LatentShape
from videodit.track.progress import Progress

if TYPE_CHECKING:
    from omegaconf import DictConfig

BINS = 10  # of time, for the held-out loss
CLIPS_SEED = 3_000_000  # of the scenes that go through the VAE; training uses small seeds


def run(cfg: DictConfig) -> None:
    """Evaluate `cfg.model`, write the report into the folder `cfg.out`, print its numbers."""
    check(cfg)
    check_output(Path(cfg.out) / "report.json")
    path = Path(cfg.judge) if cfg.judge else assets_dir() / "judge.safetensors"
    judge, out = load_judge(path), Path(cfg.out)
    pipe = load(cfg.model, device=cfg.device or None, base=cfg.base, kernel=cfg.kernel)
    report: dict[str, Any] = {
        "model": pipe.parts.name,
        "weights": pipe.parts.fingerprints,
        "judge": fingerprint(path),
        "request": pipe.defaults | request(cfg),
        "seed": cfg.seed,
    }
    report |= measure(cfg, pipe, judge, out)
    write_json(out / "report.json", report)
    answer(*summary(report))
    answer(f"written: {out / 'report.json'} and a page of clips for each kind of prompt")


def measure(cfg: DictConfig, pipe: Pipe, judge: Judge, out: Path) -> dict[str, Any]:
    """The sections of the report that `cfg` asks for; writes the pages of clips on the way."""
    sections: dict[str, Any] = {}
    if cfg.clips:
        device = pipe.parts.device
        with doing("reconstruct clips"):
            sections["reconstruction"] = reconstruction(
                pipe.parts.vae, SHAPES, count=cfg.clips, seed=CLIPS_SEED, batch=cfg.batch, device=device
            )
    if cfg.losses:
        with doing("losses on held-out clips"):
            sections["loss"] = by_time(*held_out_losses(pipe, cfg.losses, cfg.batch), BINS)
    sections["prompts"] = {}
    for kind in cfg.prompts:
        with asking(cfg, cfg.count, f"{kind} prompts", 1) as ask:
            sections["prompts"][kind], shown = follow(pipe, judge, kind, ORDINARY, ask)
        page(out / f"{kind}.png", shown[: cfg.page], columns=2)
        write_json(out / "report.json", sections)  # what is known so far, should the rest be cut off
    if cfg.shapes:
        with asking(cfg, cfg.shapes, "shapes", len(SHAPES)) as ask:
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
def asking(cfg: DictConfig, count: int, label: str, rounds: int) -> Iterator[Ask]:
    """How to ask for clips, with a progress bar that follows."""
    with Progress(total=count * rounds, label=label) as progress:
        yield Ask(count, cfg.seed, cfg.batch, request(cfg), lambda done, total: progress.update(done))


def request(cfg: DictConfig) -> dict[str, Any]:
    """What the command line says about sampling; the model's own settings stand for the rest."""
    return {key: cfg[key] for key in ("steps", "guidance", "sampler") if cfg[key] is not None}


def check(cfg: DictConfig) -> None:
    """Raise InputError, naming the key, for what cannot be evaluated."""
    for key in ("count", "shapes", "clips", "losses", "page", "batch", "seed"):
        least = 1 if key in ("count", "page", "batch") else 0
        if not isinstance(cfg[key], int) or cfg[key] < least:
            raise InputError(f"{key}={cfg[key]}: must be a whole number, {least} or more")
    for kind in cfg.prompts:
        if kind not in KINDS_OF_PROMPT:
            raise InputError(f"prompts: unknown kind {kind!r}, they are {', '.join(KINDS_OF_PROMPT)}")
    if Path(cfg.out).is_file():
        raise InputError(f"out={cfg.out}: is a file; give the name of a folder")


def load_judge(path: Path) -> Judge:
    """The judge in a file that tools/train_judge.py wrote, in float32. Raises InputError for anything else."""
    tensors, header = load_tensors(path)
    if header.get("architecture") != "judge":
        raise InputError(f"{path} holds no judge")
    with torch.device("meta"):
        judge = Judge(**header["arguments"])
    give(judge, tensors, source=path, dtype=torch.float32)
    return judge.eval()
