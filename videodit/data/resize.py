"""The resizer: any clip to exactly the size, rate and length asked for.

Letters: T frames, H height, W width.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from videodit.errors import InputError
from videodit.shapes import Fit

CHUNK = 8  # frames resized at a time: only the result is ever held whole


def resize(clip: Tensor, height: int, width: int, *, fit: Fit = "crop") -> Tensor:
    """A clip (3,T,H,W) in [-1,1] at exactly (3,T,height,width), antialiased, still in [-1,1].

    Where the shapes differ, `crop` fills the frame and cuts off what stands out on both sides, `pad` shows everything
    between black bars, and `stretch` changes the proportions. Raises InputError for another fit or an empty size.
    A clip of that size is returned as it is.
    """
    if min(height, width) < 1:
        raise InputError(f"a frame needs at least 1x1 pixels, got {width}x{height}")
    rows, columns = clip.shape[-2:]
    if fit == "stretch":
        inner = (height, width)
    elif fit == "crop":
        scale = max(height / rows, width / columns)
        inner = (max(height, round(rows * scale)), max(width, round(columns * scale)))
    elif fit == "pad":
        scale = min(height / rows, width / columns)
        inner = (min(height, max(1, round(rows * scale))), min(width, max(1, round(columns * scale))))
    else:
        raise InputError(f"fit must be crop, pad or stretch, got {fit}")
    if (rows, columns) == inner == (height, width):
        return clip
    top, left = (inner[0] - height) // 2, (inner[1] - width) // 2  # what is cut off, or below zero a bar
    result = clip.new_empty((*clip.shape[:2], height, width))
    for source, target in zip(clip.split(CHUNK, dim=1), result.split(CHUNK, dim=1), strict=True):
        part = _scale(source, inner)
        # A negative pad cuts off. The bars are black, which is -1.
        bars = (-left, width - inner[1] + left, -top, height - inner[0] + top)
        target.copy_(F.pad(part, bars, value=-1.0))
    return result


def _scale(clip: Tensor, size: tuple[int, int]) -> Tensor:
    if clip.shape[-2:] == size:
        return clip
    frames = rearrange(clip, "c t h w -> t c h w")
    frames = F.interpolate(frames, size, mode="bicubic", antialias=True, align_corners=False)
    return rearrange(frames.clamp_(-1, 1), "t c h w -> c t h w")  # a cubic overshoots at sharp edges


def retime(clip: Tensor, fps_in: float, fps_out: float, frames: int) -> Tensor:
    """A clip (3,T,H,W) at `fps_in` as exactly `frames` frames at `fps_out`; past its end the last frame stands still.

    Blends linearly between the two neighbours in time: where the rates are no multiples of each other, taking the
    nearest frame holds some longer than others, which the eye sees as a stutter; a blend moves evenly, at the price
    of a soft edge on what moves fast, and frames that exist in the source come through unchanged. A clip of that rate
    and length is returned as it is.
    """
    if frames < 1 or not (fps_in > 0 and fps_out > 0):
        raise InputError(f"needs 1 or more frames and rates above 0, got {frames} frames, {fps_in} to {fps_out} fps")
    last = clip.shape[1] - 1
    if fps_in == fps_out and frames == last + 1:
        return clip
    place = (torch.arange(frames, dtype=torch.float64) * (fps_in / fps_out)).clamp(max=last)
    before = place.floor().long()
    after = (before + 1).clamp(max=last)
    share = rearrange((place - before).to(clip), "t -> t 1 1")
    before, after = before.to(clip.device), after.to(clip.device)
    result = clip.new_empty(clip.shape[0], frames, *clip.shape[2:])
    for part in torch.arange(frames, device=clip.device).split(CHUNK):
        result[:, part] = torch.lerp(clip[:, before[part]], clip[:, after[part]], share[part])
    return result
