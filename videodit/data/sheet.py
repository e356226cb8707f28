"""Contact sheets: clips as rows of frames on one PNG, to look at."""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from videodit.data.video import commented, replacing
from videodit.errors import InputError

GAP = 4  # pixels between pictures
LABEL = 18  # pixels a line of text takes
PAPER, INK = (255, 255, 255), (0, 0, 0)


def sheet(path: str | Path, rows: list[np.ndarray], labels: list[str], columns: int) -> None:
    """Write one row for each clip, uint8 (T,H,W,3) of any sizes: its label, then `columns` frames spread over its time.

    A clip of fewer frames shows each once. The labels are the PNG's comment, too.
    The PNG appears whole or not at all; InputError where it cannot be written.
    """
    if not rows or len(rows) != len(labels) or columns < 1:
        counts = f"{len(rows)} rows, {len(labels)} labels, {columns} columns"
        raise InputError(f"{path}: a sheet needs a row, a label for each and a column, got {counts}")
    width = GAP + max(min(columns, len(row)) * (row.shape[2] + GAP) for row in rows)
    height = GAP + sum(LABEL + row.shape[1] + GAP for row in rows)
    page = Image.new("RGB", (width, height), PAPER)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=12)
    top = GAP
    for row, label in zip(rows, labels, strict=True):
        pen.text((GAP, top), _shorten(label, pen, font, width - 2 * GAP), fill=INK, font=font)
        top += LABEL
        chosen = np.linspace(0, len(row) - 1, min(columns, len(row))).round().astype(int)
        for place, index in enumerate(chosen):
            page.paste(Image.fromarray(row[index]), (GAP + place * (row.shape[2] + GAP), top))
        top += row.shape[1] + GAP
    with replacing(path) as temporary:
        page.save(temporary, format="PNG", pnginfo=commented("\n".join(labels)))


def _shorten(label: str, pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The label on one line, cut with an ellipsis where it is wider than the page."""
    line = " ".join(label.split())
    if pen.textlength(line, font=font) <= width:
        return line
    fitting = bisect_right(range(len(line)), width, key=lambda count: pen.textlength(line[:count] + "…", font=font))
    return line[: max(fitting - 1, 0)] + "…"
