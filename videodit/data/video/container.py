"""A video file as FFmpeg takes it apart: its main stream, its packets, and what its own lists say of its frames."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from videodit.data.video.files import identity, named, opened
from videodit.data.video.frame import FASTEST, PIXELS, RATE, until
from videodit.errors import InputError

if TYPE_CHECKING:
    from av import CodecContext, Packet
    from av.container import InputContainer
    from av.video.stream import VideoStream

ATTACHED_PICTURE = 0x400  # FFmpeg's flag of a stream that is the cover of a piece of music


@contextmanager
def open_video(path: str | Path, threads: int) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The file and its main video stream; what FFmpeg refuses is an InputError that names the file."""
    import av

    with opened(path) as descriptor:
        # A descriptor, not a name: FFmpeg makes guesses from names, and opens others that a playlist lists.
        options = {"fd": str(descriptor), "protocol_whitelist": "fd"}
        try:
            with av.open("fd:", options=options, metadata_errors="replace") as container:
                video = container.streams.best("video")
                usable = video is not None and video.codec_context is not None  # None: there is no decoder for it
                if not usable or not (video.width and video.height) or int(video.disposition) & ATTACHED_PICTURE:
                    raise InputError(f"{named(path)}: holds no video that can be read")
                check_size(path, video.width, video.height)
                _prepare(video.codec_context, threads)
                yield container, video
        except (av.FFmpegError, OSError) as error:
            raise InputError(f"{named(path)}: not a readable video: {error.strerror or error}") from error


def check_size(path: str | Path, width: int, height: int) -> None:
    """Refuse a file whose frames would need gigabytes each."""
    if width * height > PIXELS:
        raise InputError(f"{named(path)}: frames of {width}x{height} pixels; at most {PIXELS:,} can be read")


def _prepare(decoder: CodecContext, threads: int) -> None:
    decoder.options = {"max_pixels": str(PIXELS)}  # a stream may change its size on the way
    decoder.thread_count = threads
    decoder.thread_type = "NONE" if threads == 1 else "AUTO"


def claimed_rate(stream: VideoStream) -> float:
    """The frames per second that a stream claims, where they can be believed."""
    claimed = (float(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate)
    return next((rate for rate in claimed if 0 < rate <= FASTEST), RATE)


def decoder_of(stream: VideoStream, threads: int) -> CodecContext | None:
    """The decoder that knows of alpha in WebM, where FFmpeg's own drops it; else None, the stream's own."""
    import av

    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name)
    if stream.metadata.get("alpha_mode") != "1" or name is None:
        return None
    decoder = av.CodecContext.create(name, "r")
    _prepare(decoder, threads)
    return decoder


def packets_of(container: InputContainer, stream: VideoStream) -> Iterator[Packet | None]:
    """The packets, the last one empty; None, the end, where the container breaks off."""
    import av

    packets, packet = container.demux(stream), None
    while True:
        last = packet
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            yield None
            return
        except IndexError:  # PyAV stumbles over streams that begin later; it goes on if asked again
            if last is not None and not last.size and last.pts is None:  # the end has been
                return
            packets = container.demux(stream)
            continue
        if packet is None:
            return
        yield packet


def listed_frames(container: InputContainer, stream: VideoStream) -> tuple[np.ndarray, float] | None:
    """When each frame is shown and the last one ends, where the container lists them, as mp4 and AVI do; else None."""
    if not (stream.frames and stream.duration) or stream.frames > container.size:  # a frame takes a byte at least
        return None
    listed = list(stream.index_entries)
    if len(listed) != stream.frames:  # a fragmented file says less than it holds
        return None
    shown = [entry.timestamp for entry in listed if entry.size and not entry.is_discard]  # the rest: an edit list's cut
    times = np.sort(np.array(shown, dtype=np.float64)) * float(stream.time_base)
    if not len(times):
        return None
    times -= times[0]
    return times, until(float(times[-1]), stream.duration * float(stream.time_base))


def winds_back(path: str | Path) -> bool:
    """Whether a file's clock jumps back, as where recordings were strung together: there, a seek may land anywhere."""
    return _winds_back(*identity(path))


@lru_cache(maxsize=1024)  # one clip after another is read from a file
def _winds_back(path: str, state: tuple[int, ...]) -> bool:
    from av.format import Flags

    with open_video(path, 1) as (container, stream):
        if not container.format.flags & Flags.ts_discont.value:  # by FFmpeg's own table, only these may
            return False
        return wound_back([p.dts for p in packets_of(container, stream) if p is not None and p.size])


def wound_back(clock: list[int | None]) -> bool:
    """Whether a clock, read packet by packet, ever jumps back."""
    return any(after < before for before, after in pairwise(tick for tick in clock if tick is not None))
