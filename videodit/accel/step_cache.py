"""Skipping a transformer's blocks at steps where they hardly change: an approximation, for those who ask for it.

The first block always runs. If what it adds is like what it added when all blocks last ran, what the others added then
is added again: first-block caching, as ParaAttention has it (compare TeaCache, Liu et al. 2024, arXiv:2411.19108).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

State = Any  # what goes from block to block: a tensor, or a tuple of them


@dataclass
class _Stack:
    """Of one stack: what the first block and the others added when all last ran; whether that was used since."""

    first: tuple[Tensor, ...]
    others: tuple[Tensor, ...]
    reused: bool = False


@dataclass
class StepCache:
    """Runs the blocks of one network, from step to step of one generation.

    threshold: how far what the first block adds may be from what it added, relative to that, for the others to be
        skipped.
    calls, skipped: how often a stack was run, and how often its other blocks were not.
    change: the most that what they add had changed when they ran again after having been skipped, relative to that:
        the size of what skipping left out.
    """

    threshold: float
    calls: int = 0
    skipped: int = 0
    change: float = 0.0
    _stacks: dict[str, _Stack] = field(default_factory=dict)

    def __call__(
        self, name: str, blocks: Sequence[nn.Module], state: State, step: Callable[[nn.Module, int, State], State]
    ) -> State:
        """Run a stack: `models.interfaces.run_blocks`, or nearly so."""
        self.calls += 1
        first = step(blocks[0], 0, state)
        added, before = _minus(first, state), self._stacks.get(name)
        if before is not None and relative(added, before.first) < self.threshold:
            self.skipped += 1
            before.reused = True
            return _plus(first, before.others)
        last = first
        for number, block in enumerate(blocks[1:], start=1):
            last = step(block, number, last)
        others = _minus(last, first)
        if before is not None and before.reused:
            self.change = max(self.change, relative(others, before.others))
        self._stacks[name] = _Stack(added, others)
        return last


def summary(caches: Sequence[StepCache]) -> str:
    """What skipping saved and what it left out, in a line."""
    calls, skipped = sum(cache.calls for cache in caches), sum(cache.skipped for cache in caches)
    change = max(cache.change for cache in caches)
    return f"step cache: {skipped} of {calls} steps skipped; what they reused had changed by {change:.0%} at most"


def relative(now: Sequence[Tensor], before: Sequence[Tensor]) -> float:
    """Mean |now - before| by mean |before|, of all tensors together."""
    apart = sum((a - b).abs().mean() for a, b in zip(now, before, strict=True))
    return (apart / sum(b.abs().mean() for b in before).clamp_min(1e-12)).item()


def _parts(state: State) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def _minus(state: State, other: State) -> tuple[Tensor, ...]:
    return tuple(a - b for a, b in zip(_parts(state), _parts(other), strict=True))


def _plus(state: State, added: tuple[Tensor, ...]) -> State:
    total = tuple(a + b for a, b in zip(_parts(state), added, strict=True))
    return total if isinstance(state, tuple) else total[0]
