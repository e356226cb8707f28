"""Shares of clips that show what was asked for, beside what chance gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from statistics import fmean
from typing import Any

SHUFFLES = 20  # how many shuffles of the prompts the floor is the mean of

Marks = dict[str, tuple[str, str]]  # by attribute: the word asked for, the word read
Mark = Callable[[Any, Any], Marks]  # compares what was read off a clip with what its prompt asked for


def accuracy(mark: Mark, reads: Sequence[Any], asked: Sequence[Any]) -> dict[str, float]:
    """Share of the clips that show each attribute as asked, 0 to 1, and "all": every one of them."""
    rows = map(mark, reads, asked)
    right = [{name: word == seen for name, (word, seen) in row.items()} for row in rows]
    shares = {name: fmean(row[name] for row in right) for name in right[0]}
    return shares | {"all": fmean(all(row.values()) for row in right)}


def floor(mark: Mark, reads: Sequence[Any], asked: Sequence[Any], seed: int) -> dict[str, float]:
    """`accuracy` when the prompts are shuffled among the clips: what chance gives, the mean of SHUFFLES shuffles."""
    rng, shuffled = Random(seed), []
    for _ in range(SHUFFLES):
        order = list(asked)
        rng.shuffle(order)
        shuffled.append(accuracy(mark, reads, order))
    return {name: fmean(one[name] for one in shuffled) for name in shuffled[0]}


def wrong(marks: Marks) -> Marks:
    """Those that were not read as asked."""
    return {name: (asked, seen) for name, (asked, seen) in marks.items() if asked != seen}
