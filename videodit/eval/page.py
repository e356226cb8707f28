"""A page to look at: generated clips with their prompts, and what the judge read that was not asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from videodit.data.sample import to_frames
from videodit.data.video import replacing

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

    from videodit.eval.protocol import Shown

FRAMES = 6  # of a clip, spread over its time
ZOOM = 1.5
GAP, LINE, FONT = 8, 16, 13  # pixels
PAPER, INK, GOOD, BAD = (255, 255, 255), (30, 30, 30), (20, 130, 50), (200, 20, 20)


def page(path: Path, shown: Sequence[Shown], *, columns: int) -> None:
    """Write the clips, all of one shape, as a PNG of `columns` columns. Raises InputError when it cannot be written."""
    from PIL import Image, ImageDraw, ImageFont

    _, frames, height, width = shown[0].clip.shape
    count = min(FRAMES, frames)
    size = (round(width * ZOOM), round(height * ZOOM))
    cell = (max(count * (size[0] + 2), 420) + GAP, size[1] + 2 * LINE + GAP)
    rows = -(-len(shown) // columns)
    image = Image.new("RGB", (GAP + columns * cell[0], GAP + rows * cell[1]), PAPER)
    pen = ImageDraw.Draw(image)
    pen.font = ImageFont.load_default(FONT)
    for place, one in enumerate(shown):
        left, top = GAP + place % columns * cell[0], GAP + place // columns * cell[1]
        _line(pen, (left, top), f"{one.seed}  {one.prompt}", INK, cell[0] - GAP)
        missed = "; ".join(f"{name}: {asked} asked, {seen} seen" for name, (asked, seen) in one.wrong.items())
        _line(pen, (left, top + LINE), missed or "all right", BAD if missed else GOOD, cell[0] - GAP)
        pictures = to_frames(one.clip)
        for column, index in enumerate(np.linspace(0, frames - 1, count).round().astype(int)):
            picture = Image.fromarray(pictures[index]).resize(size, Image.Resampling.BICUBIC)
            image.paste(picture, (left + column * (size[0] + 2), top + 2 * LINE))
    with replacing(path) as temporary:
        image.save(temporary, "PNG")


def _line(pen: ImageDraw, at: tuple[int, int], text: str, colour: tuple[int, int, int], width: int) -> None:
    """One line of text, cut where the cell ends."""
    if pen.textlength(text) > width:
        while pen.textlength(text + "…") > width:
            text = text[:-1]
        text += "…"
    pen.text(at, text, colour)
