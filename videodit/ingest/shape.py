"""Shape: what is cut from a clip to train on. Long clips become several; nothing is squeezed or enlarged.

Networks take some sizes and no others: pieces have legal numbers of frames at the rate of training, and every area
gives each of them the legal size nearest to its own proportions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from videodit.errors import InputError
from videodit.ingest.record import Dropped, Record, digest
from videodit.shapes import Sizes, VideoShape, longest

TIE = 1e-3  # seconds: times of frames are rounded
USUAL = Sizes(stride=(4, 8, 8), patch=(1, 2, 2))  # of the toy: what serves where no network is named


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A shot's record -> those of the clips that are cut from it, each with `sizes`: [height, width] for each area.

    Args:
        fps: frames a second of what is trained on; None: each file's own.
        frames: of a clip, at most: a legal number.
        shortest: frames of a clip, at least; a rest that is shorter is left over.
        areas: pixels a frame, of each size that is made.
        sizes: that the VAE and the DiT take.
    """

    fps: float | None
    frames: int
    shortest: int
    areas: Sequence[int]
    sizes: Sizes

    def __post_init__(self) -> None:
        least = self.sizes.least
        self.sizes.check(VideoShape(self.frames, least.height, least.width), f"shape.frames={self.frames}")
        if not 1 <= self.shortest <= self.frames:
            raise InputError(f"shape.shortest={self.shortest}: from 1 to shape.frames={self.frames}")
        if not self.areas or min(self.areas) < least.height * least.width:
            told = f"at least one, of no fewer pixels than {least.width}x{least.height} has"
            raise InputError(f"shape.areas={list(self.areas)}: {told}, {least.width * least.height}")
        if self.fps is not None and not self.fps > 0:
            raise InputError(f"shape.fps={self.fps}: above 0, or null for each clip's own")

    def __call__(self, record: Record) -> list[Record]:
        """See the class. Raises Dropped where nothing legal can be cut."""
        height, width = record["height"], record["width"]
        sizes = sorted({size for area in self.areas if (size := self._size(height, width, area))}, reverse=True)
        if not sizes:
            least = self.sizes.least
            raise Dropped(f"smaller than {least.width}x{least.height}", f"{width}x{height}")
        fps = self.fps or record["source_fps"]
        pieces = list(self._pieces(record, fps))
        if not pieces:
            raise Dropped(f"shorter than {self.shortest} frames", f"{record['seconds']:.2f} seconds")
        made = [{"start": start, "frames": frames, "fps": fps, "sizes": [list(size) for size in sizes]}
                for start, frames in pieces]  # fmt: skip
        return [{**record, "id": digest(record["shot"], *piece.values()), **piece} for piece in made]

    def _pieces(self, record: Record, fps: float) -> Iterator[tuple[float, int]]:
        """(seconds after the file's first frame, frames) of each piece, no more than the shot has frames."""
        room, done = 1 if record["first"] == record["last"] else math.ceil((record["seconds"] - TIE) * fps), 0
        for _ in range(record["count"]):
            frames = longest(min(room - done, self.frames), *self.sizes)
            if frames < self.shortest:
                return
            yield record["shot_start"] + done / fps, frames
            done += frames

    def _size(self, height: int, width: int, area: int) -> tuple[int, int] | None:
        """The legal (height, width) of about `area` pixels, or None where the clip has too few."""
        legal = VideoShape(1, height, width).within(area).legal(*self.sizes)
        return (legal.height, legal.width) if legal.height <= height and legal.width <= width else None
