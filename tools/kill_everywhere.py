"""Kill the long commands before random file operations, run them again, and count what was wrong afterwards.

    python -m tools.kill_everywhere seeds=10 kills=5
    python -m tools.kill_everywhere seeds=1 kills=1000 only="train dit,train vae"     # every operation of the last step

From the root of a checkout: what is tried and how is in tests/faults. A folder of a kill after which something is wrong
stays, and is named.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import mkdtemp

from tests.faults.deeds import Tried, chosen, deeds, prepare, tried, whole
from tests.faults.killing import Parent
from videodit.printable import answer, say

SLOW = ("evaluate",)  # a minute a run: only where it is named


def main(seeds: int = 10, kills: int = 5, only: str = "") -> int:
    """Try so many kills of each command by each seed; print a table. -> how many were bad."""
    place, bad = Path(mkdtemp(prefix="kill-everywhere-")), 0
    answer("command | processes | kills tried | good | bad")
    with Parent() as parent:
        inputs = prepare(parent, place)
        known = deeds(inputs)
        for name in only.split(",") if only else [name for name in known if name not in SLOW]:
            one = whole(parent, inputs, name, place / f"{name} whole")
            places = sorted({at for seed in range(seeds) for at in chosen(one, seed, kills)})
            found = [tried(parent, inputs, one, at, place / f"{name} {at[0]} {at[1]}") for at in places]
            wrong = [each for each in found if each.faults]
            say(*(told(each, place) for each in wrong))
            answer(f"{name} | {one.deed.ranks} | {len(found)} | {len(found) - len(wrong)} | {len(wrong)}")
            bad += len(wrong)
    return bad


def told(one: Tried, place: Path) -> str:
    """What was wrong after a kill, and where it can be looked at."""
    rank, number = one.place
    where = place / f"{one.deed} {rank} {number}"
    return f"{where}: killed before {one.operation!r}: {'; '.join(one.faults)}"


if __name__ == "__main__":
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    numbers = {key: int(given.pop(key)) for key in ("seeds", "kills") if key in given}
    sys.exit(min(main(**numbers, **given), 1))
