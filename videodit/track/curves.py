"""The curves of a run, read from its metrics.jsonl: every number against the step; smoothing and thinning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from videodit.errors import InputError
from videodit.track.jsonl import records

Curve = tuple[np.ndarray, np.ndarray]  # steps (N,) and values (N,), which may be nan or infinite


def metrics_file(run: Path) -> Path:
    """The metrics file of a run's folder (or the file itself). Raises InputError, naming it, if there is none."""
    file = run / "metrics.jsonl" if run.is_dir() else run
    if not file.is_file():
        raise InputError(f"{run}: no run folder, for it has no metrics.jsonl")
    return file


def read(run: Path) -> dict[str, Curve]:
    """Every number of a run by name. `run` is the folder, or the metrics file itself."""
    points: dict[str, list[tuple[int, float]]] = {}
    for record in records(metrics_file(run)):
        for name, value in record.items():
            if name not in ("step", "time") and isinstance(value, (int, float)):
                points.setdefault(name, []).append((record["step"], value))
    return {name: (np.array([s for s, _ in p]), np.array([v for _, v in p], float)) for name, p in points.items()}


def pack(curves: Mapping[str, Curve]) -> dict[str, Any]:
    """Curves as what JSON holds, in five digits; `unpack` takes it."""
    return {
        name: {"steps": steps.tolist(), "values": [float(f"{value:.5g}") for value in values]}
        for name, (steps, values) in curves.items()
    }


def unpack(content: Mapping[str, Any]) -> dict[str, Curve]:
    """Curves that `pack` wrote."""
    return {name: (np.array(one["steps"]), np.array(one["values"], float)) for name, one in content.items()}


def smoothed(values: np.ndarray, width: float) -> np.ndarray:
    """Gaussian average (N,) over neighbours within about `width` records.

    The ends average what there is, and values that are not finite count for nothing (nan where no neighbour is finite).
    """
    reach = min(int(3 * width), len(values) - 1)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(width, 1e-9)) ** 2)
    finite = np.isfinite(values)
    total = np.convolve(np.where(finite, values, 0.0), kernel)[reach : reach + len(values)]
    weight = np.convolve(finite.astype(float), kernel)[reach : reach + len(values)]
    return np.divide(total, weight, out=np.full(len(values), np.nan), where=weight > 1e-12)


def thinned(curve: Curve, points: int) -> Curve:
    """At most `points` of a curve: of each of points/2 stretches of records the lowest and the highest, so that no
    spike is lost. Values that are not finite stay as they are, and give way to finite ones."""
    steps, values = curve
    if len(steps) <= points:
        return curve
    chosen: set[int] = set()
    for part in np.array_split(np.arange(len(steps)), points // 2):
        finite = part[np.isfinite(values[part])]
        some = finite if len(finite) else part
        chosen |= {int(some[np.argmin(values[some])]), int(some[np.argmax(values[some])])}
    kept = np.array(sorted(chosen))
    return steps[kept], values[kept]
