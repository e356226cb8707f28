"""Sizes of clips, latents and token grids, and the only arithmetic between them.

    VideoShape (frames, height, width)  --stride-->  LatentShape  --patch-->  TokenGrid

The video VAE is causal and sees the first frame alone, so `frames = 1 + k * stride[0]`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

from videodit.errors import InputError

Triple = tuple[int, int, int]  # (time, height, width)
Fit = Literal["crop", "pad", "stretch"]

# (height, width) of the usual screens: full HD upright and lying, a 3:4 tablet, and the square of a feed.
PRESETS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"phone": (1920, 1080), "tablet": (2048, 1536), "desktop": (1080, 1920), "square": (1080, 1080)}
)


@dataclass(frozen=True)
class TokenGrid:
    """Tokens of one clip along (time, height, width)."""

    frames: int
    height: int
    width: int

    @property
    def count(self) -> int:
        """Number of tokens."""
        return self.frames * self.height * self.width


@dataclass(frozen=True)
class LatentShape:
    """Latent frames, rows and columns of one clip."""

    frames: int
    height: int
    width: int

    def grid(self, patch: Triple) -> TokenGrid:
        """The tokens these latents make. Raises InputError where `patch` does not divide them."""
        sizes = (self.frames, self.height, self.width)
        if any(size % p for size, p in zip(sizes, patch, strict=True)):
            raise InputError(f"latents of {sizes} are not divisible by the patch {patch}")
        return TokenGrid(*(size // p for size, p in zip(sizes, patch, strict=True)))

    def video(self, stride: Triple) -> VideoShape:
        """The clip these latents decode to."""
        return VideoShape(1 + (self.frames - 1) * stride[0], self.height * stride[1], self.width * stride[2])


@dataclass(frozen=True)
class VideoShape:
    """Frames, rows and columns of one clip in pixels."""

    frames: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if min(self.frames, self.height, self.width) < 1:
            raise InputError(f"a clip needs at least 1 frame of 1x1 pixels, got {self}")

    def __str__(self) -> str:
        return f"{self.width}x{self.height}, {self.frames} frames"

    def latent(self, stride: Triple) -> LatentShape:
        """The latents this clip encodes to. Raises InputError where the stride does not fit."""
        if (self.frames - 1) % stride[0] or self.height % stride[1] or self.width % stride[2]:
            raise InputError(
                f"{self} does not fit a VAE of stride {stride}: frames must be 1 + k*{stride[0]}, "
                f"height and width multiples of {stride[1]} and {stride[2]}"
            )
        return LatentShape(1 + (self.frames - 1) // stride[0], self.height // stride[1], self.width // stride[2])

    def legal(self, stride: Triple, patch: Triple) -> VideoShape:
        """The shape for this one that VAE and patchifier take: as many frames at least, since what is too many can be
        cut and what is too few only be filled; the nearest height and width. Never empty, ties go up.
        """
        latent_frames = -(-(self.frames - 1) // stride[0]) + 1
        latent_frames += -latent_frames % patch[0]
        return VideoShape(
            1 + (latent_frames - 1) * stride[0],
            _nearest_multiple(self.height, stride[1] * patch[1]),
            _nearest_multiple(self.width, stride[2] * patch[2]),
        )

    def within(self, area: int) -> VideoShape:
        """As many frames of the same proportions and at most about `area` pixels; never enlarged."""
        scale = min(1.0, math.sqrt(area / (self.height * self.width)))
        return VideoShape(self.frames, max(1, round(self.height * scale)), max(1, round(self.width * scale)))


class Sizes(NamedTuple):
    """The sizes of clips that networks take: a VAE of this stride, then a DiT of this patch."""

    stride: Triple
    patch: Triple

    @property
    def steps(self) -> Triple:
        """Frames, rows and columns from one legal size to the next."""
        (t, h, w), (pt, ph, pw) = self
        return (t * pt, h * ph, w * pw)

    @property
    def least(self) -> VideoShape:
        """The smallest legal clip."""
        return VideoShape(1, 1, 1).legal(*self)

    @property
    def told(self) -> str:
        """All legal sizes, in words."""
        (frames, height, width), first = self.steps, self.least.frames
        edges = f"multiples of {width}" if height == width else f"multiples of {width} and {height}"
        return f"{first} + k*{frames} frames, and as width and height {edges}"

    def check(self, shape: VideoShape, name: str, instead: str = "") -> None:
        """InputError where the networks do not take this shape.

        name: the key, or what else begins the line. instead: what to do; without it, the nearest legal shape.
        """
        if shape != (nearest := shape.legal(*self)):
            stride, patch = ("x".join(map(str, triple)) for triple in self)
            why = f"a VAE of stride {stride} and a DiT of patch {patch} take {self.told}"
            raise InputError(f"{name}: clips of {shape} do not fit: {why}; {instead or f'{nearest} would do'}")


def longest(available: int, stride: Triple, patch: Triple) -> int:
    """The largest number of frames that VAE and patchifier take among so many; 0 where there are too few."""
    latent_frames = (available - 1) // stride[0] + 1 if available > 0 else 0
    latent_frames -= latent_frames % patch[0]
    return 1 + (latent_frames - 1) * stride[0] if latent_frames else 0


def _nearest_multiple(value: float, unit: int) -> int:
    return max(1, int(value / unit + 0.5)) * unit


def parse_size(size: str) -> tuple[int, int]:
    """(height, width) of a size written width x height: "96x64" is (64, 96). Raises InputError for anything else."""
    match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", str(size).strip().lower())
    if match is None or 0 in (sides := tuple(map(int, match.groups()))):
        raise InputError(f"size must be WIDTHxHEIGHT in pixels, such as 96x64, got {size!r}")
    return sides[1], sides[0]
