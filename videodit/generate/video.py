"""A video when it is denoised and when it is finished: exactly what was asked for, with its record, and saved.

C, t, h, w of latents; T, H, W of clips
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from videodit.data.resize import resize, retime
from videodit.data.sample import to_frames
from videodit.data.video import beside, check_place, replacing, target, write
from videodit.errors import InputError
from videodit.generate.request import Request


@dataclass(frozen=True, eq=False)
class Denoised:
    """A video between denoising and decoding: all that another pipe of the same VAE, in another thread or process,
    needs to finish it. latents: (C,t,h,w). record: of how it was made, if it is decoded as is meant.
    """

    latents: Tensor
    request: Request
    record: Mapping[str, Any]


class Video:
    """A generated clip (3,T,H,W) float32 in [-1,1], its frames per second, and the record of how it was made."""

    def __init__(self, clip: Tensor, fps: float, record: dict[str, Any]) -> None:
        self.clip, self.fps, self.record = clip, fps, record

    @property
    def frames(self) -> np.ndarray:
        """uint8 (T,H,W,3)."""
        return to_frames(self.clip)

    def save(self, path: str | Path) -> Path:
        """Write .mp4 .webm .gif .webp, of one frame .png .jpg, or with `/` at the end a folder of frames. The record is
        in it, and again as PATH.json beside it. InputError where that would replace what is none.
        """
        if not isinstance(path, str | Path):
            raise InputError(f"path={path}: name a file, such as video.mp4")
        path = target(path)
        check_place(path)
        record = json.dumps(self.record, ensure_ascii=False, indent=2)
        write(path, self.frames, self.fps, metadata={"comment": record})
        if path.suffix:
            with replacing(beside(path)) as temporary:
                temporary.write_text(record + "\n", encoding="utf-8")
        return path


def finish(clip: Tensor, fps: float, request: Request, record: Mapping[str, Any]) -> Video:
    """A decoded clip (3,T,H,W) at this rate as exactly the size, rate and frames asked for; the rest is cut off. The
    clip may change.
    """
    clip = resize(clip.float().cpu().clamp_(-1, 1), request.height, request.width, fit=request.fit)
    return Video(retime(clip, fps, request.fps, request.frames), request.fps, dict(record))
