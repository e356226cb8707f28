"""Change files by chance and put them through every reader, for as long as you like.

    python tools/fuzz.py                        every reader, 1000 changes each, seed 0
    python tools/fuzz.py own/pipeline.json count=5000 seed=3

Prints, for each reader, how many were refused in one line, read, or failed, and each kind of failure. The readers are
those of tests/faults/fuzz.py, of which the slow tests try some, and shrink what fails to the smallest change.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.faults import fuzz  # noqa: E402


def run(reader: str, count: int, start: int) -> Counter[str]:
    """So many tries of a reader -> how often each outcome came."""
    seen: Counter[str] = Counter()

    @seed(start)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck),
              phases=(Phase.generate,))  # fmt: skip
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        seen[fuzz.outcome(reader, data)] += 1

    holds()
    return seen


def main(arguments: list[str]) -> None:
    """Run the readers that are named, or all."""
    options = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    chosen = [argument for argument in arguments if "=" not in argument] or list(fuzz.READERS)
    fuzz.prepare()
    for reader in chosen:
        began = time.perf_counter()
        seen = run(reader, int(options.get("count", 1000)), int(options.get("seed", 0)))
        good = {kind: seen.pop(kind, 0) for kind in ("clean", "accepted")}
        took = time.perf_counter() - began
        told = f"{good['clean']} refused in a line, {good['accepted']} read, {seen.total()} failed"
        print(f"{reader}: {told} in {took:.0f} s")
        for kind, times in seen.most_common():
            print(f"  {times} times: {kind[:300]}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
