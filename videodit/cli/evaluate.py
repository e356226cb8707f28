"""`videodit evaluate`: how well a model follows the prompts of a benchmark, and how well its VAE reconstructs."""

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
from videodit.errors import InputError, did_you_mean
from videodit.eval.page import page
from videodit.eval.protocol import PROMPTS_SEED, Ask, Benchmark, by_shape, follow
from videodit.eval.report import by_time, reconstruction, summary, write_json
from videodit.features.frames import opencv
from videodit.features.measures import MEASURES
from videodit.generate.pipe import Pipe, load
from videodit.generate.request import check_keys, given_of
from videodit.printable import answer
from videodit.shapes import LatentShape
from videodit.toy.benchmark import ToyBenchmark
from videodit.toy.judge import Judge
from videodit.track.progress import Progress

JUDGES = {"judge": (Judge, ToyBenchmark)}  # by the architecture that a file of judge= states
BINS = 10  # of time, for the held-out loss
CLIPS_SEED = 3_000_000  # of the scenes that go through the VAE; training uses small seeds


def run(asked: Evaluate) -> None:
    """Evaluate `asked.model`, write the report into the folder `asked.out`, print its numbers."""
    check(asked)
    check_output(Path(asked.out) / "report.json")
    path = Path(asked.judge) if asked.judge else assets_dir() / "judge.safetensors"
    benchmark, out = load_judge(path), Path(asked.out)
    pipe = load(asked.model, device=asked.device or None, base=asked.base, kernel=asked.kernel)
    report: dict[str, Any] = {
        "model": pipe.parts.name,
        "weights": pipe.parts.fingerprints,
        "judge": fingerprint(path),
        "request": pipe.defaults | request(asked),
        "seed": asked.seed,
    }
    report |= measure(asked, pipe, benchmark, out)
    write_json(out / "report.json", report)
    answer(*summary(report))
    answer(f"written: {out / 'report.json'} and a page of clips for each kind of prompt")


def measure(asked: Evaluate, pipe: Pipe, benchmark: Benchmark, out: Path) -> dict[str, Any]:
    """The sections of the report that `asked` asks for; writes the pages of clips on the way."""
    sections: dict[str, Any] = {}
    if asked.clips:
        device = pipe.parts.device
        with doing("reconstruct clips"):
            how = {"count": asked.clips, "seed": CLIPS_SEED, "batch": asked.batch, "device": device}
            sections["reconstruction"] = reconstruction(pipe.parts.vae, benchmark, benchmark.shapes, **how)
    if asked.losses:
        with doing("losses on held-out clips"):
            sections["loss"] = by_time(*held_out_losses(pipe, benchmark, asked.losses, asked.batch), BINS)
    sections["prompts"] = {}
    for kind in asked.prompts:
        with asking(asked, asked.count, f"{kind} prompts", 1) as ask:
            sections["prompts"][kind], shown = follow(pipe, benchmark, kind, benchmark.shape, ask)
        page(out / f"{kind}.png", shown[: asked.page], columns=2)
        write_json(out / "report.json", sections)  # what is known so far, should the rest be cut off
    if asked.shapes:
        with asking(asked, asked.shapes, "shapes", len(benchmark.shapes)) as ask:
            sections["shapes"] = by_shape(pipe, benchmark, ask)
    return sections


@torch.no_grad()
def held_out_losses(pipe: Pipe, benchmark: Benchmark, count: int, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The training loss on real clips of what prompts of the first kind ask for, which no training sees: times spread
    evenly over (0,1) and the mean squared error of each clip at its time, (N,) each."""
    times = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    pairs, losses = benchmark.prompts(benchmark.kinds[0], count, PROMPTS_SEED), []
    for part in torch.arange(count).split(batch):
        clips = benchmark.render([pairs[i][1] for i in part], benchmark.shape).to(pipe.parts.device)
        latents = list(pipe.parts.vae.encode(clips.to(pipe.parts.vae.mean.dtype)).float())
        shapes = [LatentShape(*x.shape[1:]) for x in latents]
        noise = [pipe.noise(int(i), shape).to(x) for i, shape, x in zip(part, shapes, latents, strict=True)]
        points = list(zip(latents, noise, times[part], strict=True))
        predict = pipe.network(pipe.parts.experts[0], pipe.encode([pairs[i][0] for i in part]), times[part])
        predicted = predict([pipe.path.add_noise(*point) for point in points], times[part])
        wanted = [pipe.path.target(*point) for point in points]
        losses += [(x.float() - y).square().mean().cpu() for x, y in zip(predicted, wanted, strict=True)]
    return times, torch.stack(losses)


@contextmanager
def asking(asked: Evaluate, count: int, label: str, rounds: int) -> Iterator[Ask]:
    """How to ask for clips, with a progress bar that follows."""
    with Progress(total=count * rounds, label=label) as progress:
        measures = [one for one in MEASURES if one.name in asked.measures]
        yield Ask(count, asked.seed, asked.batch, request(asked), lambda done, total: progress.update(done), measures)


def request(asked: Evaluate) -> dict[str, Any]:
    """What the command line says about sampling; the model's own settings stand for the rest."""
    return given_of({key: getattr(asked, key) for key in SAMPLED})


def check(asked: Evaluate) -> None:
    """Raise InputError, naming the key, for what cannot be evaluated."""
    check_keys(request(asked))
    known = [one.name for one in MEASURES]
    if strange := [name for name in asked.measures if name not in known]:
        told = f"measures: no such measure {strange[0]!r}; there are {', '.join(known)}"
        raise InputError(told + did_you_mean(strange[0], known))
    if asked.measures:
        opencv()  # say now where it is not there
    if Path(asked.out).is_file():
        raise InputError(f"out={asked.out}: is a file; give the name of a folder")


def load_judge(path: Path) -> Benchmark:
    """The benchmark of the judge in a file, such as tools/train_judge.py writes, with the judge in float32.

    Raises InputError for anything else.
    """
    tensors, header = load_tensors(path)
    if header.get("architecture") not in JUDGES:
        raise InputError(f"{path} holds no judge")
    network, benchmark = JUDGES[header["architecture"]]
    with torch.device("meta"):
        judge = network(**header["arguments"])
    give(judge, tensors, source=path, dtype=torch.float32)
    return benchmark(judge.eval())
