"""The training loop, for the VAE and the DiT alike: objects in, nothing configured inside.

    for each step:  batches -> objective.loss -> backward -> clip -> optimizer -> EMA -> tracker -> checkpoint

Everything random is a function of (seed, batch number, sample), so a run killed at any moment and started again gives
the same losses and weights as one that was never killed (compare NVlabs/edm2's loop).
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from videodit.errors import InputError
from videodit.track.progress import Progress
from videodit.track.tracker import Tracker
from videodit.train.ema import EMA
from videodit.train.meter import Means, Meter
from videodit.train.optim import Optimizer
from videodit.train.state import Checkpoints


class Objective(Protocol):
    """What is trained and for what."""

    module: nn.Module

    def loss(self, batch: Any, number: int) -> tuple[Tensor, dict[str, float]]:
        """The loss of batch number `number` of the run, which seeds what is random in it; numbers worth tracking."""

    def size(self, batch: Any) -> dict[str, float]:
        """How much work a batch is: {"clips": …, "tokens": …, "flops": …}; empty batches have 0 clips."""

    def publish(self, folder: Path, averages: dict[str, Tensor]) -> None:
        """Write the averaged weights as a model that `model=folder` opens."""


@dataclass(frozen=True)
class Settings:
    """Numbers of the loop. Raises InputError, naming the key, for one that makes no sense.

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

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "max_bad", "log_every", "save_every", "sample_every"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"loop.{name}={value}: must be a whole number, at least 1")
        if not isinstance(self.clip_norm, int | float) or not self.clip_norm > 0:
            raise InputError(f"loop.clip_norm={self.clip_norm}: must be a number above 0")


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
        self.told: set[str] = set()

    def fit(self) -> None:
        """Train until `settings.steps`, from the newest checkpoint if there is one."""
        self.resume()
        steps, accumulate = self.settings.steps, self.settings.accumulate
        batches = self.batches(self.step * accumulate, steps * accumulate)
        meter = Meter(matmul_rate=self.settings.matmul_rate)
        with self.tracker, Progress(total=steps, start=self.step, label=self.folder.name) as progress:
            self.tracker.start(self.config, self.step)
            while self.step < steps:
                with meter.waiting():
                    micro = list(islice(batches, accumulate))
                meter.add(*self.advance(micro))
                progress.update(self.step, **meter.shown())
                if self.step % self.settings.log_every == 0 or self.step == steps:
                    counts = {"skipped clips": float(self.skipped), "skipped updates": float(self.bad_total)}
                    self.tracker.scalars(self.step, meter.flush() | counts)
                with meter.paused():
                    self.at_intervals()

    def advance(self, micro: list[Any]) -> tuple[dict[str, float], dict[str, float]]:
        """One step over micro-batches, which together count as one batch -> how much work it was, and its numbers."""
        self.report_skipped(micro)
        sizes = [self.objective.size(batch) for batch in micro]
        work = {name: sum(size[name] for size in sizes) for name in sizes[0]}
        numbers = Means()
        for place, (batch, size) in enumerate(zip(micro, sizes, strict=True)):
            if size["clips"]:
                with self.autocast():
                    loss, values = self.objective.loss(batch, self.step * self.settings.accumulate + place)
                (loss * (size["tokens"] / work["tokens"])).backward()
                numbers.add({"loss": loss.item(), **values}, size["tokens"])
        values = self.update(numbers.all()) if work["clips"] else {}
        self.step += 1
        for name in self.seen:
            self.seen[name] += work[name]
        return work, values

    def update(self, values: dict[str, float]) -> dict[str, float]:
        """Change the weights, unless the loss or the gradient is not finite: then that is counted. -> the numbers."""
        norm = torch.nn.utils.clip_grad_norm_(self.optimizer.parameters, self.settings.clip_norm).item()
        if math.isfinite(norm) and math.isfinite(values["loss"]):
            values |= {"gradient norm": norm, "lr factor": self.optimizer.step(self.step)}
            self.ema.update(self.step)
            self.bad = 0
        else:
            self.count_bad(values["loss"], norm)
            values = {}
        self.optimizer.zero_grad()
        return values

    def autocast(self) -> AbstractContextManager:
        """Where the loss is computed."""
        device = next(self.objective.module.parameters()).device
        return nullcontext() if self.precision == torch.float32 else torch.autocast(device.type, self.precision)

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
        """Take over the newest checkpoint of the folder, if any. Raises InputError if it is of another model."""
        found = self.checkpoints.latest()
        if found is None:
            return
        parts, info = found
        ours = {name: value.shape for name, value in self.objective.module.state_dict().items()}
        if ours != {name: value.shape for name, value in parts["model"].items()}:
            raise InputError(
                f"{self.checkpoints.folder} is of another model than this one: fresh=true starts over, "
                "another name= or run_dir= keeps both"
            )
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
        """Count clips that could not be read. Each is told once, and stands in skipped.jsonl with the reason."""
        for path, reason in (entry for batch in micro for entry in batch.skipped):
            self.skipped += 1
            if path not in self.told:
                self.told.add(path)
                print(f"skipped {path}: {reason}", file=sys.stderr)
                with (self.folder / "skipped.jsonl").open("a") as file:
                    file.write(json.dumps({"step": self.step, "path": path, "reason": reason}) + "\n")
