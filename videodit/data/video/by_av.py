"""The reader that can do everything but pictures: PyAV, which is FFmpeg."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import accumulate, chain, dropwhile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from videodit.data.colour import Transfer, to_sdr
from videodit.data.video.aperture import Aperture, aperture
from videodit.data.video.container import (
    check_size,
    claimed_rate,
    decoder_of,
    listed_frames,
    open_video,
    packets_of,
    winds_back,
    wound_back,
)
from videodit.data.video.files import named
from videodit.data.video.frame import (
    TIE,
    CorruptPackets,
    Frame,
    Turn,
    VideoInfo,
    on_white,
    rate_of,
    uneven,
    until,
)
from videodit.data.video.progressive import progressive
from videodit.errors import InputError

if TYPE_CHECKING:
    from av import CodecContext, Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

# Numbers of ITU-T H.273, which FFmpeg uses: transfer functions, primaries, matrices.
TRANSFERS: dict[int, Transfer] = {16: "pq", 18: "hlg"}
BT2020_PRIMARIES, UNKNOWN = 9, 2
PROGRESSIVE = 1  # of FFmpeg's field orders; 0 is unknown
LIMITED_WHITE = 65283  # what FFmpeg makes of white in limited range, in 16 bits of RGB from more than 8 of YUV
FULL_RANGE = 2  # of FFmpeg's ranges
HD = 720  # rows from which on an unlabelled file is taken for BT.709, as players do; FFmpeg would say BT.601
PIXEL_ASPECTS = (1 / 4, 4)  # beyond them the shape of a pixel is a mistake, and left alone


class Look(NamedTuple):
    """How to turn decoded frames into what is seen. `height` and `width`: square pixels, not yet turned upright.

    `wide`: the primaries are BT.2020's. `matrix`: H.273's number for YUV to RGB, UNKNOWN where the file says nothing.
    `claimed`: how many frames the container says there are, 0 if it does not say. `interlaced`: its first frame is, or
    the stream says so. `seen`: the part of stored frames that is, where that is not all. `stored`: (height, width) of
    all of them, with square pixels.
    """

    container: str
    claimed: int
    height: int
    width: int
    pixel_aspect: float
    turn: Turn
    transfer: Transfer | None
    wide: bool
    matrix: int
    interlaced: bool
    seen: Aperture | None
    stored: tuple[int, int]


def inspect(path: str | Path, *, exact: bool) -> tuple[VideoInfo, Look]:
    """Describe a file and its first frame. Reads it through where the container is not to be trusted, or if `exact`.

    Raises InputError where there is no such file, it holds no video, or no frame of it can be decoded.
    """
    with open_video(path, 1) as (container, stream):
        image = next(_images(container, stream, decoder_of(stream, 1), Counter()), None)
        if image is None:
            raise InputError(f"{named(path)}: no frame can be decoded")
        look, fps, metadata = _look(image, container, stream, path), claimed_rate(stream), dict(container.metadata)
        listed = None if exact else listed_frames(container, stream)
        alpha = stream.metadata.get("alpha_mode") == "1" or any(part.is_alpha for part in image.format.components)
        pixel_format, bits = image.format.name, max(part.bits for part in image.format.components)
        codec = stream.codec_context.name
    check_size(path, look.width, look.height)
    times, seconds = listed or table(path)
    height, width = look.turn.size(look.height, look.width)
    info = VideoInfo(
        frames=len(times),
        height=height,
        width=width,
        fps=rate_of(fps, times),
        seconds=seconds,
        codec=codec,
        metadata=metadata,
        pixel_format=pixel_format,
        bits=bits,
        rotation=look.turn.degrees,
        pixel_aspect=look.pixel_aspect,
        hdr=look.transfer,
        variable=uneven(np.sort(times)),
        alpha=alpha,
        interlaced=look.interlaced,
    )
    return info, look


def table(path: str | Path) -> tuple[np.ndarray, float]:
    """When each frame is shown, float64 (T,), and when the last one ends: seconds after the first frame.

    Ascending, unless the file's own clock jumps back. Read off the packets, undecoded but for the first frame: what
    comes before it cannot be decoded and is no frame.
    """
    stamps: list[int | None] = []
    keys, clock, first, last = [], [], None, -math.inf
    with open_video(path, 1) as (container, stream):
        rate, base, decoder = claimed_rate(stream), float(stream.time_base), decoder_of(stream, 1)
        for packet in packets_of(container, stream):
            if first is None:
                first = next(iter(_decoded(packet, stream, decoder) or ()), None)
            if packet is None or not packet.size or packet.is_discard or _invisible(packet, stream):
                continue
            stamps.append(packet.pts)
            keys.append(packet.is_keyframe)
            clock.append(packet.dts)
            if packet.pts is not None:
                last = max(last, packet.pts + (packet.duration or 1 / rate / base))
    if first is None:
        raise InputError(f"{named(path)}: no frame can be decoded")
    known = sorted(stamp for stamp in stamps if stamp is not None)
    if not known:  # a bare stream: frames follow each other at its rate, from the first keyframe on
        count = len(stamps) - (keys.index(True) if True in keys else 0)
        return np.arange(count) / rate, count / rate
    if wound_back(clock) or len(known) < len(stamps) or len(set(known)) < len(known) or _stamp(first) is None:
        shown = [(frame.time, frame.end) for frame in frames(path, 0.0, 1)]  # only decoding tells
        return np.array([time for time, _ in shown]), max(end for _, end in shown)
    origin = _stamp(first)
    times = np.array([stamp for stamp in known if stamp >= origin], dtype=np.float64)
    times = (times - origin) * base
    return times, until(float(times[-1]), (last - origin) * base)


def divided(path: str | Path, count: int) -> bool:
    """Whether a file of `count` frames can be entered at any keyframe without missing or meeting frames of another.

    What comes before a keyframe is shown before it, what comes after it later, and the next keyframe later still.
    """
    shown, keys, decoded = [], [], []
    with open_video(path, 1) as (container, stream):
        for packet in packets_of(container, stream):
            if packet is not None and not packet.size:
                continue
            if packet is None or packet.pts is None or packet.dts is None or packet.is_discard:
                return False
            if packet.is_keyframe:
                if stream.codec_context.name == "h264" and not _refreshes(packet, stream.codec_context.extradata):
                    return False
                keys.append(len(shown))
                decoded.append(packet.dts)
            shown.append(packet.pts)
    before = [-math.inf, *accumulate(shown, max)]
    after = [*accumulate(reversed(shown), min)][::-1] + [math.inf]
    following = zip(keys, [*decoded[1:], math.inf], strict=True)
    return len(shown) == count and all(before[k] < shown[k] < min(after[k + 1], soonest) for k, soonest in following)


def frames(path: str | Path, start: float, threads: int) -> Iterator[Frame]:
    """Every frame from a keyframe at or before `start` on, decoded packet by packet."""
    # Seeking is a hint: some containers land after the time asked for. Then ask for earlier, at last for the beginning.
    for seek in [start, start - 5] if start > 0 and not winds_back(path) else []:
        found = _decode(path, max(seek, 0.0), threads)
        first = next(found, None)
        if first and first.time <= start + TIE:
            yield first
            yield from found
            return
        found.close()
    yield from _decode(path, None, threads)


def _decoded(packet: Packet | None, stream: VideoStream, decoder: CodecContext | None) -> list[VideoFrame] | None:
    """The frames that a packet completes, or None if it is corrupt."""
    import av

    if packet is None:
        return None
    try:
        return packet.decode() if decoder is None else decoder.decode(packet if packet.size else None)
    except av.FFmpegError:
        return None


def _images(
    container: InputContainer, stream: VideoStream, decoder: CodecContext | None, tally: Counter[str]
) -> Iterator[VideoFrame]:
    """The frames from here on. tally["corrupt"] counts packets that give none because they cannot be decoded."""
    for packet in packets_of(container, stream):  # not container.decode(): that gives up at the first corrupt packet
        images = _decoded(packet, stream, decoder)
        tally["corrupt"] += images is None
        yield from images or ()


def _stamp(image: VideoFrame) -> int | None:
    return image.dts if image.pts is None else image.pts


def _decode(path: str | Path, seek: float | None, threads: int) -> Iterator[Frame]:
    """Decode from the beginning or, ending at once where that fails, from a keyframe near `seek` seconds.

    The first frame of the file is decoded in either case: it says when time begins and how frames look.
    """
    import av

    tally: Counter[str] = Counter()
    with open_video(path, threads) as (container, stream):
        rate, base, decoder = claimed_rate(stream), float(stream.time_base), decoder_of(stream, threads)
        images = _images(container, stream, decoder, tally)
        try:
            first = next(images, None)
            if first is None:
                raise InputError(f"{named(path)}: no frame can be decoded ({tally['corrupt']} corrupt packets)")
            look, origin = _look(first, container, stream, path), _stamp(first)
            place = None if seek is None or origin is None else origin + int(seek / base)
            came_in = not (seek is None or (place is not None and _leads_to_beginning(stream, place)))
            if not came_in:
                images = chain([first], images)
            else:
                tally.clear()
                # A program stream may stamp several frames at once: after a seek their times would be guesses.
                # Frames without times can only be counted, from the beginning.
                if place is None or container.format.name == "mpeg":
                    return
                try:
                    container.seek(place, stream=stream)
                except av.FFmpegError:
                    return
                if decoder:
                    decoder.flush_buffers()
                # Frames before a keyframe may refer to others before the place we came in.
                images = dropwhile(lambda image: not image.key_frame, _images(container, stream, decoder, tally))
            images = progressive(images)
            if look.interlaced and came_in:  # the field before its first frame is not known
                next(images, None)
            for number, image in enumerate(images):
                stamp = _stamp(image)
                if stamp is None and seek is not None:
                    return
                time = number / rate if stamp is None or origin is None else (stamp - origin) * base
                end = time + (image.duration * base if image.duration and origin is not None else 1 / rate)
                yield Frame(time, until(time, end), rate, partial(_pixels, image, look, path))
        finally:
            if tally["corrupt"]:
                warnings.warn(CorruptPackets(path=path, count=tally["corrupt"]), stacklevel=2)


def _leads_to_beginning(stream: VideoStream, place: int) -> bool:
    """Whether the keyframe before a time is the first, by the container's own list. False where that is incomplete."""
    listed = stream.index_entries
    return 0 < stream.frames == len(listed) and listed.search_timestamp(place) == 0


def _look(image: VideoFrame, container: InputContainer, stream: VideoStream, path: str | Path) -> Look:
    """How the frames of a file are to be seen, by its first one."""
    aspect = float(stream.sample_aspect_ratio or 1)
    aspect = aspect if PIXEL_ASPECTS[0] <= aspect <= PIXEL_ASPECTS[1] else 1.0
    transfer = TRANSFERS.get(int(image.color_trc))
    primaries = int(image.color_primaries)
    seen = aperture(path, stream.height, stream.width) if "mp4" in container.format.name else None
    return Look(
        container=container.format.name,
        claimed=stream.frames,
        height=seen.height if seen else stream.height,
        width=max(1, round((seen.width if seen else stream.width) * aspect)),
        pixel_aspect=aspect,
        turn=_turn(image),
        transfer=transfer,
        wide=primaries == BT2020_PRIMARIES or (primaries == UNKNOWN and transfer is not None),
        matrix=int(image.colorspace),
        interlaced=bool(image.interlaced_frame) or stream.codec_context.field_order > PROGRESSIVE,
        seen=seen,
        stored=(stream.height, max(1, round(stream.width * aspect))),
    )


def _turn(image: VideoFrame) -> Turn:
    """What a frame's display matrix asks for. A matrix that is not of quarter turns and mirrors asks for nothing.

    FFmpeg's layout: (x, y), y pointing down, is shown at (a x + c y, b x + d y).
    """
    matrix = image.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return Turn()
    a, b, _, c, d, *_ = np.frombuffer(matrix, np.int32).tolist()
    determinant = a * d - b * c
    if determinant == 0:
        return Turn()
    mirrored = determinant < 0
    right = (-a, -b) if mirrored else (a, b)  # where the stored picture, mirrored back, has its right hand side shown
    quarters = math.atan2(-right[1], right[0]) / (math.pi / 2)
    return Turn(round(quarters) % 4, mirrored) if abs(quarters - round(quarters)) < 0.01 else Turn()


def _pixels(image: VideoFrame, look: Look, path: str | Path) -> np.ndarray:
    import av

    alpha = any(part.is_alpha for part in image.format.components)
    deep = look.transfer is not None or look.wide
    white = _white(image)  # of 16 bits
    layout = {(False, False): "rgb24", (False, True): "rgb48le", (True, False): "rgba", (True, True): "rgba64le"}
    matrix = {}
    if look.matrix == UNKNOWN and not image.format.is_rgb and (look.wide or image.height >= HD):
        matrix = {"src_colorspace": "BT2020" if look.wide else "ITU709"}
    stored = {"height": look.stored[0], "width": look.stored[1]}
    try:
        # A stream may change its size on the way; every frame is brought to the size that the file announces.
        array = image.to_ndarray(format=layout[alpha, deep or white > 0], **stored, threads=1, **matrix)
    except (av.FFmpegError, ValueError) as error:
        raise InputError(f"{named(path)}: pixels of format {image.format.name} cannot be read: {error}") from error
    if look.seen:
        left = round(look.seen.left * look.pixel_aspect)
        array = array[look.seen.top :, left:][: look.height, : look.width]
    colours = array[..., :3]
    if white:
        colours = _scaled(colours, white, 65535 if deep else 255)
    if deep:
        colours = to_sdr(colours, transfer=look.transfer, wide=look.wide)
    if not alpha:
        return look.turn(colours)
    opacity = array[..., 3:] if array.dtype == np.uint8 else (array[..., 3:] >> 8).astype(np.uint8)
    return look.turn(on_white(np.concatenate([colours, opacity], axis=-1)))


def _white(image: VideoFrame) -> int:
    """What white is in 16 bits of RGB that FFmpeg makes of YUV of more bits than 8; 0 for other pixels.

    Its 8 bits would be too dark, since it cuts bits off where it should round, and 16 end below 65535.
    """
    bits = max(part.bits for part in image.format.components)
    if bits <= 8 or image.format.is_rgb or len(image.format.components) < 3:
        return 0
    return (2**bits - 1) << (16 - bits) if int(image.color_range) == FULL_RANGE else LIMITED_WHITE


def _scaled(colours: np.ndarray, white: int, most: int) -> np.ndarray:
    """uint16 (H,W,3) whose white is `white` with white at `most`, in as many bits as that takes; rounded."""
    table = np.minimum((np.arange(65536, dtype=np.uint64) * most + white // 2) // white, most)
    return table.astype(np.uint8 if most < 256 else np.uint16)[colours]


def _invisible(packet: Packet, stream: VideoStream) -> bool:
    """Whether a packet only holds a picture that others refer to: VP8's flag show_frame (RFC 6386, section 9.1)."""
    return stream.codec_context.name == "vp8" and not memoryview(packet)[0] & 0x10


def _refreshes(packet: Packet, extradata: bytes | None) -> bool:
    """Whether nothing after an H.264 keyframe refers to what was before it: its slices are an IDR's (NAL unit type 5).

    False too where units are not told apart by their lengths, as they are in mp4 and Matroska.
    """
    if not extradata or extradata[0] != 1:
        return False
    data, prefix, place = bytes(packet), (extradata[4] & 3) + 1, 0
    while place + prefix < len(data):
        kind = data[place + prefix] & 31
        if kind in (1, 2, 5):
            return kind == 5
        place += prefix + int.from_bytes(data[place : place + prefix], "big")
    return False
