"""Histograms as SVG text: what was kept and what was dropped, with the bounds between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from videodit.track.charts import short

BINS = 30
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 400, 150, 34, 10, 8, 22  # the drawing and its margins
STYLE = """
.kept { fill: var(--good); } .gone { fill: var(--bad); } .bound { stroke: var(--ink); stroke-dasharray: 4 3; }
"""


def histogram(kept: Sequence[float], gone: Sequence[float], bounds: Sequence[float | None]) -> str:
    """Bars of two kinds, one upon the other, over the same bins; a dashed line where a bound is."""
    kept, gone = (np.array([x for x in values if np.isfinite(x)], dtype=float) for values in (kept, gone))
    values = np.concatenate([kept, gone])
    if not len(values):
        return '<p class="soft">nothing was measured</p>'
    marks = [bound for bound in bounds if bound is not None and np.isfinite(bound)]
    low, high = min(values.min(), *marks, np.inf), max(values.max(), *marks, -np.inf)
    if high == low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    counts = [np.histogram(part, edges)[0] for part in (kept, gone)]
    top = max(1, int(sum(counts).max()))
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">']
    for place in range(BINS):
        x, wide = _x(edges[place], low, high), (WIDTH - LEFT - RIGHT) / BINS - 1
        base = HEIGHT - BOTTOM
        for name, count in (("kept", counts[0][place]), ("gone", counts[1][place])):
            tall = (HEIGHT - TOP - BOTTOM) * count / top
            base -= tall
            if count:
                word = {"kept": "kept", "gone": "dropped"}[name]
                told = f"{count} {word}, {edges[place]:.3g} to {edges[place + 1]:.3g}"
                parts.append(f'<rect class="{name}" x="{x:.1f}" y="{base:.1f}" width="{wide:.1f}" height="{tall:.1f}">'
                             f"<title>{told}</title></rect>")  # fmt: skip
    for mark in marks:
        x = _x(mark, low, high)
        parts.append(f'<path class="bound" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"><title>bound {mark:g}</title></path>')
    parts.append(f'<path class="axis" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    for value, anchor in ((low, "start"), ((low + high) / 2, "middle"), (high, "end")):
        where = f'x="{_x(value, low, high):.1f}" y="{HEIGHT - 7}" text-anchor="{anchor}"'
        parts.append(f'<text class="tick" {where}>{short(value)}</text>')
    parts.append(f'<text class="tick" x="{LEFT - 5}" y="{TOP + 9}" text-anchor="end">{top}</text></svg>')
    return "".join(parts)


def _x(value: float, low: float, high: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low)
