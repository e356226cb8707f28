"""Line charts as SVG text, to stand in an HTML page that has the colours and widths of `style`.

A chart needs no script: every stretch of steps carries its values as a tooltip and a line that shows where it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from videodit.printable import markup
from videodit.track.curves import smoothed, thinned

WIDTH, HEIGHT = 400, 210  # of the drawing, in its own units
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 14, 26  # margins
POINTS = 400  # of a line as recorded; a smoothed one takes half of it
SMOOTH = 0.01  # width of the smoothing as a part of the records
JAGGED = 5  # a line is smoothed that goes up and down by more than so many times its range
RAW = 4  # up to so many smoothed lines stand above what was recorded
STOPS = 60  # stretches of steps with a tooltip
DOTS = 12  # up to so many points are marked
LINES = 12  # of a tooltip
LARGEST = 1e30  # what is larger is as good as infinite


class Line(NamedTuple):
    """A curve in a chart: steps and values (N,), its hue in degrees, and 0 for the run itself, 1, 2 … for others."""

    label: str
    steps: np.ndarray
    values: np.ndarray
    hue: int
    run: int = 0


class Axis(NamedTuple):
    """From values to places in the drawing: `low` comes to `start` and `high` to `end`, by logarithms if `log`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, values: np.ndarray) -> np.ndarray:
        """Places (N,) of values (N,)."""
        low, high = (math.log10(x) if self.log else x for x in (self.low, self.high))
        values = np.log10(values) if self.log else values
        return self.start + (values - low) / (high - low) * (self.end - self.start)


def chart(lines: Sequence[Line], *, title: str, log: bool) -> str:
    """An SVG of the lines over their steps. `log`: a logarithmic axis where values are positive and differ by 10 times.

    Values that are not finite leave a gap, and a mark at the foot.
    """
    lines = [line._replace(values=np.where(np.abs(line.values) < LARGEST, line.values, np.nan)) for line in lines]
    across = _steps(lines)
    up = _values(lines, log)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{markup(title)}">']
    parts += _grid(across, up)
    raw = sum(line.run == 0 for line in lines) <= RAW
    for line in sorted(lines, key=lambda line: -line.run):  # the run itself on top
        parts += _curve(line, across, up, raw=raw and line.run == 0)
    parts += _stops(lines, across, up)
    return "".join([*parts, "</svg>"])


def latest(values: np.ndarray) -> float:
    """Where a line ends: its last value, of a long and jagged one the last after smoothing."""
    means = _smoothed(values)
    return float((values if means is None else means)[-1])


def short(value: float, zeros: bool = True) -> str:
    """A number in three digits: 0.123, 1.00, 18.2, 1460, 25k, 1.2M, 3e-05. Not `zeros`: without those at the end."""
    for least, size, unit in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if least <= abs(value) < 1e12:
            return f"{value / size:.3g}{unit}"
    if 1000 <= abs(value) < 1e4:
        return f"{value:.0f}"
    padded = zeros and 1e-3 <= abs(value) < 100 and value != round(value)
    return f"{value:#.3g}" if padded else f"{value:.3g}"


def ticks(axis: Axis, count: int) -> list[float]:
    """About `count` round numbers on an axis, both ends included."""
    if axis.log:
        powers = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1)
        for steps in ((1,), (1, 3), (1, 2, 5)):
            found = [step * 10.0**power for power in powers for step in steps]
            found = [value for value in found if axis.low * 0.999 <= value <= axis.high * 1.001]
            if len(found) >= 3:
                break
        return found[:: -(-len(found) // (count + 2))]
    rough = (axis.high - axis.low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * unit for unit in (1, 2, 5, 10) if power * unit >= rough * 0.999)
    first = math.ceil(axis.low / step - 1e-9)
    return [number * step for number in range(first, math.floor(axis.high / step + 1e-9) + 1)]


def _steps(lines: Sequence[Line]) -> Axis:
    low, high = min(line.steps.min() for line in lines), max(line.steps.max() for line in lines)
    if low == high:
        low, high = low - 1, high + 1
    return Axis(0.0 if 0 <= low < 0.2 * high else float(low), float(high), LEFT, WIDTH - RIGHT)


def _values(lines: Sequence[Line], log: bool) -> Axis:
    every = np.concatenate([line.values for line in lines])
    every = every[np.isfinite(every)]
    low, high = (float(every.min()), float(every.max())) if len(every) else (0.0, 1.0)
    place = {"start": HEIGHT - BOTTOM, "end": TOP}
    if log and 0 < 10 * low < high:
        return Axis(low / 1.1, high * 1.1, **place, log=True)
    if 0 <= low < 0.6 * high or low == high == 0:
        return Axis(0.0, high * 1.05 or 1.0, **place)
    margin = max(0.06 * (high - low), 0.005 * abs(high)) if low < high else 0.1 * abs(high)
    return Axis(low - margin, high + margin, **place)


def _grid(across: Axis, up: Axis) -> Iterator[str]:
    for value in ticks(up, 5):
        y = up.place(np.array([value]))[0]
        yield f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
        yield f'<text class="tick" x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{short(value, False)}</text>'
    for value in ticks(across, 4):
        if value == round(value):
            x = across.place(np.array([value]))[0]
            yield f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 9}" text-anchor="middle">{short(value, False)}</text>'
    yield f'<text class="tick" x="{LEFT - 14}" y="{HEIGHT - 9}" text-anchor="end">step</text>'
    yield f'<path class="axis" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'


def _curve(line: Line, across: Axis, up: Axis, *, raw: bool) -> Iterator[str]:
    """The line as recorded; a jagged one smoothed, and by choice faint as recorded below."""
    recorded = thinned((line.steps, line.values), POINTS)
    style = f'style="--hue:{line.hue}"'
    means = _smoothed(line.values)
    if means is None:
        yield f'<path class="line run{min(line.run, 4)}" {style} d="{_path(*recorded, across, up)}"/>'
    else:
        if raw:
            yield f'<path class="raw" {style} d="{_path(*recorded, across, up)}"/>'
        every = slice(None, None, -(-2 * len(line.steps) // POINTS))
        path = _path(line.steps[every], means[every], across, up)
        yield f'<path class="line run{min(line.run, 4)}" {style} d="{path}"/>'
    if len(line.steps) <= DOTS:
        finite = np.isfinite(line.values)
        for x, y in zip(across.place(line.steps[finite]), up.place(line.values[finite]), strict=True):
            yield f'<circle {style} cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>'
    bad = line.steps[~np.isfinite(line.values)][:POINTS]
    if len(bad):
        marks = "".join(f"M{x:.1f} {HEIGHT - BOTTOM}v-6" for x in across.place(bad))
        yield f'<path class="bad" d="{marks}"><title>not finite</title></path>'


def _smoothed(values: np.ndarray) -> np.ndarray | None:
    """A long and jagged line smoothed, with its gaps; None for any other."""
    finite, width = values[np.isfinite(values)], SMOOTH * len(values)
    if width < 1 or len(finite) < 2 or np.abs(np.diff(finite)).sum() <= JAGGED * np.ptp(finite):
        return None
    return np.where(np.isfinite(values), smoothed(values, width), np.nan)


def _path(steps: np.ndarray, values: np.ndarray, across: Axis, up: Axis) -> str:
    """Moves and lines through the finite values; one that stands alone is a line to itself, which shows as a dot."""
    with np.errstate(invalid="ignore", divide="ignore"):
        xs, ys = across.place(steps), up.place(values)
    text, pen = [], "M"
    for place, (x, y) in enumerate(zip(xs, ys, strict=True)):
        if not math.isfinite(y):
            pen = "M"
            continue
        text.append(f"{pen}{x:.1f} {y:.1f}")
        alone = pen == "M" and not (place + 1 < len(ys) and math.isfinite(ys[place + 1]))
        text += [f"L{x:.1f} {y:.1f}"] * alone
        pen = "L"
    return "".join(text)


def _stops(lines: Sequence[Line], across: Axis, up: Axis) -> Iterator[str]:
    """Stretches of the steps that tell the values there, when pointed at."""
    steps = np.unique(np.concatenate([line.steps for line in lines if line.run == 0]))
    steps = steps[np.unique(np.linspace(0, len(steps) - 1, min(STOPS, len(steps))).round().astype(int))]
    xs = across.place(steps)
    edges = np.concatenate([[LEFT], (xs[1:] + xs[:-1]) / 2, [WIDTH - RIGHT]])
    for step, x, start, end in zip(steps, xs, edges[:-1], edges[1:], strict=True):
        told = [f"{line.label}: {short(_nearest(line, step))}" for line in lines]
        more = [f"and {len(told) - LINES} more"] if len(told) > LINES else []
        tip = "\n".join([f"step {step}", *told[:LINES], *more])
        yield (
            f'<g class="stop"><rect x="{start:.1f}" y="0" width="{max(end - start, 1):.1f}" height="{HEIGHT}"/>'
            f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/><title>{markup(tip)}</title></g>'
        )


def _nearest(line: Line, step: int) -> float:
    return float(line.values[np.abs(line.steps - step).argmin()])
