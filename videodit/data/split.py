"""Which clips of a folder train and which are held out, by what they were cut from: no source is on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def place_of(source: str) -> float:
    """Where in [0,1] a source stands. It depends on its text alone, so other files cannot move it."""
    digest = hashlib.blake2b(source.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def held_out(sources: Iterable[str], share: float) -> set[str]:
    """The sources that are held out: those that stand below `share`.

    Each side has one where there are two: if none stands below, the lowest is held out, and if all do, the highest
    trains. Such a stand-in changes sides once a later source takes its place. Of a single source: the empty set.
    """
    ordered = sorted(set(sources), key=lambda source: (place_of(source), source))
    below = sum(place_of(source) < share for source in ordered)
    return set(ordered[: min(max(below, 1), len(ordered) - 1)])
