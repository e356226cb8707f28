"""The training loop, for the VAE and the DiT alike: objects in, nothing configured inside.

    for each step:  batches -> objective.loss -> backward -> clip -> optimizer -> EMA -> tracker -> checkpoint

Everything random is a function of (seed, step, sample), so a run killed at any moment and started again gives the same
losses and weights as one that was never killed (compare NVlabs/edm2's loop).
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from videodit.errors import InputError
from videodit.track.progress import Progress
from videodit.track.tracker import Tracker
from videodit.train.ema import EMA
from videodit.train.optim import Optimizer
from videodit.train.state import Checkpoints


class Objective(Protocol):
    """What is trained and for what."""

    module: nn.Module

    def loss(self, batch: Any, step: int) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch and numbers worth tracking."""

    def size(self, batch: Any) -> dict[str, float]:
        """How much work a batch is: {"clips": …, "tokens": …, "flops": …}; empty batches have 0 clips."""

    def publish(self, folder: Path, averages: dict[str, Tensor]) -> None:
        """Write the averaged weights as a model that `model=folder` opens."""


@dataclass(frozen=True)
class Settings:
    """Numbers of the loop.

    steps: how many in all. accumulate: batches a step. clip_norm: gradient norm above which gradients are scaled down.
    max_bad: consecutive steps with a non-finite loss or gradient after which the run stops.
    *_every: steps between records, checkpoints and samples. matmul_rate: the machine's flops a second, 0 if unknown.
    """

    steps: int
    accumulate: int
    clip_norm: float
    max_bad: int
    log_every: int
    save_every: int
    sample_every: int
    matmul_rate: float


class Run:
    """One training run in a folder. `fit` starts it or goes on with it."""

    def __init__(
        self,
        *,
        folder: Path,
        objective: Objective,
        batches: Callable[[int, int], Iterator],
        optimizer: Optimizer,
        ema: EMA,
        checkpoints: Checkpoints,
        tracker: Tracker,
        settings: Settings,
        precision: torch.dtype,
        config: dict[str, Any],
        sample: Callable[[int], None],
    ) -> None:
        """batches: (start, stop) -> iterator; sample: called with the step while the module holds the EMA weights."""
        self.folder, self.objective, self.batches, self.optimizer = folder, objective, batches, optimizer
        self.ema, self.checkpoints, self.tracker, self.settings = ema, checkpoints, tracker, settings
        self.precision, self.config, self.sample = precision, config, sample
        self.step = self.bad = self.bad_total = self.skipped = 0
        self.seen = {"clips": 0.0, "tokens": 0.0}

    def fit(self) -> None:
        """Train until `settings.steps`, from the newest checkpoint if there is one."""
        self.resume()
        self.tracker.start(self.config, self.step)
        todo = self.batches(self.step * self.settings.accumulate, self.settings.steps * self.settings.accumulate)
        meter = Meter(self.settings.matmul_rate)
        try:
            with Progress(total=self.settings.steps, start=self.step, label=self.folder.name) as progress:
                while self.step < self.settings.steps:
                    waited = time.perf_counter()
                    micro = [next(todo) for _ in range(self.settings.accumulate)]
                    meter.waited += time.perf_counter() - waited
                    values = self.advance(micro)
                    meter.add(self.total_size(micro), values)
                    shown = meter.shown()
                    if self.step % self.settings.log_every == 0 or self.step == self.settings.steps:
                        self.tracker.scalars(self.step, meter.flush() | {"skipped clips": float(self.skipped)})
                    progress.update(self.step, **shown)
                    self.at_intervals()
        finally:
            self.tracker.finish()

    def advance(self, micro: list[Any]) -> dict[str, float]:
        """One optimizer step over the micro-batches; a non-finite loss or gradient skips the update."""
        self.report_skipped(micro)
        micro = [batch for batch in micro if self.objective.size(batch)["clips"]]
        weights = [self.objective.size(batch)["tokens"] for batch in micro]
        values: dict[str, float] = {}
        for batch, weight in zip(micro, weights, strict=True):
            amp = torch.autocast(_device(self.objective.module).type, self.precision)
            with amp if self.precision != torch.float32 else contextlib.nullcontext():
                loss, numbers = self.objective.loss(batch, self.step)
            (loss * (weight / sum(weights))).backward()
            for name, value in {"loss": loss.item(), **numbers}.items():
                values[name] = values.get(name, 0.0) + value * weight / sum(weights)
        norm = torch.nn.utils.clip_grad_norm_(self.optimizer.parameters, self.settings.clip_norm).item()
        if math.isfinite(norm) and math.isfinite(values.get("loss", 0.0)):
            factor = self.optimizer.step(self.step)
            self.ema.update(self.step)
            values |= {"gradient norm": norm, "lr factor": factor}
            self.bad = 0
        else:
            self.count_bad(values.get("loss", math.nan), norm)
        self.optimizer.zero_grad()
        self.step += 1
        for name in self.seen:
            self.seen[name] += sum(self.objective.size(batch)[name] for batch in micro)
        return values

    def at_intervals(self) -> None:
        """Save and sample where it is time."""
        done = self.step == self.settings.steps
        if done or self.step % self.settings.save_every == 0:
            self.save()
        if done or self.step % self.settings.sample_every == 0:
            self.ema.swap()
            self.objective.module.eval()
            with torch.no_grad():
                self.sample(self.step)
            self.objective.module.train()
            self.ema.swap()

    def save(self) -> None:
        """Write a checkpoint, and the averaged weights as a model."""
        info = {"bad": self.bad, "bad_total": self.bad_total, "skipped": self.skipped, "seen": self.seen}
        parts = {"model": self.objective.module.state_dict(), "ema": self.ema.averages, "optim": self.optimizer.state()}
        self.checkpoints.save(self.step, parts, info)
        self.objective.publish(self.folder / "model", self.ema.averages)

    def resume(self) -> None:
        """Take over the newest checkpoint of the folder, if any."""
        found = self.checkpoints.latest()
        if found is None:
            return
        parts, info = found
        self.objective.module.load_state_dict(parts["model"])
        self.ema.load(parts["ema"])
        self.optimizer.load(parts.get("optim", {}))
        self.step, self.bad, self.bad_total = info["step"], info["bad"], info["bad_total"]
        self.skipped, self.seen = info["skipped"], info["seen"]

    def count_bad(self, loss: float, norm: float) -> None:
        """Report a skipped update; stop the run after too many in a row."""
        self.bad, self.bad_total = self.bad + 1, self.bad_total + 1
        print(f"step {self.step}: loss {loss}, gradient norm {norm}: update skipped", file=sys.stderr)
        if self.bad >= self.settings.max_bad:
            raise InputError(
                f"{self.bad} updates in a row had a non-finite loss or gradient (step {self.step}); the last "
                f"checkpoint in {self.checkpoints.folder} is sound: lower the learning rate and run again"
            )

    def report_skipped(self, micro: list[Any]) -> None:
        """Count clips that could not be read, and keep their paths and reasons in skipped.jsonl."""
        for path, reason in (entry for batch in micro for entry in batch.skipped):
            self.skipped += 1
            print(f"skipped {path}: {reason}", file=sys.stderr)
            with (self.folder / "skipped.jsonl").open("a") as file:
                file.write(json.dumps({"step": self.step, "path": path, "reason": reason}) + "\n")

    def total_size(self, micro: list[Any]) -> dict[str, float]:
        """Work of all micro-batches of a step."""
        sizes = [self.objective.size(batch) for batch in micro]
        return {name: sum(size[name] for size in sizes) for name in sizes[0]}


class Meter:
    """Means of numbers and rates since the last flush."""

    def __init__(self, matmul_rate: float) -> None:
        self.matmul_rate = matmul_rate
        self.reset()

    def reset(self) -> None:
        """Begin a new interval."""
        self.started, self.waited, self.count = time.perf_counter(), 0.0, 0
        self.sums: dict[str, float] = {}
        self.work: dict[str, float] = {}

    def add(self, size: dict[str, float], values: dict[str, float]) -> None:
        """Take in one step."""
        self.count += 1
        for sums, new in ((self.sums, values), (self.work, size)):
            for name, value in new.items():
                sums[name] = sums.get(name, 0.0) + value

    def rates(self) -> dict[str, float]:
        """Clips/s, tokens/s, share of the machine's matmul rate, share of the time spent waiting for data."""
        seconds = time.perf_counter() - self.started
        rates = {f"{name}/s": self.work.get(name, 0.0) / seconds for name in ("clips", "tokens")}
        if self.matmul_rate:
            rates["matmul share"] = self.work.get("flops", 0.0) / seconds / self.matmul_rate
        return rates | {"data wait": self.waited / seconds}

    def shown(self) -> dict[str, float]:
        """What the progress bar shows."""
        return {"loss": self.sums.get("loss", 0.0) / max(1, self.count), **self.rates()}

    def flush(self) -> dict[str, float]:
        """Means and rates of the interval, which ends here."""
        values = {name: value / self.count for name, value in self.sums.items()} | self.rates()
        self.reset()
        return values


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
