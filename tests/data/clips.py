"""Clips that tests make themselves, and where the real ones are."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy as np

REAL = Path(__file__).parents[3] / "shared" / "clips" / "camera"  # clips nobody here made; a checkout may lack them
READERS = ["av", "decord"] if find_spec("decord") else ["av"]


def numbered(count: int, height: int = 32, width: int = 64) -> np.ndarray:
    """Frames whose eight bars spell their index in binary, which survives any compression."""
    bits = (np.arange(count)[:, None] >> np.arange(8)) & 1
    bars = np.repeat(bits * 255, width // 8, axis=1).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(bars[:, None, :, None], (count, height, width, 3)))


def numbers(frames: np.ndarray) -> list[int]:
    """The indices that `numbered` wrote."""
    bars = frames.reshape(len(frames), -1, 8, frames.shape[2] // 8, 3).mean(axis=(1, 3, 4))
    return ((bars > 127) @ (1 << np.arange(8))).tolist()


def encode(
    path: Path,
    frames: np.ndarray,
    rate: int,
    codec: str,
    options: dict[str, str],
    format: str,
    *,
    pixels: str = "yuv420p",
    stamps: list[int] | None = None,
    prepare: Callable[[Any], None] = lambda track: None,
    convert: dict[str, str] | None = None,
) -> None:
    """Write frames, uint8 (T,H,W,3 or 4) or uint16 (T,H,W,3), with many keyframes, in any container.

    `stamps` are times in ticks of 1 / rate; `prepare` may set what it likes of the track; `convert` is how RGB becomes
    YUV (`VideoFrame.reformat`).
    """
    layout = {("uint8", 3): "rgb24", ("uint8", 4): "rgba", ("uint16", 3): "rgb48le"}[frames.dtype.name, frames.shape[3]]
    with av.open(str(path), "w", format=format) as file:
        track = file.add_stream(codec, rate=rate, options=options)
        track.height, track.width = frames.shape[1:3]
        track.pix_fmt = pixels
        track.codec_context.gop_size = 12
        if codec == "mpeg2video":
            track.codec_context.thread_count = 2  # else it depends on the machine, and may stamp frames that clash
        prepare(track)
        for index, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=layout)
            if convert:
                frame = frame.reformat(format=pixels, **convert)
            if stamps:
                frame.pts, frame.time_base = stamps[index], Fraction(1, rate)
            file.mux(track.encode(frame))
        file.mux(track.encode())


def smooth(frames: int, height: int, width: int) -> np.ndarray:
    """A gradient with a moving bright square."""
    ramp = np.linspace(40, 160, height)[:, None] + np.linspace(0, 60, width)
    clip = np.repeat(np.broadcast_to(ramp, (frames, height, width))[..., None], 3, axis=3).astype(np.uint8)
    for index, image in enumerate(clip):
        image[height // 4 : height // 2 + 1, index : index + max(1, width // 4)] = 230
    return clip


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / ((a.astype(float) - b) ** 2).mean().clip(1e-9)))
