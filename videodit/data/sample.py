"""What a data set hands out, and the one conversion between stored frames and clips.

Letters: T frames, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

REPEATED = "have fewer frames a second than is asked for, so frames are repeated"
ENLARGED = "are smaller than what is asked for, so they are enlarged"
INTERLACED = "are interlaced, so the lines that a frame lacks are filled in"


@dataclass
class Sample:
    """One captioned clip.

    `clip` is (3,T,H,W) float32 in [-1,1], `fps` its frames per second, `key` a name that stays the same between runs.
    `made_up`: what of it its file does not have, of REPEATED, ENLARGED and INTERLACED.
    """

    clip: Tensor
    caption: str
    fps: float
    key: str
    made_up: tuple[str, ...] = ()


class BadSample(Exception):
    """A sample that cannot be used: which file, and why. The loader counts, reports and quarantines it."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(path, reason)  # both as arguments, so that it survives the pickle between worker and loader
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def faster(fps: float, source: float) -> bool:
    """Whether a rate is above a file's own by more than rounding (24 of 23.976), so that frames are repeated."""
    return fps > 1.01 * source


def to_clip(frames: np.ndarray) -> Tensor:
    """Stored frames, uint8 (T,H,W,3), as a clip, float32 (3,T,H,W) in [-1,1]."""
    clip = rearrange(torch.from_numpy(np.require(frames, requirements=["C", "W"])), "t h w c -> c t h w")
    return clip.float() / 127.5 - 1


def to_frames(clip: Tensor) -> np.ndarray:
    """A clip, (3,T,H,W), as stored frames, uint8 (T,H,W,3): rounded, not truncated; values beyond [-1,1] saturate.

    The exact inverse of `to_clip`.
    """
    out = torch.empty(*clip.shape[1:], 3, dtype=torch.uint8)
    for frame, target in zip(clip.detach().unbind(1), out, strict=True):  # one by one: no copy of the whole in float32
        target.copy_(rearrange(((frame.float() + 1) * 127.5).round().clamp(0, 255), "c h w -> h w c"))
    return out.numpy()
