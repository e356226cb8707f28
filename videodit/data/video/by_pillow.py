"""The reader of pictures, still and moving: Pillow. A still is a clip of one frame.

Colour profiles are not applied. Other pages of a TIFF, other pictures of a phone's JPEG and what follows the first
picture in a bare stream of JPEGs are no frames of a clip.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from videodit.data.video.files import named, opened
from videodit.data.video.frame import (
    RATE,
    CorruptPackets,
    Frame,
    Turn,
    VideoInfo,
    on_white,
    rate_of,
    uneven,
    until,
)
from videodit.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

HEAD = 64  # bytes that say what a file is
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
MOVING = {"PNG", "GIF", "WEBP", "AVIF"}
MAGIC = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"GIF8",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
    b"\0\0\0\x0cjP  ",
    *(f"P{kind}{space}".encode() for kind in range(1, 7) for space in " \t\n\r"),
)
BMP_HEADERS = {12, 40, 52, 56, 64, 108, 124}  # bytes: "BM" alone is too little to go by
HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
UNTIMED = 0.1  # seconds that browsers show a frame whose file says 0
# How EXIF's orientations (tag 0x0112) become upright; 1 is.
ORIENTATION = 0x0112
IMAGE_DESCRIPTION = 0x010E
TURNS = {
    2: Turn(0, True),
    3: Turn(2),
    4: Turn(2, True),
    5: Turn(1, True),
    6: Turn(3),
    7: Turn(3, True),
    8: Turn(1),
}


class _Picture(NamedTuple):
    """An image as it is loaded, one of `frames`, and the seconds that it is shown."""

    image: Image.Image
    frames: int
    seconds: float
    turn: Turn
    size: tuple[int, int]  # (width, height) of the first one: a broken GIF's may grow


def is_picture(path: str | Path) -> bool:
    """Whether a file's first bytes are a picture's, whatever its name. Raises InputError where it cannot be opened."""
    with opened(path) as descriptor, open(descriptor, "rb", closefd=False) as file:
        head = file.read(HEAD)
    brands = head[8 : int.from_bytes(head[:4], "big")] if head[4:8] == b"ftyp" else b""
    avif = b"avif" in brands or b"avis" in brands
    if brands[:4] in HEIC and not avif:
        raise InputError(f"{named(path)}: HEIC pictures are not supported; convert it to JPEG or PNG")
    return (
        head.startswith(MAGIC)
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in BMP_HEADERS)
        or avif
    )


def inspect(path: str | Path) -> VideoInfo:
    """Describe a picture, reading it through."""
    times, end, first = [], 0.0, None
    for picture in _pictures(path):
        first = first or picture._replace(image=picture.image.copy())
        times.append(end)
        end += picture.seconds
    image, times, end = first.image, np.array(times), until(times[-1], end)
    height, width = first.turn.size(image.height, image.width)
    return VideoInfo(
        frames=len(times),
        height=height,
        width=width,
        fps=rate_of(len(times) / end, times),
        seconds=end,
        codec=image.info["codec"],
        metadata={"comment": comment} if (comment := _comment(image)) else {},
        pixel_format=image.mode.lower(),
        bits={"1": 1, "F": 32}.get(image.mode, 16 if image.mode.startswith("I") else 8),
        rotation=first.turn.degrees,
        pixel_aspect=1.0,
        hdr=None,
        variable=uneven(times),
        alpha=image.has_transparency_data,
    )


def _comment(image: Image.Image) -> str:
    """What a picture says of itself as text, in the place that its kind has for that."""
    found = image.info.get("comment") or image.getexif().get(IMAGE_DESCRIPTION) or ""
    if isinstance(found, str) and image.info["codec"] != "png":  # EXIF's text, which Pillow takes for Latin-1
        found = found.encode("latin-1", "replace")
    return str(found, "utf-8", "replace") if isinstance(found, bytes) else str(found)


def table(path: str | Path) -> tuple[np.ndarray, float]:
    """When each frame is shown, float64 (T,), ascending, and when the last one ends, in seconds."""
    ends = np.cumsum([0.0, *(picture.seconds for picture in _pictures(path))])
    return ends[:-1], until(float(ends[-2]), float(ends[-1]))


def frames(path: str | Path, start: float, threads: int) -> Iterator[Frame]:
    """Every frame from the first on; `start` and `threads` change nothing, since each builds on the one before."""
    rate, time = None, 0.0
    for picture in _pictures(path):
        rate = rate or (RATE if picture.frames == 1 else inspect(path).fps)
        pixels = _pixels(picture, path)
        yield Frame(time, until(time, time + picture.seconds), rate, partial(np.asarray, pixels))
        time += picture.seconds


def _pictures(path: str | Path) -> Iterator[_Picture]:
    """The frames of a file one after another. One that is broken ends a moving picture early, with a warning."""
    from PIL import Image

    with opened(path) as descriptor, open(descriptor, "rb", closefd=False) as file:
        with _refusals(path), warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(file, formats=FORMATS)
        with image:
            with _refusals(path):
                codec = image.format.lower()
                # Pillow turns a TIFF itself.
                turn = TURNS.get(image.getexif().get(ORIENTATION), Turn()) if image.format != "TIFF" else Turn()
                count = image.n_frames if image.format in MOVING else 1
                skipped = int(count > 1 and getattr(image, "default_image", False))  # APNG's, for who cannot animate
            size = None
            for index in range(skipped, count):
                try:
                    with _refusals(path):
                        if count > 1:
                            image.seek(index)
                        image.load()
                except InputError:
                    if index == skipped:
                        raise
                    warnings.warn(CorruptPackets(path=path, count=count - index), stacklevel=2)
                    return
                image.info["codec"] = codec
                shown = (image.info.get("duration") or 1000 * UNTIMED) / 1000
                alone = count - skipped == 1
                size = size or image.size
                yield _Picture(image, count - skipped, 1 / RATE if alone else shown, turn, size)


@contextmanager
def _refusals(path: str | Path) -> Iterator[None]:
    """Whatever Pillow raises, of which broken files give every kind, as an InputError."""
    try:
        yield
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{named(path)}: not a readable picture: {text:.200}") from error


def _pixels(picture: _Picture, path: str | Path) -> np.ndarray:
    """Upright pixels, uint8 (H,W,3), on white."""
    image = picture.image
    with _refusals(path):
        if image.size != picture.size:
            image = image.crop((0, 0, *picture.size))
        if image.mode == "F":
            raise ValueError("pixels are floating point numbers of unknown range")
        if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip to 255
            grey = (np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8)
            return picture.turn(np.stack([grey] * 3, axis=-1))
        if image.has_transparency_data:
            return picture.turn(on_white(np.asarray(image.convert("RGBA"))))
        return picture.turn(np.asarray(image.convert("RGB")))
