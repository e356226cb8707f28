"""Video files: probe, read and write. The only home of PyAV and decord.

Times are seconds after the first frame. Frames are uint8 (T,H,W,3) RGB as they are stored: neither rotation nor the
shape of a pixel is applied.

Letters: T frames, H height, W width.
"""

from __future__ import annotations

import math
import os
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np

from videodit.errors import InputError

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

Reader = Literal["av", "decord"]

TIE = 1e-3  # seconds: distances in time that differ by less are equal; stamps are rounded
CRF = 14  # x264's constant rate factor: visually lossless, a few kB for a toy clip
LARGEST = 16384  # pixels along an edge, x264's limit
# Containers whose frames decord finds exactly. In an MPEG program stream it is a whole group of pictures late, and in
# Ogg it ignores the gaps that lost packets leave.
DECORD_CONTAINERS = (".mp4", ".mov", ".m4v", ".mkv", ".webm")


class CorruptPackets(UserWarning):
    """Some packets of a file could not be decoded and were skipped; the message names the file and how many."""


@dataclass(frozen=True)
class VideoInfo:
    """What a file says about itself: counts, pixels, frames per second, seconds, codec name and its tags."""

    frames: int
    height: int
    width: int
    fps: float
    seconds: float
    codec: str
    metadata: dict[str, str]


class _Frame(NamedTuple):
    """One source frame: when it is shown, the rate of its file, and a function that makes its pixels (H,W,3)."""

    time: float
    fps: float
    pixels: Callable[[], np.ndarray]


def probe(path: str | Path) -> VideoInfo:
    """Describe a video without decoding it. A file that does not say how long it is, is read through once.

    Raises InputError where there is no such file or it holds no video.
    """
    with _opened(path) as (container, stream):
        if stream.frames and stream.duration:
            hidden = sum(entry.is_discard for entry in stream.index_entries)  # cut off by an edit list
            frames, seconds = stream.frames - hidden, float(stream.duration * stream.time_base)
        else:
            frames, seconds = _measure(container, stream)
        return VideoInfo(
            frames=frames,
            height=stream.height,
            width=stream.width,
            fps=_rate(stream),
            seconds=seconds,
            codec=stream.codec_context.name,
            metadata=dict(container.metadata),
        )


def read(
    path: str | Path,
    *,
    start: float = 0.0,
    frames: int | None = None,
    fps: float | None = None,
    reader: Reader = "av",
) -> tuple[np.ndarray, float]:
    """The frames of an interval, uint8 (T,H,W,3), and their rate. See `stream` for the arguments and errors."""
    chosen = list(_select(_frames(path, start, reader), start, frames, fps))
    if not chosen:
        raise InputError(f"{path}: no frame at {start:g} seconds or after")
    return np.stack([image for image, _ in chosen]), chosen[0][1]


def stream(
    path: str | Path,
    *,
    start: float = 0.0,
    frames: int | None = None,
    fps: float | None = None,
    reader: Reader = "av",
) -> Iterator[np.ndarray]:
    """The frames of an interval one by one, each uint8 (H,W,3), holding no more than two of them at a time.

    Frame k is the source frame nearest in time to `start + k / fps` (the earlier one in a tie); without `fps` the
    source frames follow one another as they are. At most `frames` of them, fewer where the file ends. Decoding begins
    at the keyframe before `start`. Corrupt packets are skipped and counted in a `CorruptPackets` warning.

    `reader` is PyAV ("av") or decord, which give the same frames; decord refuses the files it would get wrong.
    Raises InputError for a file that cannot be read or an argument out of range.
    """
    for image, _ in _select(_frames(path, start, reader), start, frames, fps):
        yield image


def write(path: str | Path, frames: np.ndarray, fps: float, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write frames, uint8 (T,H,W,3), as an H.264 mp4 of exactly that size, count and rate; `metadata` any length.

    Pixels are yuv420p, which everything plays. That format has no odd sizes, so a clip of odd height or width becomes
    yuv444p: exact to the pixel, though some browsers will not play it. The file appears whole or not at all. Raises
    InputError where it cannot be written (a folder, a full disk) or the arguments are no video.
    """
    import av

    path = Path(path)
    if path.suffix.lower() != ".mp4" and not os.path.isdir(path):
        raise InputError(f"{path}: videos are written as .mp4, so the name must end in .mp4")
    rate = _exact_rate(fps)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not 0 < frames.size:
        raise InputError(f"{path}: frames must be uint8 (T,H,W,3) and not empty, got {frames.dtype} {frames.shape}")
    height, width = frames.shape[1:3]
    if max(height, width) > LARGEST:
        raise InputError(f"{path}: H.264 takes at most {LARGEST} pixels along an edge, got {width}x{height}")

    # faststart lets a browser play before the end has arrived; the other flag keeps tags beyond the format's few.
    flags = {"movflags": "faststart+use_metadata_tags"}
    with replacing(path) as temporary, av.open(f"file:{temporary}", "w", format="mp4", container_options=flags) as file:
        file.metadata.update(metadata or {})
        track = file.add_stream("libx264", rate=rate, options={"crf": str(CRF)})
        track.width, track.height = width, height
        track.pix_fmt = "yuv420p" if height % 2 == width % 2 == 0 else "yuv444p"
        # Say which YUV this is (BT.709, limited range): players guess an unlabelled file's colours by its size.
        context = track.codec_context
        context.colorspace = context.color_primaries = context.color_trc = av.video.reformatter.Colorspace.ITU709
        context.color_range = av.video.reformatter.ColorRange.MPEG
        for index, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(
                format=track.pix_fmt, dst_colorspace="ITU709", dst_color_range="MPEG", interpolation="AREA"
            )
            frame.pts, frame.time_base = index, 1 / rate
            file.mux(track.encode(frame))
        file.mux(track.encode())


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside `path` to write to; it takes `path`'s place at the end, or vanishes on an error.

    Missing folders above are made. Raises InputError, one line, for a folder, a device or what the disk refuses.
    """
    path = Path(path)
    temporary = path.parent / f".{path.name[:100]}.{uuid.uuid4().hex[:8]}.part"
    if os.path.isdir(path):
        raise InputError(f"{path}: is a folder; give the name of a file")
    if os.path.exists(path) and not os.path.isfile(path):  # replacing /dev/null would be a bad surprise
        raise InputError(f"{path}: is not a plain file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _exact_rate(fps: float) -> Fraction:
    if not (math.isfinite(fps) and 0.01 <= fps <= 1000):
        raise InputError(f"fps must be between 0.01 and 1000, got {fps}")
    return Fraction(fps).limit_denominator(1001)  # 1001 keeps television's 24000/1001 and its kin exact


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The file and its main video stream; what FFmpeg refuses is an InputError that names the file."""
    import av

    if not os.path.isfile(path):
        raise InputError(f"{path}: not a plain file" if os.path.exists(path) else f"{path}: no such file")
    try:
        # The prefix keeps a name with a colon from being taken for a network address.
        with av.open(f"file:{path}", metadata_errors="replace") as container:
            video = container.streams.best("video")
            if video is None or not (video.width and video.height):
                raise InputError(f"{path}: holds no video that can be read")
            yield container, video
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"{path}: not a readable video: {error.strerror or error}") from error


def _rate(stream: VideoStream) -> float:
    return float(stream.average_rate or stream.guessed_rate or 25)  # 25: FFmpeg's own guess for a stream with no times


def _measure(container: InputContainer, stream: VideoStream) -> tuple[int, float]:
    """(frames, seconds) counted off the packets."""
    packets = [(p.pts, p.duration or 0) for p in container.demux(stream) if p.size and not p.is_discard]
    ends = [pts + duration for pts, duration in packets if pts is not None]
    if not ends:
        return len(packets), len(packets) / _rate(stream)
    return len(packets), float((max(ends) - (stream.start_time or 0)) * stream.time_base)


def _frames(path: str | Path, start: float, reader: Reader) -> Iterator[_Frame]:
    if not (math.isfinite(start) and start >= 0):
        raise InputError(f"{path}: start must be 0 seconds or more, got {start}")
    if reader not in get_args(Reader):
        raise InputError(f"reader must be av or decord, got {reader}")
    return _frames_av(path, start) if reader == "av" else _frames_decord(path, start)


def _select(
    source: Iterator[_Frame], start: float, frames: int | None, fps: float | None
) -> Iterator[tuple[np.ndarray, float]]:
    """(pixels, rate) of the frames asked for, of a source in order of time that begins at or before `start`."""
    if frames is not None and frames < 1:
        raise InputError(f"frames must be 1 or more, got {frames}")
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise InputError(f"fps must be above 0, got {fps}")
    with closing(source):
        chosen = _in_order(source, start) if fps is None else _nearest(source, (start + k / fps for k in count()))
        shown, image = None, None
        for frame in islice(chosen, frames):
            if frame is not shown:  # a frame that is asked for again is not converted again
                shown, image = frame, frame.pixels()
            yield image, fps or frame.fps


def _nearest(source: Iterator[_Frame], times: Iterator[float]) -> Iterator[_Frame]:
    """For each of the ascending times the frame nearest to it, until the last frame has been shown for its time."""
    current, following = next(source, None), next(source, None)
    for time in times:
        while following and following.time - time < time - current.time - TIE:
            current, following = following, next(source, None)
        if current is None or (following is None and time >= current.time + 1 / current.fps - TIE):
            return
        yield current


def _in_order(source: Iterator[_Frame], start: float) -> Iterator[_Frame]:
    """Every frame from the one nearest to `start` on."""
    current, following = next(source, None), next(source, None)
    while following and following.time - start < start - current.time - TIE:
        current, following = following, next(source, None)
    if current and (following or start < current.time + 1 / current.fps - TIE):
        while current:
            yield current
            current, following = following, next(source, None)


def _frames_av(path: str | Path, start: float) -> Iterator[_Frame]:
    """Every frame from a keyframe at or before `start` on, decoded packet by packet."""
    # Seeking is a hint: some containers land after the time asked for. Then ask for earlier, at last for the beginning.
    for seek in [start, start - 5] if start > 0 else []:
        frames = _decode_av(path, max(seek, 0.0))
        first = next(frames, None)
        if first and first.time <= start + TIE:
            yield first
            yield from frames
            return
        frames.close()
    yield from _decode_av(path, None)


def _decode_av(path: str | Path, seek: float | None) -> Iterator[_Frame]:
    """Decode from the beginning or, ending at once where that fails, from a keyframe near `seek` seconds."""
    import av

    with _opened(path) as (container, stream):
        rate, origin, seeking = _rate(stream), stream.start_time, seek is not None
        if seeking:
            if container.format.name == "mpeg":
                return  # a program stream may stamp several frames at once: after a seek their times would be guesses
            try:
                container.seek((origin or 0) + int(seek / stream.time_base), stream=stream)
            except av.FFmpegError:
                return
        skipped = decoded = 0
        try:
            for images in _packets_av(container, stream):
                skipped += images is None
                for image in images or ():
                    if seeking and not image.key_frame:
                        continue  # it may refer to frames before the place we came in
                    stamp = image.dts if image.pts is None else image.pts
                    if stamp is None and seek is not None:
                        return  # frames without times can only be counted, from the beginning
                    seeking, origin = False, stamp if origin is None else origin
                    time = decoded / rate if stamp is None else float((stamp - origin) * stream.time_base)
                    decoded += 1
                    yield _Frame(time, rate, partial(_pixels_av, image, stream, path))
        finally:
            if skipped:
                warnings.warn(f"{path}: skipped {skipped} corrupt packets", CorruptPackets, stacklevel=2)
        if not decoded and seek is None:
            raise InputError(f"{path}: no frame can be decoded ({skipped} corrupt packets)")


def _packets_av(container: InputContainer, stream: VideoStream) -> Iterator[list[VideoFrame] | None]:
    """The frames of each packet, or None for one that is corrupt. Where the container breaks off, the file ends."""
    import av

    packets = container.demux(stream)  # not container.decode(): that gives up at the first corrupt packet
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            images = packet.decode()
        except av.FFmpegError:
            images = None
        yield images


def _pixels_av(image: VideoFrame, stream: VideoStream, path: str | Path) -> np.ndarray:
    import av

    try:
        # A stream may change its size on the way; every frame is brought to the size that the file announces.
        return image.to_ndarray(format="rgb24", width=stream.width, height=stream.height, threads=1)
    except (av.FFmpegError, ValueError) as error:
        raise InputError(f"{path}: pixels of format {image.format.name} cannot be read: {error}") from error


def _frames_decord(path: str | Path, start: float) -> Iterator[_Frame]:
    """Every frame from a keyframe before `start` on."""
    import decord

    info = probe(path)
    if Path(path).suffix.lower() not in DECORD_CONTAINERS:
        raise InputError(f"{path}: decord misplaces frames in this container; use reader=av")
    try:
        video = decord.VideoReader(str(path), num_threads=1)
        times = video.get_frame_timestamp(range(len(video)))[:, 0].astype(float)
        if len(video) != info.frames:
            raise InputError(f"{path}: decord counts {len(video)} frames of {info.frames}; use reader=av")
        times -= times[0]
        # From the keyframe before the last one: right after a seek decord may miscount the frames around a keyframe.
        keys = [key for key in video.get_key_indices() if times[key] <= start + TIE]
        first = keys[-2] if len(keys) > 1 else 0
        if first:
            video.seek_accurate(first)
        for time in times[first:]:
            image = video.next().asnumpy()
            if image.shape != (info.height, info.width, 3):  # frames a few pixels wide come out as their padding
                raise InputError(f"{path}: decord gives frames of shape {image.shape}; use reader=av")
            yield _Frame(float(time), info.fps, partial(np.asarray, image))
    except (decord.DECORDError, RuntimeError, StopIteration) as error:
        raise InputError(f"{path}: decord cannot read it; use reader=av") from error
