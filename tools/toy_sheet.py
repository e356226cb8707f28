"""Draws toy scenes as a contact sheet (a row each, captions on top), and times the renderer.

python tools/toy_sheet.py out.png [--rows 12] [--columns 9] [--first 0] [--seed 0] [--split train] [--bodies 1]
    [--size 64x64] [--frames 17] [--zoom 2] [--time]
"""

from __future__ import annotations

import argparse
import time

import torch
from PIL import Image, ImageDraw

from videodit.toy.grammar import caption
from videodit.toy.render import render
from videodit.toy.scenes import scene


def main() -> None:
    """Reads the options, writes the sheet, prints the rate if asked."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("out")
    for name, value in (("rows", 12), ("columns", 9), ("first", 0), ("seed", 0), ("frames", 17), ("zoom", 2)):
        options.add_argument(f"--{name}", type=int, default=value)
    options.add_argument("--split", default="train")
    options.add_argument("--bodies", type=int)
    options.add_argument("--size", default="64x64", help="width x height")
    options.add_argument("--time", action="store_true", help="also print clips a second, in batches of 32")
    chosen = options.parse_args()
    width, height = map(int, chosen.size.split("x"))
    indices = range(chosen.first, chosen.first + chosen.rows)
    scenes = [scene(chosen.seed, index, split=chosen.split, bodies=chosen.bodies) for index in indices]
    clips = render(scenes, frames=chosen.frames, height=height, width=width)
    words = [caption(drawn, chosen.seed, index) for drawn, index in zip(scenes, indices, strict=True)]
    write_sheet(chosen.out, clips, words, chosen.columns, chosen.zoom)
    if chosen.time:
        print(f"{rate(chosen.frames, height, width):.0f} clips/s at {chosen.frames}x{height}x{width}, "
              f"{torch.get_num_threads()} threads")  # fmt: skip


def write_sheet(path: str, clips: torch.Tensor, words: list[str], columns: int, zoom: int) -> None:
    """Clips (B,3,T,H,W) in [-1,1] as rows of `columns` frames spread over their length, `zoom` times as large."""
    _, _, frames, height, width = clips.shape
    picks = [round(i * (frames - 1) / max(1, columns - 1)) for i in range(min(columns, frames))]
    pixels = ((clips[:, :, picks] + 1) * 127.5).round().byte().permute(0, 2, 3, 4, 1).numpy()
    cell, line = (width * zoom + 3, height * zoom + 3), 14
    sheet = Image.new("RGB", (cell[0] * len(picks), (cell[1] + line) * len(clips)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, text in enumerate(words):
        top = row * (cell[1] + line)
        draw.text((2, top + 1), text, fill="black")
        for column in range(len(picks)):
            frame = Image.fromarray(pixels[row, column]).resize((width * zoom, height * zoom), Image.Resampling.NEAREST)
            sheet.paste(frame, (column * cell[0], top + line))
    sheet.save(path)


def rate(frames: int, height: int, width: int, batch: int = 32, batches: int = 5) -> float:
    """Clips a second, scenes and all, in batches of `batch`."""
    start = 0.0
    for number in range(batches + 1):
        if number == 1:  # the first is a warm-up
            start = time.perf_counter()
        scenes = [scene(1, number * batch + i, split="train") for i in range(batch)]
        render(scenes, frames=frames, height=height, width=width)
    return batch * batches / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
