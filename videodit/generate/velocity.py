"""A model's denoisers as functions (x, t) -> velocity, which guidance wraps and samplers integrate.

B clips, each (C,t,h,w); t (B,) on the CPU
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Any

import torch
from torch import Tensor

from videodit.accel.step_cache import StepCache
from videodit.checkpoint.pretrained import Components
from videodit.errors import Cancelled, InputError
from videodit.flow.path import Velocity
from videodit.models.interfaces import Runner, run_blocks
from videodit.models.pack import Context, Times, patchify, unpatchify
from videodit.nn.device import name_of
from videodit.shapes import LatentShape

Progress = Callable[[int, int], None]  # (steps done, steps in all)
Cancel = Event | Callable[[], bool]  # asked between steps


@dataclass
class InContext:
    """A denoiser in a context. What stays the same from step to step is computed at the first.

    times: all that will come, (n,). kernel: of attention, if not the network's own.
    """

    parts: Components
    name: str
    context: Context
    times: Tensor
    kernel: str
    run: Runner = run_blocks
    session: Any = field(default=None, init=False)

    def __call__(self, x: list[Tensor], t: Tensor) -> list[Tensor]:
        denoiser, keep = self.parts.network(self.name), self.parts.keeps
        pack, now = patchify(x, denoiser.patch), Times.per_clip(t)
        if self.session is None:
            times = self.times if keep else None
            self.session = denoiser.prepare(
                self.context, pack, times=times, keep=keep, run=self.run, kernel=self.kernel
            )
        tokens = denoiser(pack, now.distinct() if keep else now, self.session)
        return unpatchify(tokens, [LatentShape(*one.shape[1:]) for one in x], denoiser.patch)


@dataclass(frozen=True)
class OnePass:
    """Velocities under prompts and negatives, from one pack of both: `both` has the context of all of them."""

    both: Velocity

    def __call__(self, x: list[Tensor], t: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        out = self.both(x + x, torch.cat([t, t]))
        return out[: len(x)], out[len(x) :]


@dataclass(frozen=True)
class TwoPasses:
    """The same one after the other, in less memory."""

    conditional: Velocity
    unconditional: Velocity

    def __call__(self, x: list[Tensor], t: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        return self.conditional(x, t), self.unconditional(x, t)


@dataclass(frozen=True)
class Scales:
    """How strongly each clip is guided (B,), the same at all times."""

    scales: Sequence[float]

    def __call__(self, t: Tensor) -> Tensor:
        return torch.tensor(self.scales, dtype=torch.float64)


def loop() -> Runner:
    """A runner of blocks that skips none."""
    return run_blocks


@dataclass
class Runners:
    """Gives a runner of blocks to each denoiser and context: with a threshold above 0 a step cache."""

    threshold: float
    caches: list[StepCache] = field(default_factory=list)

    def __call__(self) -> Runner:
        if not self.threshold:
            return run_blocks
        self.caches.append(StepCache(threshold=self.threshold))
        return self.caches[-1]


@dataclass(frozen=True)
class BetweenSteps:
    """What happens between the steps of a sampler: numbers are checked, progress is told, cancelling is asked for."""

    dtype: torch.dtype
    progress: Progress | None = None
    cancel: Cancel | None = None

    def __call__(self, step: int, steps: int, x: Sequence[Tensor]) -> None:
        """After this step, 1 to `steps`. InputError for numbers that are not finite; Cancelled."""
        check_finite(x, "dtype", self.dtype, f"step {step} of {steps} of the denoising")
        if self.progress is not None:
            self.progress(step, steps)
        if step < steps:
            check_cancel(self.cancel, f"after step {step} of {steps}")


def check_cancel(cancel: Cancel | None, when: str) -> None:
    """Raise Cancelled where it was asked for."""
    if cancel is not None and (cancel.is_set() if isinstance(cancel, Event) else cancel()):
        raise Cancelled(f"cancelled {when}")


def check_finite(values: Sequence[Tensor], key: str, dtype: torch.dtype, where: str) -> None:
    """InputError where a number is infinite or none, which would be black. `key`: the one that says the type."""
    if all(bool(torch.isfinite(x).all()) for x in values):
        return
    wider = f"{key}=bfloat16 or {key}=float32 has room for larger ones"
    other = "the weights may be damaged, or the guidance too strong"
    told = wider if dtype == torch.float16 else other
    raise InputError(f"{key}={name_of(dtype)}: {where} has numbers that are not finite; {told}")
