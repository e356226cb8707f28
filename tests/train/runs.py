"""Runs of the loop on something that learns in milliseconds: a linear map, clips that are rows of numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from videodit.config import Launch
from videodit.models.interfaces import Denoiser
from videodit.parallel.mesh import Mesh
from videodit.parallel.store import Checkpoints
from videodit.track.tracker import Tracker
from videodit.train.ema import EMA
from videodit.train.loop import Run
from videodit.train.machine import Compute
from videodit.train.meter import Means
from videodit.train.optim import Optimizer, adamw
from videodit.train.settings import Loop

WIDTH = 12


@dataclass
class Rows:
    """A batch: clips of any lengths, (L,WIDTH) each."""

    clips: list[Tensor]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    idle: bool = False


class Net(Denoiser):
    """A linear map in a block, with a bias and a buffer."""

    STACKS = {"blocks": "layers"}

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.blocks = nn.ModuleList([nn.Linear(WIDTH, WIDTH)])
        self.register_buffer("count", torch.zeros(()))
        with torch.no_grad():
            self.blocks[0].weight.copy_(torch.randn(WIDTH, WIDTH, generator=generator) / 4)
            self.blocks[0].bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks[0](x)


class Regression:
    """Learn to turn rows round, a token each. `poison`: numbers of batches whose loss is made that value."""

    def __init__(self, poison: dict[int, float] | None = None) -> None:
        self.module, self.poison = Net(), poison or {}
        self.numbers: list[int] = []
        self.published: list[Path] = []

    complete = True

    def loss(self, batch: Rows, number: int) -> tuple[Tensor, Means]:
        self.numbers.append(number)
        rows = torch.cat(batch.clips)
        loss = (self.module(rows).float() - rows.flip(1)).square().mean()
        extra = Means()
        if number % 2 == 0:
            extra.add({"even/loss": loss.item()})
        return loss * self.poison.get(number, 1.0), extra

    def size(self, batch: Rows) -> dict[str, float]:
        return {"clips": float(len(batch.clips)), "tokens": float(sum(len(clip) for clip in batch.clips))}

    def publish(self, folder: Path, averages: dict[str, Tensor], step: int) -> None:
        self.published.append(folder)


def clips(number: int) -> list[Tensor]:
    """The clips of batch `number`: three, of lengths 2, 3 and 4."""
    generator = torch.Generator().manual_seed(number)
    return [torch.randn(length, WIDTH, generator=generator) for length in (2, 3, 4)]


def batches(start: int, stop: int) -> Iterator[list[Rows]]:
    """The batches of every step of a run."""
    for number in range(start, stop):
        yield [Rows(clips(number))]


def alone() -> Mesh:
    """One process."""
    return Mesh(launch=Launch(), device=torch.device("cpu"), sizes=(1, 1, 1))


class Memory(Tracker):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.records: list[tuple[int, dict[str, float]]] = []
        self.started: list[int] = []
        self.finished: list[bool] = []

    def start(self, config: Any, step: int) -> None:
        self.started.append(step)

    def scalars(self, step: int, values: Any) -> None:
        self.records.append((step, dict(values)))

    def finish(self, failed: bool = False) -> None:
        self.finished.append(failed)

    def column(self, name: str) -> list[float]:
        """All values of a name."""
        return [values[name] for _, values in self.records if name in values]


def run(
    folder: Path,
    *,
    objective: Regression | None = None,
    make: Callable[[nn.Module], Optimizer] | None = None,
    source: Callable[[int, int], Iterator[list[Rows]]] = batches,
    tracker: Tracker | None = None,
    precision: torch.dtype = torch.float32,
    sample: Callable[[int], None] = lambda step: None,
    **settings: Any,
) -> Run:
    """A run of the regression; `settings` are those of the loop that matter to a test."""
    objective, mesh = objective or Regression(), alone()
    numbers = {"steps": 6, "clip_norm": 1e9, "max_bad": 3, "log_every": 1, "save_every": 2}
    return Run(
        folder=folder,
        objective=objective,
        batches=source,
        optimizer=(make or constant)(objective.module),
        ema=EMA(module=objective.module, decay=0.9),
        checkpoints=Checkpoints(folder=folder / "checkpoints", keep=2, mesh=mesh),
        tracker=tracker or Memory(),
        settings=Loop(**{**numbers, "sample_every": 1000, **settings}),
        compute=Compute(precision),
        config={},
        mesh=mesh,
        sample=sample,
    )


def constant(module: nn.Module) -> Optimizer:
    """AdamW at one learning rate."""
    return adamw(module, lr=0.01, text_lr=0.01, betas=(0.9, 0.95), weight_decay=0.01, curve=lambda step: 1.0)


def weights(of: Run) -> Tensor:
    """All weights and averages of a run in a row."""
    state = of.objective.module.state_dict()
    return torch.cat([value.flatten() for part in (state, of.ema.averages) for value in part.values()])
