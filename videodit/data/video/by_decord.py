"""The reader for plain files of mp4 and its kin: decord. What it would get wrong, it refuses.

One thing it gets wrong unnoticed: H.264 without whole keyframes (intra refresh) in Matroska, after a seek.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from videodit.data.video import by_av
from videodit.data.video.files import identity, named
from videodit.data.video.frame import TIE, Frame, Turn, VideoInfo, until
from videodit.errors import InputError

if TYPE_CHECKING:
    import decord
    import numpy as np

# Containers whose frames decord finds exactly. In an MPEG program stream it is a whole group of pictures late, and in
# Ogg it ignores the gaps that lost packets leave.
CONTAINERS = {"mov", "mp4", "matroska", "webm"}
# Codecs of which it finds the right frame after a seek; in HEVC it miscounts what precedes an open group of pictures,
# in MPEG-4 part 2 all that follows if there are B-frames.
SEEKABLE = {"h264", "vp8", "vp9"}
MATRICES = {1, 2, 5, 6}  # H.273: BT.709, none said, and BT.601 twice


def frames(path: str | Path, start: float, threads: int) -> Iterator[Frame]:
    """Every frame from a keyframe before `start` on."""
    import decord

    info, look = _inspected(*identity(path))
    wrong = _wrong(info, look)
    if wrong:
        raise InputError(f"{named(path)}: decord {wrong}; use reader=av")
    try:
        video = decord.VideoReader(str(path), num_threads=threads)
        stamps = video.get_frame_timestamp(range(len(video))).astype(float)
        if len(video) != info.frames:
            raise InputError(f"{named(path)}: decord counts {len(video)} frames of {info.frames}; use reader=av")
        stamps -= stamps[0, 0]
        times = stamps[:, 0]
        keys = [key for key in video.get_key_indices() if times[key] <= start + TIE]
        first = 0
        if len(keys) > 1:
            # Where keyframes do not divide the file decord may miscount right after a seek: then from the one before.
            first = keys[-1] if _divided(*identity(path), info.frames) else keys[-2]
        if first and info.codec in SEEKABLE:
            video.seek_accurate(first)
        else:
            for _ in range(first):
                video.next()  # not skip_frames, which miscounts too
        for time, end in stamps[first:]:
            pixels = partial(_pixels, video.next(), (info.height, info.width, 3), path)
            yield Frame(float(time), until(float(time), float(end)), info.fps, pixels)
    except (decord.DECORDError, RuntimeError, StopIteration, UnicodeError) as error:
        raise InputError(f"{named(path)}: decord cannot read it; use reader=av") from error


def _pixels(image: decord.nd.NDArray, shape: tuple[int, int, int], path: str | Path) -> np.ndarray:
    """A frame that is asked for."""
    pixels = image.asnumpy()
    if pixels.shape != shape:  # frames a few pixels wide come out as their padding
        raise InputError(f"{named(path)}: decord gives frames of shape {pixels.shape}; use reader=av")
    return pixels


@lru_cache(maxsize=1024)  # one clip after another is read from a file
def _inspected(path: str, state: tuple[int, ...]) -> tuple[VideoInfo, by_av.Look]:
    return by_av.inspect(path, exact=False)


@lru_cache(maxsize=1024)
def _divided(path: str, state: tuple[int, ...], count: int) -> bool:
    return by_av.divided(path, count)


def _wrong(info: VideoInfo, look: by_av.Look) -> str:
    """What decord does wrong with such a file; empty if nothing."""
    unlabelled = look.matrix == by_av.UNKNOWN and info.height >= by_av.HD
    reasons = {
        "misplaces frames in this container": not CONTAINERS & set(look.container.split(",")),
        "does not turn frames upright": look.turn != Turn(),
        "does not make pixels square": look.pixel_aspect != 1,
        "knows nothing of HDR": look.transfer is not None,
        "does not convert BT.2020": look.wide or look.matrix not in MATRICES,
        "takes unlabelled HD for BT.601": unlabelled,
        "drops alpha": info.alpha,
        "does not deinterlace": look.interlaced,
        "shows what is not to be seen": look.seen is not None,
        "would make room for frames that are not there": look.claimed > 2 * info.frames + 100,  # and abort the process
        f"rounds {info.bits} bits otherwise": info.bits != 8,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")
