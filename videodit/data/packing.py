"""Which clips make a step, and who takes which of them: arithmetic alone, the same on every rank with nothing sent.

A step's clips are a function of (seed, epoch, data set), whatever the number of ranks. Ranks then get shares of equal
work, of which attention's grows with the square of a clip's tokens, and cut them into as many packs each.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np

EVEN = 1e-3  # of all work: shares that differ by less are not made more equal


@dataclass(frozen=True)
class Share:
    """Which part of every step a process takes: that of `rank` among `ranks`."""

    rank: int = 0
    ranks: int = 1


@dataclass(frozen=True)
class Work:
    """What a clip of n tokens costs: linear * n + square * n². In whatever unit, only proportions count."""

    linear: float = 1.0
    square: float = 0.0

    def __call__(self, tokens: float) -> float:
        return self.linear * tokens + self.square * tokens**2


def fill(sizes: Sequence[int], budget: int) -> list[range]:
    """Consecutive clips of these sizes as packs of at most `budget`, about equally full; a larger clip goes alone."""
    packs: list[range] = []
    wanted = max(1, math.ceil(sum(sizes) / budget))
    while len(packs := list(_filled(sizes, budget, wanted))) > wanted:
        wanted = len(packs)
    return packs


def _filled(sizes: Sequence[int], budget: int, wanted: int) -> Iterator[range]:
    """Each pack ends nearest to an equal share of what is left, so that no small rest remains for the last."""
    left, start, used, made = sum(sizes), 0, 0, 0
    for place, size in enumerate(sizes):
        target = (left + used) / max(1, wanted - made)
        if place > start and (used + size > budget or used + size / 2 > target):
            yield range(start, place)
            start, used, made = place, 0, made + 1
        used += size
        left -= size
    if start < len(sizes):
        yield range(start, len(sizes))


def balanced(work: Sequence[float], shares: int) -> list[list[int]]:
    """Places of `work` dealt out so that the sums are as equal as they get: the heaviest share comes first.

    The largest goes to the lightest share (Graham 1969), then the heaviest and the lightest exchange what brings them
    closest together.
    """
    heap = [(0.0, share) for share in range(shares)]
    dealt: list[list[int]] = [[] for _ in range(shares)]
    for place in sorted(range(len(work)), key=lambda place: (-work[place], place)):
        load, share = heapq.heappop(heap)
        dealt[share].append(place)
        heapq.heappush(heap, (load + work[place], share))
    loads = [sum(work[place] for place in share) for share in dealt]
    for _ in range(4 * shares):
        high, low = (int(pick(loads)) for pick in (np.argmax, np.argmin))
        gap = loads[high] - loads[low]
        if gap <= EVEN * sum(loads) or not _exchange(dealt[high], dealt[low], work, gap):
            break
        loads = [sum(work[place] for place in share) for share in dealt]
    order = sorted(range(shares), key=lambda share: (-loads[share], share))
    return [dealt[share] for share in order]


def _exchange(high: list[int], low: list[int], work: Sequence[float], gap: float) -> bool:
    """Move what halves the gap best from one to the other, for something or for nothing. False if nothing would."""
    best = (gap * (1 - 1e-9), -1, -1)
    for give in high:
        for take in (-1, *low):
            moved = work[give] - (work[take] if take >= 0 else 0.0)
            best = min(best, (abs(gap - 2 * moved), give, take))
    _, give, take = best
    if give < 0:
        return False
    high.remove(give)
    low.append(give)
    if take >= 0:
        low.remove(take)
        high.append(take)
    return True


def deal(sizes: Sequence[int], work: Work, *, place: int, ranks: int, most: int | None) -> list[list[list[int]]]:
    """A step's clips of these sizes -> for each rank its packs, the largest first, of places among the clips.

    Every rank gets as many packs, because they must compute in step; some are empty where clips are too few. No pack is
    above `most` tokens but one clip may be. `place`, that of the step, turns about who takes the heavier share.
    """
    shares = balanced([work(size) for size in sizes], ranks)
    if place % 2:
        shares.reverse()
    for parts in count(1):
        packs = [_cut(share, sizes, parts) for share in shares]
        if most is None or all(len(pack) <= 1 or sum(sizes[i] for i in pack) <= most for own in packs for pack in own):
            return packs
    raise AssertionError("a pack of one clip always fits")


def _cut(share: list[int], sizes: Sequence[int], parts: int) -> list[list[int]]:
    """A share as so many packs of about equally many tokens, like sizes together: attention is one call for all alike.

    From the largest clip down, each goes to the first pack that it does not overfill, or to the emptiest.
    """
    room = sum(sizes[i] for i in share) / parts
    packs: list[list[int]] = [[] for _ in range(parts)]
    used = [0] * parts
    for i in sorted(share, key=lambda i: (-sizes[i], i)):
        place = next((p for p in range(parts) if used[p] + sizes[i] <= room), int(np.argmin(used)))
        packs[place].append(i)
        used[place] += sizes[i]
    return sorted(packs, key=lambda pack: -sum(sizes[i] for i in pack))
