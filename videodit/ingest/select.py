"""Select: clips whose numbers are within bounds go on; each other one has its reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from videodit.errors import InputError
from videodit.ingest.record import Record

Bounds = Mapping[str, tuple[float | None, float | None]]


def check_bounds(bounds: Bounds, known: Sequence[str]) -> None:
    """InputError where a bound is of no measure that there is, or is not [least, most]."""
    for name, pair in bounds.items():
        if name not in known:
            raise InputError(f"select.{name}: no such measure; there are {', '.join(known)}")
        good = isinstance(pair, Sequence) and len(pair) == 2
        if not good or any(not (x is None or isinstance(x, int | float)) for x in pair):
            raise InputError(f"select.{name}={pair}: should be [least, most], null for no bound")
        if None not in pair and pair[0] > pair[1]:
            raise InputError(f"select.{name}={pair}: the least comes first")


def fault(record: Record, bounds: Bounds) -> tuple[str, str] | None:
    """(reason, detail) of the first bound that a clip breaks, in their order, or None."""
    for name, (least, most) in bounds.items():
        value = record.get(name)
        if value is None or not math.isfinite(value):
            return f"{name} unknown", "it could not be measured"
        if least is not None and value < least:
            return f"{name} below {least:g}", f"{value:.3g}"
        if most is not None and value > most:
            return f"{name} above {most:g}", f"{value:.3g}"
    return None
