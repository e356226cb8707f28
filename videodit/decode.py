"""From latents to a clip within the memory that there is: whole, in chunks of time, in tiles of space, on the CPU.

C, t, h, w of latents; T, H, W of the clip
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from videodit.errors import InputError, is_out_of_memory
from videodit.models.vae import VideoVAE
from videodit.printable import warn

OVERLAP = 4  # latents that neighbouring tiles share at least: further away the decoder's convolutions hardly reach
TILES = (32, 16)  # sides of a tile in latents, tried in this order


@dataclass(frozen=True)
class Way:
    """How to decode: latent frames at a time (0: all at once), side of a tile in latents (0: no tiles), where."""

    chunk: int
    tile: int = 0
    device: str = ""

    def __str__(self) -> str:
        parts = [f"{self.chunk} latent frames at a time" if self.chunk else "whole"]
        parts += [f"in tiles of {self.tile} latents"] if self.tile else []
        return ", ".join([*parts, f"on {self.device}"] if self.device else parts)


def ways(shape: tuple[int, int, int], device: torch.device, first: Way) -> list[Way]:
    """From `first` down to what needs least: for latents (t,h,w)."""
    frames, height, width = shape
    first = first if first.tile or first.device or 0 < first.chunk < frames else Way(0)
    down = [Way(chunk) for chunk in (4, 2, 1) if chunk < frames]
    down += [Way(1, tile) for tile in TILES if tile < max(height, width)]
    if device.type != "cpu":
        down += [Way(1, way.tile, "cpu") for way in down if way.chunk == 1]
    return [first, *(way for way in down if _need(way) < _need(first))]


def _need(way: Way) -> tuple[bool, float, float]:
    """What falls with the memory that a way takes."""
    return not way.device, way.tile or math.inf, way.chunk or math.inf


def decode(vae: VideoVAE, latents: Tensor, way: Way) -> Tensor:
    """Latents (C,t,h,w) -> clip (3,T,H,W) on the CPU, not clamped."""
    frames, height, width = latents.shape[1:]
    chunk, done = way.chunk or frames, 0
    st, sh, sw = vae.stride
    out = torch.zeros(3, 1 + (frames - 1) * st, height * sh, width * sw)
    if not way.tile:
        for clip in vae.decode_chunks(latents[None], chunk):
            out[:, done : done + clip.shape[2]] = clip[0].cpu()
            done += clip.shape[2]
        return out
    total = torch.zeros(height * sh, width * sw)
    for top, left in product(starts(height, way.tile), starts(width, way.tile)):
        part = latents[:, :, top : top + way.tile, left : left + way.tile]
        weight = _ramp(part.shape[2] * sh, OVERLAP * sh)[:, None] * _ramp(part.shape[3] * sw, OVERLAP * sw)
        rows = slice(top * sh, top * sh + weight.shape[0])
        columns = slice(left * sw, left * sw + weight.shape[1])
        done = 0
        for clip in vae.decode_chunks(part[None], chunk):
            out[:, done : done + clip.shape[2], rows, columns] += clip[0].cpu() * weight
            done += clip.shape[2]
        total[rows, columns] += weight
    return out.div_(total)


def decode_stepping_down(open_vae: Callable[[str], VideoVAE], latents: Tensor, down: list[Way]) -> tuple[Tensor, Way]:
    """Decode in the first way that the memory suffices for -> clip, way.

    `open_vae` gives the network on a device ("": where it belongs).
    """
    for number, way in enumerate(down):
        try:
            vae = open_vae(way.device)
            return decode(vae, latents.to(vae.mean.device, vae.mean.dtype), way), way
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if number + 1 == len(down):
                raise InputError(f"the memory does not suffice to decode {tuple(latents.shape)} {way}") from None
        warn(__name__, f"not enough memory to decode {way}; now {down[number + 1]}")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    raise AssertionError("no way given")


def tiles(size: int, tile: int) -> int:
    """How many tiles cover an axis, with OVERLAP between neighbours."""
    return 1 if size <= tile else -(-(size - OVERLAP) // (tile - OVERLAP))


def starts(size: int, tile: int) -> Iterator[int]:
    """Where tiles begin, spread evenly."""
    count, last = tiles(size, tile), max(0, size - tile)
    return (round(last * i / max(1, count - 1)) for i in range(count))


def _ramp(size: int, overlap: int) -> Tensor:
    """Weights of a tile's pixels along an axis: rising from its edge, 1 inside."""
    rise = (torch.arange(size) + 0.5) / overlap
    return torch.minimum(rise, rise.flip(0)).clamp(max=1.0)
