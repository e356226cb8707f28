"""What all readers give: frames with their times, and what a file says about itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from einops import rearrange

from videodit.data.colour import Transfer
from videodit.data.video.files import named

TIE = 1e-3  # seconds: distances in time that differ by less are equal; stamps are rounded
RATE = 25.0  # frames per second where a file does not say; FFmpeg's own guess
LAST = 2.0  # seconds that a file's last frame is believed to be shown: nothing that is decoded bears it out
FASTEST = 1000.0  # frames per second that are believed
PIXELS = 2**26  # of a frame, at most: 8192 x 8192; more would need gigabytes
UNEVEN = 2e-3  # seconds by which steps of a constant rate may differ: containers round times to a millisecond


class CorruptPackets(UserWarning):
    """`count` packets of the file `path` could not be decoded and were skipped; the message names both."""

    def __init__(self, *, path: str | Path, count: int) -> None:
        super().__init__(f"{named(path)}: skipped {count} corrupt packets")
        self.path, self.count = Path(path), count

    def __reduce__(self) -> tuple[Callable[[], CorruptPackets], tuple[()]]:
        """Let a worker process hand it over."""
        return partial(CorruptPackets, path=self.path, count=self.count), ()


@dataclass(frozen=True)
class VideoInfo:
    """What a file says about itself.

    `height` and `width` are those of the frames that reading gives: turned upright, with square pixels. `fps` is the
    mean over the file. `rotation`: degrees clockwise, of 0, 90, 180, 270, by which the stored frames are turned (a
    mirrored file is mirrored back too). `pixel_aspect`: width by height of a stored pixel. `bits`: per channel.
    `hdr`: its transfer function, None for SDR. `variable`: its frames are not evenly spaced in time. `interlaced`: its
    first frame is, or it says so: each frame that is one is read deinterlaced.
    """

    frames: int
    height: int
    width: int
    fps: float
    seconds: float
    codec: str
    metadata: dict[str, str]
    pixel_format: str
    bits: int
    rotation: int
    pixel_aspect: float
    hdr: Transfer | None
    variable: bool
    alpha: bool
    interlaced: bool = False

    @property
    def comment(self) -> str:
        """Its comment, where videodit keeps a record; Matroska writes names of tags large."""
        return next((text for name, text in self.metadata.items() if name.lower() == "comment"), "")


class Frame(NamedTuple):
    """One source frame: shown from `time` until `end`; the mean rate of its file; a function that makes its pixels.

    Pixels are uint8 (H,W,3).
    """

    time: float
    end: float
    fps: float
    pixels: Callable[[], np.ndarray]


class Turn(NamedTuple):
    """How stored frames become upright: mirrored left to right first, then turned counterclockwise by quarters."""

    quarters: int = 0
    mirrored: bool = False

    @property
    def degrees(self) -> int:
        """Clockwise, of 0, 90, 180, 270."""
        return -90 * self.quarters % 360

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after it."""
        return (width, height) if self.quarters % 2 else (height, width)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Do it to an image (H,W,3)."""
        image = image[:, ::-1] if self.mirrored else image
        return np.ascontiguousarray(np.rot90(image, self.quarters))


def until(time: float, end: float) -> float:
    """When a frame that is shown from `time` on ends, by a file that says at `end`: after it began, and within LAST."""
    return min(max(end, time + TIE), time + LAST)


def rate_of(claimed: float, times: np.ndarray) -> float:
    """A file's frames per second: what it claims, unless its frames' times (T,) cannot be that dense, or that sparse.

    Steps are on average at least half as long as their median, so no mean rate is above twice the rate of that.
    """
    steps = np.diff(np.sort(times))
    steps = steps[steps > 0]
    if not len(steps):
        return min(claimed, FASTEST)
    usual = 1 / float(np.median(steps))
    least = len(steps) / (float(steps.sum()) + LAST)
    return min(claimed if least - 1e-9 <= claimed <= 2 * usual else usual, FASTEST)


def uneven(times: np.ndarray) -> bool:
    """Whether ascending times (T,), seconds, are those of a variable rate."""
    steps = np.diff(times)
    return len(steps) > 1 and float(np.ptp(steps)) > UNEVEN + 1e-9


def on_white(image: np.ndarray) -> np.ndarray:
    """A picture with alpha, uint8 (H,W,4), before white: uint8 (H,W,3)."""
    colours, alpha = image[..., :3].astype(np.uint16), rearrange(image[..., 3], "h w -> h w 1").astype(np.uint16)
    return ((colours * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
