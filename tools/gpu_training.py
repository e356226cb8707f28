"""Training for tools/gpu_sections.py: steps of `train.loop.Run` on latents and text states that are at hand."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from gpu_parts import Page, family, random_network
from pack_kinds import CAPTIONS, KINDS, Stored, epoch
from torch import Tensor, nn

from videodit.config import Launch
from videodit.data.batches import LatentBatch
from videodit.data.packing import Share, Work
from videodit.models.interfaces import Denoiser
from videodit.models.pack import Context, Ragged, Times, patchify
from videodit.parallel.mesh import Mesh
from videodit.parallel.shard import forget, parallelize
from videodit.parallel.store import Checkpoints
from videodit.plan.machine import limits
from videodit.plan.training import Training, dit_step
from videodit.shapes import LatentShape
from videodit.track.tracker import Tracker
from videodit.train.ema import EMA
from videodit.train.loop import Run
from videodit.train.machine import Compute, keep_freed_memory, matmul_rate
from videodit.train.meter import Means
from videodit.train.optim import adamw
from videodit.train.settings import Loop

WORDS = 20  # states of a caption
WARM = 2  # steps before any is timed


class Denoising:
    """Mean squared error of the velocity, as `train.dit_step.FlowObjective` has it, with text states at hand."""

    complete = True

    def __init__(self, dit: Denoiser, device: torch.device) -> None:
        self.dit, self.device, self.module = dit, device, nn.ModuleDict({"dit": dit})
        of = torch.Generator().manual_seed(0)
        self.states = torch.randn(WORDS, dit.streams["text"].width, generator=of).to(device)

    def loss(self, batch: LatentBatch, step: int) -> tuple[Tensor, Means]:
        """Of a batch, with noise and times of this step."""
        of = torch.Generator().manual_seed(step)
        data = [x.to(self.device) for x in batch.latents]
        noise = [torch.randn(x.shape, generator=of).to(self.device) for x in batch.latents]
        t = torch.rand(len(data), generator=of, dtype=torch.float64)
        noisy = [(1 - a.item()) * x + a.item() * e for a, x, e in zip(t, data, noise, strict=True)]
        pack = patchify(noisy, self.dit.patch)
        context = Context({"text": Ragged(self.states.repeat(len(data), 1), (WORDS,) * len(data))})
        out = self.dit(pack, Times.per_clip(t), self.dit.prepare(context, pack))
        target = patchify([e - x for e, x in zip(noise, data, strict=True)], self.dit.patch).tokens
        return (out.float() - target).square().mean(), Means()

    def size(self, batch: LatentBatch) -> dict[str, float]:
        """Clips, tokens, and operations of forward and backward: nothing for what is computed again."""
        counts = [LatentShape(*x.shape[1:]).grid(self.dit.patch).count for x in batch.latents]
        flops = 3.0 * sum(self.dit.flops(count, WORDS) for count in counts)
        return {"clips": float(len(counts)), "tokens": float(sum(counts)), "flops": flops}

    def publish(self, folder: Path, averages: dict[str, Tensor], step: int) -> None:
        """Nothing is saved here."""
        raise NotImplementedError


def run_of(page: Page, spec: dict[str, Any], folder: Path, recompute: str, *, compiled: bool = False) -> Run:
    """A run of this DiT ready for `advance`, in bfloat16 on a GPU."""
    if not page.cuda:
        keep_freed_memory()  # as `videodit train` does
    dit = random_network(spec, page.device, torch.float32)
    objective = Denoising(dit, page.device)
    mesh = Mesh(launch=Launch(), device=page.device, sizes=(1, 1, 1))
    if compiled:
        from videodit.accel.compiling import compile_blocks

        forget(objective.module, recompute)
        for stack in dit.stacks().values():
            compile_blocks(stack, backend=page.scale.backend)
    else:
        parallelize(objective.module, mesh, recompute=recompute, compile=False, offload=False, precision=page.dtype)
    never = 10**9
    return Run(
        folder=folder, objective=objective, batches=lambda start, stop: iter(()), tracker=Tracker(), config={},
        optimizer=adamw(objective.module, lr=1e-4, text_lr=1e-4, betas=(0.9, 0.95), weight_decay=0.0,
                        curve=lambda step: 1.0),
        ema=EMA(module=objective.module, decay=0.99), compute=Compute(page.dtype), mesh=mesh, sample=lambda step: None,
        checkpoints=Checkpoints(folder=folder / "checkpoints", keep=1, mesh=mesh),
        settings=Loop(steps=1, clip_norm=1.0, max_bad=5, log_every=never, save_every=never, sample_every=never),
    )  # fmt: skip


def batch_of(shapes: Sequence[tuple[int, int, int]], channels: int) -> LatentBatch:
    """Random latents of these shapes."""
    latents = [torch.randn(channels, *shape) for shape in sorted(shapes, key=lambda s: s[0] * s[1] * s[2])]
    return LatentBatch(latents, [CAPTIONS[0]] * len(latents), list(range(len(latents))))


def plan_of(page: Page, recompute: str) -> int:
    """Bytes that the plan of a training says of such a step."""
    spec = family(page, page.scale.models[0])["dit"]
    spec = {key: spec[key] for key in ("architecture", "arguments")}
    shapes = [LatentShape(*shape) for shape in page.scale.batch]
    how = Training(page.dtype, (), False, change=lambda networks: forget(networks, recompute))
    found = dit_step({"dit": spec}, shapes, {"text": (WORDS,) * len(shapes)}, how)
    return found.state + found.peak


def room(page: Page) -> int:
    """Bytes that the device has left."""
    return limits(page.device)[0].free


def step_row(page: Page, name: str, recompute: str, need: int | None, most: float, *, compiled: bool) -> None:
    """A row for steps on the scale's batch; with what was planned, one of memory. `most`: flops of the data sheet."""
    spec = family(page, page.scale.models[0])["dit"]
    before = page.held()
    with tempfile.TemporaryDirectory() as folder:
        run = run_of(page, spec, Path(folder), recompute, compiled=compiled)
        batch = batch_of(page.scale.batch, spec["arguments"]["channels"])
        for _ in range(WARM):
            run.advance([batch])
        peak = page.peak(lambda: run.advance([batch])) - before
        if need is not None:
            page.beside_plan(f"training 1.3B, {name}", need, peak)
        seconds, work, losses = [], {}, {}
        for _ in range(page.scale.rounds):
            began = page.now()
            work, losses = run.advance([batch])
            seconds.append(page.now() - began)
    took = median(seconds)
    rate = matmul_rate(page.device, page.dtype, seconds=5 * page.scale.least)
    speed = work["flops"] / took
    page.row("training", step=name, tokens=work["tokens"], **{
        "s": took, "tokens/s": work["tokens"] / took, "TFLOP/s": speed / 1e12, "matmul TFLOP/s": rate / 1e12,
        "MFU of matmul": speed / rate, "MFU of 989 TFLOP/s": speed / most if page.cuda else None,
    })  # fmt: skip
    if not losses.get("loss", float("nan")) < float("inf"):
        page.fail(f"{name}: the loss is {losses.get('loss')}")


def packs_beside_buckets(page: Page) -> None:
    """A row for each kind: the same clips, budget and step; all steps in a random order, anew each round."""
    spec = family(page, page.scale.models[0])["dit"]
    spec["arguments"]["layers"] = page.scale.layers
    channels, shapes = spec["arguments"]["channels"], page.scale.clips
    weights = np.array([1 / shape[0] ** 0.5 for shape in shapes])  # more short ones than long
    places = np.random.default_rng(0).choice(len(shapes), size=page.scale.count, p=weights / weights.sum())
    places[: len(shapes)] = np.arange(len(shapes))
    cache = Stored([torch.randn(channels, *shapes[place]) for place in places])
    how = {"cache": cache, "tokens": page.scale.budget, "most": None, "patch": tuple(spec["arguments"]["patch"]),
           "image": 0.0, "whole": 1.0, "work": Work(), "share": Share(), "seed": 0}  # fmt: skip
    kinds = {name: KINDS[name](**how) for name in ("packs", "buckets")}
    steps = {
        (name, place): [kinds[name]._read(*pack) for pack in step[0]]
        for name in kinds
        for place, step in enumerate(epoch(kinds[name]))
    }
    tokens: dict[tuple[str, int], float] = {}
    seconds: dict[tuple[str, int], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        run = run_of(page, spec, Path(folder), "nothing")
        for key in list(steps):  # all shapes once: libraries choose how to compute each
            run.advance(steps[key])
        for number in range(page.scale.rounds):
            if number and not page.enough(f"round {number + 1} of packs and buckets", 10):
                break
            for place in np.random.default_rng(number).permutation(len(steps)):
                key = list(steps)[place]
                began = page.now()
                tokens[key] = run.advance(steps[key])[0]["tokens"]
                seconds[key].append(page.now() - began)
    rates = {}
    for name in ("buckets", "packs"):
        own = [key for key in steps if key[0] == name]
        rates[name] = sum(tokens[key] for key in own) / sum(median(seconds[key]) for key in own)
        ratio = rates[name] / rates["buckets"]
        page.row("packs", kind=name, steps=len(own), **{"tokens/s": rates[name], "beside buckets": ratio})
    page.note(f"layers={page.scale.layers}, as wide as 1.3B's, AdamW, {page.scale.budget} tokens a step, "
              f"{len(cache)} clips of {len(shapes)} shapes.")  # fmt: skip
