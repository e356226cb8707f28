"""The training loop, for the VAE and the DiT alike: objects in, nothing configured inside.

    for each step:  batches -> objective.loss -> backward -> clip -> optimizer -> EMA -> tracker -> checkpoint

Everything random is a function of (seed, step, sample), and which clips make a step does not depend on the number of
processes. So a run killed at any moment and started again gives the same losses and weights as one that was never
killed (compare NVlabs/edm2's loop), and on another number of processes the same within rounding.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from videodit.alive import doing
from videodit.checkpoint.store import write_json
from videodit.errors import InputError, Interrupted
from videodit.parallel.mesh import Mesh
from videodit.parallel.shard import gathered
from videodit.parallel.store import Checkpoints
from videodit.printable import note, warn
from videodit.signals import end, on_stop
from videodit.track.names import SAMPLED
from videodit.track.progress import Progress
from videodit.track.tracker import Tracker
from videodit.train.ema import EMA
from videodit.train.machine import Compute, autocast, peak_memory, release
from videodit.train.made import MODEL, SAMPLES, Made, tidy_run, told_before
from videodit.train.meter import Means, Meter, by_group
from videodit.train.optim import Optimizer
from videodit.train.settings import Loop

REASONS = 8  # of skipped clips that are counted apart


class Objective(Protocol):
    """What is trained and for what."""

    module: nn.Module
    complete: bool  # whether `publish` needs the weights that do not train as well

    def loss(self, batch: Any, step: int) -> tuple[Tensor, Means]:
        """The mean loss of a batch of this step, which seeds what is random in it; numbers worth tracking."""

    def size(self, batch: Any) -> dict[str, float]:
        """How much work a batch is: {"clips": …, "tokens": …, "flops": …}."""

    def publish(self, folder: Path, averages: dict[str, Tensor], step: int) -> None:
        """Write the averaged weights as a model that `model=folder` opens, in files that name their step."""


class Run:
    """One training run in a folder. `fit` starts it or goes on with it."""

    def __init__(
        self,
        *,
        folder: Path,
        objective: Objective,
        batches: Callable[[int, int], Generator[Sequence[Any]]],
        optimizer: Optimizer,
        ema: EMA,
        checkpoints: Checkpoints,
        tracker: Tracker,
        settings: Loop,
        compute: Compute,
        config: dict[str, Any],
        mesh: Mesh,
        sample: Callable[[int], float | None],
    ) -> None:
        """batches: (start, stop) -> for each step the batches that are this process's; sample: called on every process
        with the step while the module holds the EMA weights, gives a measure; config: what the folder keeps.
        """
        self.folder, self.objective, self.batches, self.optimizer = folder, objective, batches, optimizer
        self.ema, self.checkpoints, self.tracker, self.settings = ema, checkpoints, tracker, settings
        self.compute, self.config, self.mesh, self.sample = compute, config, mesh, sample
        self.step = self.bad = self.bad_total = 0
        self.sound: int | None = None  # the last step from which a finite loss came: checkpoints up to it are sound
        self.due = False  # to be saved once the last loss was finite
        self.skipped: dict[str, int] = {}  # by reason
        self.seen = {"clips": 0.0, "tokens": 0.0}
        self.seconds, self.began = 0.0, time.monotonic()  # of the sessions before, as far as kept; when this one did
        self.told: set[str] = set()
        self.meter = Meter(matmul_rate=compute.matmul_rate * mesh.ranks)
        self.made = Made(folder)
        self.measure: float | None = None  # that of the last samples
        self.asked_to_stop = 0  # by which signal to this process
        self.stopping = 0  # agreed among all, before a step: a signal in the middle of one must wait for the next
        self.saved = 0  # the step of the last checkpoint

    def fit(self, unread: Sequence[tuple[str, str]] = ()) -> float | None:
        """Train until `settings.steps`, from the newest checkpoint if there is one. -> the measure of the last samples.

        unread: (path, reason) of clips that were left out before the first step, and told.
        SIGTERM, which schedulers send before they take the machine away, and Ctrl-C save and raise Interrupted.
        """
        self.resume()
        steps, main, undone = self.settings.steps, self.mesh.main, self.undone()
        if self.step >= steps and not undone:
            if main:
                note(__name__, f"{self.folder} is complete at step {self.step}; a larger loop.steps= goes on")
            return self.measure
        if main:  # only now: a start that is refused, or has nothing to do, leaves the record as it was
            write_json(self.folder / "config.json", self.config)
            self.made.go_on(self.step)
            self.told = told_before(self.folder / "skipped.jsonl", self.step)
        batches, meter = self.batches(self.step, steps), self.meter
        progress = Progress(total=steps, start=self.step, label=self.folder.name) if main else None
        with on_stop(self.ask_to_stop), self.checkpoints, self.tracker, progress or nullcontext(), closing(batches):
            self.tracker.start(self.config, self.step)
            for path, reason in unread if self.step == 0 else ():
                self.count_skipped(path, reason, known=True)
            self.make(undone)
            meter.restart()
            while self.step < steps:
                with meter.waiting():
                    micro = next(batches)
                meter.add(*self.advance(micro))
                if progress is not None:
                    progress.update(self.step, **meter.shown())
                if self.settings.is_logged(self.step):
                    self.tracker.scalars(self.step, meter.flush() | self.counts())
                with meter.paused():
                    self.at_intervals()
        return self.measure

    def advance(self, micro: Sequence[Any]) -> tuple[dict[str, float], dict[str, float]]:
        """One step over the batches of all processes, which together count as one -> how much work, and its numbers."""
        sizes = [self.objective.size(batch) for batch in micro]
        work, balance = self.agree(micro, sizes)
        numbers = Means()
        for batch, size in zip(micro, sizes, strict=True):
            if work["clips"] and (not batch.idle or self.mesh.ranks > 1):
                with self.autocast():
                    loss, values = self.objective.loss(batch, self.step)
                share = 0.0 if batch.idle else size["tokens"] / work["tokens"]
                (loss * share).backward()
                if not batch.idle:
                    numbers.add({"loss": loss.item()}, size["tokens"])
                    numbers.join(values.parts())
        means = Means.merged(self.mesh.exchange(numbers.parts())[:: self.mesh.context]).all()
        values = self.update(means) | {"balance": balance} if work["clips"] else {}
        self.step += 1
        for name in self.seen:
            self.seen[name] += work[name]
        return work, values

    def agree(self, micro: Sequence[Any], sizes: Sequence[dict[str, float]]) -> tuple[dict[str, float], float]:
        """What the processes must know of each other before a step: their work, unreadable clips, whether to stop.

        -> the work of all, and their mean share of it over the largest.
        """
        mine = dict.fromkeys(sizes[0], 0.0)
        for batch, size in zip(micro, sizes, strict=True):
            if not batch.idle:
                mine = {name: value + size[name] for name, value in mine.items()}
        skipped = [entry for batch in micro for entry in batch.skipped]
        told = self.mesh.exchange({"work": mine, "skipped": skipped, "stop": self.asked_to_stop})
        shares = told[:: self.mesh.context]
        self.stopping = max(one["stop"] for one in told)  # SIGTERM's number is the larger one
        for path, reason in (entry for one in shares for entry in one["skipped"]):
            self.count_skipped(path, reason)
        work = {name: sum(one["work"][name] for one in shares) for name in mine}
        each = [one["work"].get("flops", one["work"]["tokens"]) for one in shares]
        return work, sum(each) / len(each) / max(each) if max(each) else 1.0

    def update(self, values: dict[str, float]) -> dict[str, float]:
        """Change the weights, unless the loss or the gradient is not finite: then that is counted. -> the numbers."""
        norms = self.optimizer.norms(self.mesh)
        norm = math.sqrt(sum(value**2 for value in norms.values()))
        if math.isfinite(norm) and math.isfinite(values["loss"]):
            self.sound = self.step
            if norm > self.settings.clip_norm:
                self.optimizer.scale(self.settings.clip_norm / (norm + 1e-6))
            values |= {"gradient norm": norm, **by_group(norms, "gradient norm"), **self.optimizer.step(self.step)}
            self.ema.update(self.step)
            self.bad = 0
            if self.settings.is_logged(self.step + 1):
                values["EMA distance"] = self.ema.distance(self.mesh)
        else:
            self.count_bad(values["loss"], norm)
            values = {}
        self.optimizer.zero_grad()
        return values

    def autocast(self) -> AbstractContextManager:
        """Where the loss is computed."""
        return autocast(self.mesh.device, self.compute.precision)

    def at_intervals(self) -> None:
        """Save and sample where it is time; stop where that was asked for. Nothing is saved that may be broken."""
        done = self.step == self.settings.steps
        self.due = self.due or done or self.stopping or self.step % self.settings.save_every == 0
        if self.due and not self.bad:
            self.save()
            self.due = False
        if done and self.bad:
            raise self.diverged()
        if self.stopping and not done:  # the next start makes the samples, if it is time for some
            raise self.interrupted()
        if self.is_sampled():
            self.show()

    def interrupted(self) -> Interrupted:
        """What is told of a run that stops before its end."""
        saved = "not saved, since its loss is not finite: the same command goes on from the checkpoint before"
        saved = saved if self.bad else "saved: the same command goes on from there"
        return Interrupted(f"stopped at step {self.step} and {saved}", by_hand=self.stopping == signal.SIGINT)

    def is_sampled(self) -> bool:
        """Whether samples belong to the present step."""
        return self.step >= self.settings.steps or self.step % self.settings.sample_every == 0

    def show(self) -> None:
        """Make samples. A single process that is asked to stop leaves them to the next start."""
        single = self.mesh.ranks == 1
        try:
            with self.averaged(), on_stop(self.leave) if single else nullcontext():
                if single and self.asked_to_stop:
                    self.leave(self.asked_to_stop)
                with doing(f"samples of step {self.step}"):
                    self.measure = self.sample(self.step)
        except KeyboardInterrupt:
            if not self.asked_to_stop:
                raise
            self.stopping = self.asked_to_stop
            if self.saved != self.step and not self.bad:
                self.save()
            raise self.interrupted() from None
        if self.mesh.main:
            self.made.note(SAMPLES, self.step, self.measure)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """While this lasts the module holds the averages."""
        self.ema.swap()
        self.objective.module.eval()
        release(self.mesh.device)
        # Sharded weights come together in the run's precision, and those under an adapter may be kept in it.
        exact = self.mesh.ranks == 1 and self.objective.complete
        try:
            with torch.no_grad(), nullcontext() if exact else self.autocast():
                yield
        finally:
            release(self.mesh.device)
            self.objective.module.train()
            self.ema.swap()

    def save(self) -> None:
        """Write a checkpoint, and the averaged weights as a model."""
        info = {"bad": self.bad, "bad_total": self.bad_total, "skipped": self.skipped, "seen": self.seen,
                "interval": self.meter.numbers.parts(), "seconds": self.spent()}  # fmt: skip
        with doing(f"save step {self.step}"):
            self.checkpoints.save(self.step, {**self.weights(), "optim": self.optimizer.state()}, info)
            self.saved = self.step
            self.publish()

    def publish(self) -> None:
        """Write the averaged weights as a model.

        The checkpoint may still be on its way. If it never comes to be, the run goes on from the one before, whose step
        is not the model's: then it is written again.
        """
        whole = self.objective.module.state_dict() if self.objective.complete else {}
        averages = gathered({**whole, **self.ema.averages}, self.mesh)
        if self.mesh.main:
            self.made.forget(MODEL)
            self.objective.publish(self.folder / MODEL, averages, self.step)
            self.made.note(MODEL, self.step)

    def undone(self) -> list[str]:
        """What the run lacks of what follows from the checkpoint that it starts from; for all processes."""
        found, measure = [], None
        with self.mesh.together():
            if self.mesh.main:
                tidy_run(self.folder)
                self.checkpoints.tidy()
                found = self.made.undone(self.step, sampled=self.is_sampled()) if self.step else []
                measure = self.made.measure()
        found, self.measure = self.mesh.exchange([found, measure])[0]
        return found

    def make(self, undone: Sequence[str]) -> None:
        """Make it: the start before came to its end between the checkpoint and these."""
        if undone and self.mesh.main:
            note(
                __name__,
                f"{self.folder}: the {' and the '.join(undone)} of step {self.step} are made from its checkpoint",
            )
        if MODEL in undone:
            self.publish()
        if SAMPLES in undone:
            self.tracker.forget(self.step, SAMPLED)
            self.show()

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """What training changes: as it is, and averaged. The rest is what the same command begins with again."""
        state = self.objective.module.state_dict()
        return {"model": {name: state[name] for name in self.ema.averages}, "ema": self.ema.averages}

    def resume(self) -> None:
        """Take over the newest checkpoint of the folder, if any. Raises InputError if it is of another model."""
        saved = self.checkpoints.latest()
        if saved is None:
            return
        weights = self.weights()
        if {name: tuple(value.shape) for name, value in weights["model"].items()} != saved.shapes["model"]:
            raise InputError(
                f"{self.checkpoints.folder} is of another model than this one: fresh=true starts over, "
                "another name= or run_dir= keeps both"
            )
        saved.load({**weights, "optim": self.optimizer.blank(saved.shapes.get("optim", {}))})
        info = saved.info
        self.saved = info["step"]
        self.step, self.bad, self.bad_total = info["step"], info.get("bad", 0), info.get("bad_total", 0)
        self.skipped, self.seen = info.get("skipped", {}), self.seen | info.get("seen", {})
        self.meter.numbers.join(info.get("interval", {}))  # checkpoints of older versions have none
        self.seconds, self.began = info.get("seconds", 0.0), time.monotonic()

    def spent(self) -> float:
        """Seconds of training that led to the present step, over all sessions; samples and checkpoints count."""
        return self.seconds + time.monotonic() - self.began

    def counts(self) -> dict[str, float]:
        """What was seen and what went wrong so far, and how much memory this process has needed."""
        reasons = {f"skipped clips/{reason}": float(count) for reason, count in self.skipped.items()}
        wrong = {"skipped clips": float(sum(self.skipped.values())), "skipped updates": float(self.bad_total)}
        seen = {f"{name} seen": value for name, value in self.seen.items()}
        memory = peak_memory(self.mesh.device) / 2**30
        return {**seen, **wrong, **reasons, "memory GiB": memory, "seconds": self.spent()}

    def count_bad(self, loss: float, norm: float) -> None:
        """Report a skipped update; stop the run after too many in a row."""
        self.bad, self.bad_total = self.bad + 1, self.bad_total + 1
        if self.mesh.main:
            warn(__name__, f"step {self.step}: loss {loss}, gradient norm {norm}: update skipped")
        if self.bad >= self.settings.max_bad:
            raise self.diverged()

    def diverged(self) -> InputError:
        """What is told of a run whose losses are no longer finite. Checkpoints from which none came are deleted."""
        self.checkpoints.wait()
        self.tracker.scalars(self.step, {"skipped updates": float(self.bad_total)})  # the last word, without a loss
        if self.mesh.main and self.sound is not None:
            self.checkpoints.drop_after(self.sound)
        self.mesh.wait()
        left = self.checkpoints.folders()
        if not left:
            advice = "there is no checkpoint before it: lower the learning rate and run again"
        elif self.sound is None:
            advice = f"{left[-1]}, from which it began, may be broken: delete that to go on from the one before"
        else:
            advice = f"{left[-1]} is the last sound checkpoint: lower the learning rate and run again"
        return InputError(f"{self.bad} updates in a row had a non-finite loss or gradient (step {self.step}); {advice}")

    def count_skipped(self, path: str, reason: str, *, known: bool = False) -> None:
        """Count a clip that could not be read. Each is told once (`known`: was), and stands in skipped.jsonl."""
        kind = reason.partition(":")[0].replace("/", " ")[:40]
        kind = kind if kind in self.skipped or len(self.skipped) < REASONS else "other reasons"
        self.skipped[kind] = self.skipped.get(kind, 0) + 1
        if self.mesh.main and path not in self.told:
            self.told.add(path)
            if not known:
                warn(__name__, f"skipped {path}: {reason}")
            with (self.folder / "skipped.jsonl").open("a") as file:
                file.write(json.dumps({"step": self.step, "path": path, "reason": reason}) + "\n")

    def ask_to_stop(self, number: int) -> None:
        """Have the run stop after its present step: what SIGTERM and the first Ctrl-C ask for."""
        self.asked_to_stop = number
        with suppress(RuntimeError):  # Python refuses a line in the middle of another one
            note(__name__, "stopping after this step; Ctrl-C again stops at once, and saves nothing")

    def leave(self, number: int) -> None:
        """Stop within samples."""
        self.asked_to_stop = number
        end(number)
