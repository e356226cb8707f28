"""How visible the seams of spatial tiles are: `python tools/seams.py [model=toy] [tile=16] [clips=8]`.

Clips of combinations that the toy world never trained on, several tiles wide, are encoded, then decoded whole and in
tiles. Printed: the PSNR of each beside the clip and of the one beside the other, and how steep the picture is across
the columns where tiles meet, relative to the same columns decoded whole (1.00: nothing to see).
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

import videodit
from videodit.decode import OVERLAP, Way, decode, starts
from videodit.toy.render import render
from videodit.toy.scenes import scene


def main(arguments: list[str]) -> None:
    """Measure and print."""
    given = {"model": "toy", "tile": "16", "clips": "8"} | dict(word.split("=", 1) for word in arguments)
    tile, count = int(given["tile"]), int(given["clips"])
    vae = videodit.load(given["model"], device="cpu").parts.vae
    _, rows, columns = vae.stride
    width = (3 * tile - 2 * OVERLAP) * columns
    clips = render([scene(1, i, split="composition") for i in range(count)], frames=9, height=tile * rows, width=width)
    whole, tiled = [], []
    with torch.no_grad():
        for clip in clips:
            latents = vae.encode(clip[None])[0]
            whole.append(decode(vae, latents, Way(0)))
            tiled.append(decode(vae, latents, Way(1, tile)))
    one, other = torch.stack(whole), torch.stack(tiled)
    meeting = [start * columns + OVERLAP * columns // 2 for start in list(starts(width // columns, tile))[1:]]
    steeper = _steepness(other, meeting) / _steepness(one, meeting)
    print(f"{given['model']}, {count} clips of {width}x{tile * rows}, tiles of {tile} latents, {OVERLAP} shared")
    print(f"PSNR: whole {_psnr(one, clips):.2f} dB, in tiles {_psnr(other, clips):.2f} dB, one beside the other "
          f"{_psnr(one, other):.2f} dB; across the seams {steeper:.3f} times as steep")  # fmt: skip


def _steepness(clips: Tensor, columns: list[int]) -> float:
    """Mean difference of the neighbours at these columns."""
    return torch.stack([(clips[..., c] - clips[..., c - 1]).abs().mean() for c in columns]).mean().item()


def _psnr(a: Tensor, b: Tensor) -> float:
    return -10 * ((a - b).square().mean() / 4).log10().item()


if __name__ == "__main__":
    main(sys.argv[1:])
