"""Skipping a transformer's blocks at steps where they hardly change: an approximation, for those who ask for it.

The first block always runs. If what it adds is like what it added when all blocks last ran, what the others added then
is added again: first-block caching, as ParaAttention has it (compare TeaCache, Liu et al. 2024, arXiv:2411.19108).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


class StepCache:
    """For one network, from step to step of one generation.

    threshold: how far what the first block adds may be from what it added, relative to that, for the others to be
        skipped.
    calls, skipped: how often it was asked, and how often the other blocks did not run.
    change: the most that what they add had changed when they ran again after having been skipped, relative to that:
        the size of what skipping left out.
    """

    def __init__(self, *, threshold: float) -> None:
        self.threshold = threshold
        self.calls = self.skipped = 0
        self.change = 0.0
        self._added: Tensor | None = None  # by the first block when all last ran
        self._left: Tensor | None = None  # by the others
        self._now: tuple[Tensor, Tensor] | None = None
        self._reused = False

    def after_first(self, x: Tensor, h: Tensor) -> Tensor | None:
        """With x (L,N) that went into the first block and h that came out: what the last one gives, or nearly so; None
        if the others have to run.
        """
        self.calls += 1
        added = h - x
        if self._added is not None and relative(added, self._added) < self.threshold:
            self.skipped += 1
            self._reused = True
            return h + self._left
        self._now = added, h
        return None

    def after_last(self, out: Tensor) -> None:
        """Keep what the blocks have added."""
        self._added, h = self._now
        left = out - h
        if self._left is not None and self._reused:
            self.change = max(self.change, relative(left, self._left))
        self._left, self._now, self._reused = left, None, False


def summary(caches: Sequence[StepCache]) -> str:
    """What skipping saved and what it left out, in a line."""
    calls, skipped = sum(cache.calls for cache in caches), sum(cache.skipped for cache in caches)
    change = max(cache.change for cache in caches)
    return f"step cache: {skipped} of {calls} steps skipped; what they reused had changed by {change:.0%} at most"


def relative(now: Tensor, before: Tensor) -> float:
    """Mean |now - before| by mean |before|."""
    return ((now - before).abs().mean() / before.abs().mean().clamp_min(1e-12)).item()
