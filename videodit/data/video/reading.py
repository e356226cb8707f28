"""Which frames of a file: by time, by number, as they come. The readers' common part.

Letters: T frames, H height, W width.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import closing
from itertools import count, islice
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from videodit.data.video import by_av, by_decord, by_folder, by_pillow
from videodit.data.video.files import named
from videodit.data.video.frame import TIE, Frame, VideoInfo
from videodit.errors import InputError

Reader = Literal["av", "decord"]


def probe(path: str | Path, *, exact: bool = False) -> VideoInfo:
    """Describe a video, a picture or a folder of frames, by its content, whatever its name.

    One frame is decoded. Where the container lists all its frames (mp4, AVI) they are counted off that list; otherwise,
    or if `exact`, its packets are read through, undecoded: that count holds even if the list does not, as in a file
    that was cut off. A moving picture (GIF, WebP, PNG, AVIF) is decoded.
    Raises InputError, one line that names the file, where there is no such file or it holds nothing that can be seen.
    """
    if os.path.isdir(path):
        return by_folder.inspect(path)
    return by_pillow.inspect(path) if by_pillow.is_picture(path) else by_av.inspect(path, exact=exact)[0]


def times(path: str | Path) -> np.ndarray:
    """When each frame is shown, float64 (T,), seconds after the first; its length is the exact count.

    Ascending, unless the file's own clock jumps back, as where recordings were strung together. In an MPEG program
    stream that stamps several frames at once the times between are FFmpeg's guesses, and can be off by a few frames.
    Packets are read through, undecoded. A corrupt one counts, though reading skips it: see `numbered`. Packets that
    come before the first frame that can be decoded do not. Errors as in `probe`.
    """
    return timeline(path)[0]


def timeline(path: str | Path) -> tuple[np.ndarray, float]:
    """`times(path)`, and when the last frame ends."""
    if os.path.isdir(path):
        return by_folder.table(path)
    return (by_pillow if by_pillow.is_picture(path) else by_av).table(path)


def read(
    path: str | Path,
    *,
    start: float = 0.0,
    first: int | None = None,
    frames: int | None = None,
    fps: float | None = None,
    reader: Reader = "av",
    threads: int = 1,
    table: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """The frames of an interval, uint8 (T,H,W,3), and their rate. See `stream` for the arguments and errors."""
    asked = _asked(path, start, first, frames, fps, reader, threads, table)
    chosen = [(image, fps or frame.fps) for frame, image in asked]
    if not chosen:
        where = f"at {start:g} seconds" if first is None else f"with the number {first}"
        raise InputError(f"{named(path)}: no frame {where} or after")
    return np.stack([image for image, _ in chosen]), chosen[0][1]


def stream(
    path: str | Path,
    *,
    start: float = 0.0,
    first: int | None = None,
    frames: int | None = None,
    fps: float | None = None,
    reader: Reader = "av",
    threads: int = 1,
    table: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """The frames of an interval one by one, each uint8 (H,W,3), holding no more than two of them at a time.

    With `fps`, frame k is the source frame nearest in time to `start + k / fps` (the earlier one in a tie); without it
    the source frames follow one another as they are, whatever their times. At most `frames` of them, fewer where the
    file ends. Decoding begins at the keyframe before. Corrupt packets are skipped and counted by a `CorruptPackets`
    warning.

    `first` instead of `start` begins at a frame's number in `times(path)`, which is made anew unless it is given as
    `table`; without `fps`, exactly those among frames `first` to `first + frames - 1` follow that can be decoded.

    Frames are seen as a player shows them: upright, deinterlaced, pixels square, transparent parts white,
    more than 8 bits rounded, PQ and HLG tone-mapped to SDR (`data/colour`), BT.2020's colours clipped to BT.709's. A
    file that does not say which YUV it holds is taken for BT.709 from 720 rows on, else for BT.601. Sound is ignored.

    `reader` is PyAV ("av") or decord, which give the same frames; decord refuses the files it would get wrong. Pictures
    are Pillow's. A file is decoded with `threads` threads.
    Raises InputError for a file that cannot be read or an argument out of range.
    """
    for _, image in _asked(path, start, first, frames, fps, reader, threads, table):
        yield image


def numbered(
    path: str | Path,
    *,
    first: int = 0,
    frames: int | None = None,
    reader: Reader = "av",
    threads: int = 1,
    table: np.ndarray | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """(number in `times(path)`, frame (H,W,3)) of those that can be decoded: a corrupt packet leaves a number out.

    Arguments and errors as in `stream`.
    """
    _check(path, 0.0, frames, None, reader, threads)
    for number, frame in _by_number(path, first, frames, reader, threads, table):
        yield number, frame.pixels()


def _asked(
    path: str | Path,
    start: float,
    first: int | None,
    frames: int | None,
    fps: float | None,
    reader: Reader,
    threads: int,
    table: np.ndarray | None,
) -> Iterator[tuple[Frame, np.ndarray]]:
    """The frames asked for, with their pixels."""
    _check(path, start, frames, fps, reader, threads)
    if first is not None and start:
        raise InputError(f"{named(path)}: give start or first, not both")
    if first is not None and fps is None:
        chosen = (frame for _, frame in _by_number(path, first, frames, reader, threads, table))
    else:
        begin = start if first is None else _time(path, first, table)
        chosen = _by_time(_source(path, begin, reader, threads), begin, fps)
    with closing(chosen):
        shown, image = None, None
        for frame in islice(chosen, frames):
            if frame is not shown:  # a frame that is asked for again is not converted again
                shown, image = frame, frame.pixels()
            yield frame, image


def _check(path: str | Path, start: float, frames: int | None, fps: float | None, reader: Reader, threads: int) -> None:
    if not (math.isfinite(start) and start >= 0):
        raise InputError(f"{named(path)}: start must be 0 seconds or more, got {start}")
    if frames is not None and frames < 1:
        raise InputError(f"frames must be 1 or more, got {frames}")
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise InputError(f"fps must be above 0, got {fps}")
    if reader not in get_args(Reader):
        raise InputError(f"reader must be av or decord, got {reader}")
    if threads < 1:
        raise InputError(f"threads must be 1 or more, got {threads}")


def _source(path: str | Path, start: float, reader: Reader, threads: int) -> Iterator[Frame]:
    """Frames in order of time that begin at or before `start`."""
    if folder := os.path.isdir(path):
        by_folder.files_of(path)
    elif not by_pillow.is_picture(path):
        return (by_av if reader == "av" else by_decord).frames(path, start, threads)
    if reader == "decord":
        raise InputError(f"{named(path)}: decord reads no pictures; use reader=av")
    return (by_folder if folder else by_pillow).frames(path, start, threads)


def _by_time(source: Iterator[Frame], start: float, fps: float | None) -> Iterator[Frame]:
    with closing(source):
        yield from _in_order(source, start) if fps is None else _nearest(source, (start + k / fps for k in count()))


def _nearest(source: Iterator[Frame], moments: Iterator[float]) -> Iterator[Frame]:
    """For each of the ascending moments the frame nearest to it, until the last frame has been shown for its time."""
    source = _onward(source)
    current, following = next(source, None), next(source, None)
    for time in moments:
        while following and following.time - time < time - current.time - TIE:
            current, following = following, next(source, None)
        if current is None or (following is None and time >= current.end - TIE):
            return
        yield current


def _onward(source: Iterator[Frame]) -> Iterator[Frame]:
    """The frames without those that a clock which jumped back shows at times that have been."""
    latest = -math.inf
    for frame in source:
        if frame.time >= latest:
            latest = frame.time
            yield frame


def _in_order(source: Iterator[Frame], start: float) -> Iterator[Frame]:
    """Every frame from the one nearest to `start` on, as they are."""
    current, following = next(source, None), next(source, None)
    while following and start > current.time + TIE:
        back = following.time < current.time  # a clock that jumped back: time goes on where it is later than before
        if not back and following.time - start >= start - current.time - TIE:
            break
        current, following = current if back else following, next(source, None)
    if current and (following or start < current.end - TIE):
        yield current
        if following:
            yield following
        yield from source


def _by_number(
    path: str | Path, first: int, frames: int | None, reader: Reader, threads: int, table: np.ndarray | None
) -> Iterator[tuple[int, Frame]]:
    """(number, frame) from number `first` on."""
    table = times(path) if table is None else table
    begin = _time(path, first, table)
    last = len(table) - 1 if frames is None else min(first + frames, len(table)) - 1
    # Each time means one frame, but in a few broken files: there frames are counted from the beginning.
    dated = bool((np.diff(table) > 0).all())
    middles = (table[1:] + table[:-1]) / 2
    source = _source(path, begin if dated else 0.0, reader, threads)
    with closing(source):
        for place, frame in enumerate(source):
            number = int(np.searchsorted(middles, frame.time, side="right")) if dated else place
            if first <= number <= last:
                yield number, frame
            if number >= last:
                return


def _time(path: str | Path, first: int, table: np.ndarray | None) -> float:
    table = times(path) if table is None else table
    if not 0 <= first < len(table):
        raise InputError(f"{named(path)}: there is no frame {first}: it has {len(table)}")
    return float(table[first])
