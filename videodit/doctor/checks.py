"""The checks, each a function of the objects that a training is made of.

C, t, h, w latents; L tokens
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor, nn

from videodit.doctor.finding import Finding, judged
from videodit.parallel.mesh import Mesh
from videodit.parallel.shard import named
from videodit.plan.machine import GIB
from videodit.train.loop import Objective
from videodit.train.machine import autocast
from videodit.train.optim import Optimizer

SEVERAL = 8  # steps whose clips are looked at before and after: of one step's alone, easy ones, a loss may well double
RISE, VAE_RISE, LEAP = 1.5, 3, 10  # times that loss: afterwards (sound VAEs: up to 1.8), and on the way
WAITING = 0.5  # share of a step; workers and the step go on at once
UNREADABLE = 0.05  # share of the clips
ALIKE = 16  # clips, below which their statistics need not be those of the clips that a VAE learnt
CENTRE, SPREAD = 0.5, (0.5, 2.0)  # of normalised latents: the mean at most, the standard deviation
SAME = {torch.float32: 1e-4, torch.bfloat16: 3e-2}  # of a pack and its clips one by one, relative
AGREE = "two processes do what one does"
NEW_GOAL, BEGUN_GOAL = 0.5, 0.9  # of the first loss on one clip, from nothing, and from what knows much already
SAMPLED, RESTORED = 1.5, 0.2  # error of what comes back, over the variance of the clip: 2 is what noise has
RANKS = (1e-2, 0.05)  # of two processes beside one: the first step's loss (bf16 rounds to 1e-3), and those after it


def readable(count: int, skipped: Sequence[tuple[str, str]], seconds: float) -> Finding:
    """Of `count` clips that were tried, (path, reason) of those that could not be read."""
    told = f"{count - len(skipped)} of {count} clips, {count / max(seconds, 1e-9):.0f} a second in one process"
    example = f", such as {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
    return judged("clips can be read", len(skipped) <= UNREADABLE * count, told + example, "too many cannot be read")


def normalised(latents: Sequence[Tensor]) -> Finding:
    """Latents, each (C,t,h,w), should have about mean 0 and deviation 1, all together: noise has.

    Of a few clips, which may all be dark, it is only told where they have not.
    """
    values = torch.cat([x.flatten(1).double() for x in latents], dim=1)
    mean, std = values.mean().item(), values.std().item()
    good = abs(mean) <= CENTRE and SPREAD[0] <= std <= SPREAD[1]
    name, told = "latents are normalised", f"mean {mean:.2f}, deviation {std:.2f}"
    if not good and len(latents) < ALIKE:
        return Finding(name, "unknown", f"{told}: {len(latents)} clips are too few to tell, {ALIKE} are needed")
    return judged(name, good, told, "the VAE's statistics are not those of its latents")


@dataclass
class Overfitted:
    """What some steps on one batch came to."""

    losses: list[float]
    reached: set[str]  # parameters that had a gradient

    @property
    def first(self) -> float:
        """The mean of the first three."""
        return fmean(self.losses[:3])

    @property
    def last(self) -> float:
        """The mean of the last tenth of the losses."""
        return fmean(self.losses[-max(1, len(self.losses) // 10) :])


def overfit(
    objective: Objective,
    optimizer: Optimizer,
    batch: Any,
    steps: int,
    *,
    mesh: Mesh,
    clip_norm: float,
    precision: torch.dtype,
    tell: Callable[[str], None],
) -> Overfitted:
    """Train on one batch, with new noise every step. It stops early where the loss is no number any more.

    tell: is told how far it is.
    """
    found = Overfitted([], set())
    for step in range(steps):
        tell(f"step {step} of {steps}")
        with autocast(mesh.device, precision):
            loss, _ = objective.loss(batch, step)
        loss.backward()
        norms = optimizer.norms(mesh)
        found.reached |= {name for name, norm in norms.items() if norm > 0}
        norm = math.sqrt(sum(value**2 for value in norms.values()))
        found.losses.append(loss.item())
        if not math.isfinite(norm) or not math.isfinite(found.losses[-1]):
            break
        if norm > clip_norm:
            optimizer.scale(clip_norm / norm)
        optimizer.step(step)
        optimizer.zero_grad()
    return found


def gradients_reach(module: nn.Module, meant: set[str], found: Overfitted, *, deaf: bool = False) -> Finding:
    """Every parameter that is meant to should be trained, and have had a gradient.

    deaf: the clip has no caption, so that what looks at words has none, and nobody can tell whether it would have.
    """
    name = "gradients reach all that trains"
    parameters = named(module)
    frozen = sorted(n for n in meant if not parameters[n].requires_grad)
    silent = sorted(n for n in meant - set(frozen) if n not in found.reached)
    told = f"{len(meant) - len(frozen) - len(silent)} of {len(meant)} parameters"
    if frozen:
        return judged(name, False, told, f"{_some(frozen)} frozen, and not by freeze=")
    if silent and deaf and len(silent) < len(meant):
        return Finding(name, "unknown", f"{told}; no clip has a caption, without which the others cannot have one")
    return judged(name, not silent, told, f"{_some(silent)} without a gradient")


def learns(found: Overfitted, goal: float) -> Finding:
    """One clip alone must be learnt to a loss of `goal` times the first."""
    first, last = found.first, found.last
    good = math.isfinite(last) and last <= goal * first
    told = f"loss {first:.3f} -> {last:.3f} in {len(found.losses)} steps, goal {goal * first:.3f}"
    fault = "the learning rate is too high or too low, or the loss is wrong"
    return judged("one clip can be learnt", good, told, fault)


def comes_back(made: Tensor, wanted: Tensor, most: float) -> Finding:
    """What a model of one clip makes, beside that clip; both of one shape. `most`: error over the clip's variance."""
    error = ((made - wanted).square().mean() / wanted.var()).item()
    told = f"error {error:.2f} of the clip's variance, at most {most}"
    fault = "what it has learnt is not what sampling takes it for, such as a target of the other sign"
    return judged("it can be sampled back", error <= most, told, fault)


def packed_is_single(errors: Callable[[Any], Tensor], pack: Any, singles: Iterable[Any], dtype: torch.dtype) -> Finding:
    """The errors of a pack's tokens (L,) must be those of its clips one by one."""
    together = errors(pack)
    alone = torch.cat([errors(one) for one in singles])
    far = ((together - alone).abs().max() / alone.abs().max()).item()
    told = f"largest difference {far:.1e}, at most {SAME[dtype]:.0e}"
    fault = "clips see each other, or lose their place"
    return judged("a pack is its clips one by one", far <= SAME[dtype], told, fault)


def in_time(waits: Sequence[float], rates: Sequence[float], peak: int) -> Finding:
    """Of steps: the share of their time in which they waited for clips, tokens a second; and memory needed so far."""
    wait, rate = median(waits), median(rates)
    told = f"{100 * wait:.1f} % of a step is waiting for clips, read by the process itself; {rate:.0f} tokens/s"
    return judged("clips are read in time", wait <= WAITING, f"{told}, {peak / GIB:.2f} GiB",
                  "more workers= may help, or faster storage")  # fmt: skip


@torch.no_grad()
def mean_loss(objective: Objective, batches: Iterable[Any], mesh: Mesh, precision: torch.dtype) -> float:
    """The mean loss of batches, with the noise of the run's first step."""
    with autocast(mesh.device, precision):
        return fmean(objective.loss(batch, 0)[0].item() for batch in batches)


def harmless(before: float, after: float, losses: Sequence[float], rise: float) -> Finding:
    """Mean loss of the same clips before and after the first steps, at most `rise` times; and the losses on the way."""
    highest = max(losses, key=lambda loss: math.inf if math.isnan(loss) else loss)
    told = f"loss {before:.3f} -> {after:.3f} on the same clips in {len(losses)} steps, at most {highest:.3g} meanwhile"
    good = math.isfinite(after) and after <= rise * before and highest <= LEAP * before
    return judged("the first steps do no harm", good, told, "the learning rate is too high")


def ranks_agree(one: Sequence[float], two: Sequence[float]) -> Finding:
    """The losses of the first steps on one process and on two."""
    apart = [abs(a - b) / max(abs(a), 1e-9) for a, b in zip(one, two, strict=True)]
    told = f"{len(one)} steps: the first loss {apart[0]:.1e} apart, the others at most {max(apart):.1e}"
    return judged(AGREE, apart[0] <= RANKS[0] and max(apart) <= RANKS[1], told,
                  "they do not train on the same clips, or do not add up the same gradients")  # fmt: skip


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])}{f' and {len(names) - 3} more' * (len(names) > 3)}"
