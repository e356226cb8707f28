"""Means and rates: what a run says of an interval of steps."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager


class Means:
    """Weighted means of named numbers, each over the times that it was given."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.weights: dict[str, float] = {}

    def add(self, values: Mapping[str, float], weight: float = 1.0) -> None:
        """Take in some numbers; not every name has to be there every time."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * weight
            self.weights[name] = self.weights.get(name, 0.0) + weight

    def parts(self) -> dict[str, list[float]]:
        """Sum and weight of every name, for `merged`."""
        return {name: [total, self.weights[name]] for name, total in self.sums.items()}

    @classmethod
    def merged(cls, parts: Iterable[Mapping[str, Sequence[float]]]) -> Means:
        """The means over all that several have taken in."""
        means = cls()
        for one in parts:
            means.join(one)
        return means

    def join(self, parts: Mapping[str, Sequence[float]]) -> None:
        """Take in what another has taken in."""
        for name, (total, weight) in parts.items():
            self.sums[name] = self.sums.get(name, 0.0) + total
            self.weights[name] = self.weights.get(name, 0.0) + weight

    def all(self) -> dict[str, float]:
        """The mean of every name."""
        return {name: total / self.weights[name] for name, total in self.sums.items()}


class Meter:
    """Means of numbers and rates of work since the last flush. `matmul_rate`: the machine's flops/s, 0 if unknown."""

    def __init__(self, *, matmul_rate: float) -> None:
        self.matmul_rate = matmul_rate
        self.reset()

    def reset(self) -> None:
        """Begin a new interval."""
        self.restart()
        self.numbers = Means()
        self.work: dict[str, float] = {}

    def restart(self) -> None:
        """Begin to take the time; the numbers of steps before, if there are any, stay."""
        self.started, self.waited = time.perf_counter(), 0.0

    def add(self, work: Mapping[str, float], values: Mapping[str, float]) -> None:
        """Take in one step."""
        self.numbers.add(values)
        for name, amount in work.items():
            self.work[name] = self.work.get(name, 0.0) + amount

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the time spent waiting for data."""
        began = time.perf_counter()
        yield
        self.waited += time.perf_counter() - began

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Around time that is not training (checkpoints, samples): it does not count."""
        began = time.perf_counter()
        yield
        self.started += time.perf_counter() - began

    def rates(self) -> dict[str, float]:
        """Clips/s, tokens/s, share of the machine's matmul rate (MFU), share of the time spent waiting for data."""
        seconds = time.perf_counter() - self.started
        rates = {f"{name}/s": self.work.get(name, 0.0) / seconds for name in ("clips", "tokens")}
        if self.matmul_rate and "flops" in self.work:
            rates["mfu"] = self.work["flops"] / seconds / self.matmul_rate
        return rates | {"data wait": self.waited / seconds}

    def shown(self) -> dict[str, float]:
        """What the progress bar shows."""
        return {name: value for name, value in self.numbers.all().items() if name == "loss"} | self.rates()

    def flush(self) -> dict[str, float]:
        """Means and rates of the interval, which ends here."""
        values = self.numbers.all() | self.rates()
        self.reset()
        return values


def by_group(norms: Mapping[str, float], name: str) -> dict[str, float]:
    """Norms of parameters -> those of quarters of each stack of blocks, and of all else of each network."""
    places = [(key, re.fullmatch(r"(.*?\bblocks?)\.(\d+)\..*", key)) for key in norms]
    counts: dict[str, int] = {}
    for _, match in places:
        if match:
            counts[match[1]] = max(counts.get(match[1], 0), int(match[2]) + 1)
    squares: dict[str, float] = {}
    for key, match in places:
        group = key.partition(".")[0] + " else"
        if match:
            count, place = counts[match[1]], int(match[2])
            quarter = -(-count // 4)
            first = place // quarter * quarter
            group = f"{match[1]}.{first}-{min(first + quarter, count) - 1}"
        squares[group] = squares.get(group, 0.0) + norms[key] ** 2
    return {f"{name}/{group}": math.sqrt(value) for group, value in squares.items()}
