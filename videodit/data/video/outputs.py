"""What can be written where: the kinds of files by their endings, and folders of frames.

Inside the program a path without an ending is a folder of frames; a person marks one with a `/` at its end.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from videodit.data.video.files import named
from videodit.errors import InputError
from videodit.untrusted import read_json


class Kind(NamedTuple):
    """What a kind of file can hold: pixels along an edge, frames a second, and more than one frame or not."""

    edge: int
    rate: float = 1000.0
    moving: bool = True


KINDS: Mapping[str, Kind] = MappingProxyType({
    ".mp4": Kind(16384),  # x264's limit
    ".webm": Kind(16384),
    ".gif": Kind(65535, rate=50.0),  # its clock ticks 100 times a second, and players take one tick for ten
    ".webp": Kind(16383, rate=90.0),  # browsers show a frame of 10 ms or less for 100 (webkit.org/b/36082)
    ".png": Kind(65535, moving=False),
    ".jpg": Kind(65500, moving=False),
    ".jpeg": Kind(65500, moving=False),
    "": Kind(65535),
})  # fmt: skip
ENDINGS = ", ".join(ending for ending in KINDS if ending)
FRAME = "{:05d}.png"  # a frame's name in a folder
RECORD = "record.json"  # what stands beside them


def target(given: str | Path, key: str = "") -> Path:
    """The path of a video to write, by its ending of which kind; text that ends in `/`, or a Path without an ending, is
    a folder of frames.

    InputError, of `key` if it has one, for a name that says neither, and for a folder where a file is to be.
    """
    path, shown = Path(given), f"{key}={given}" if key else named(given) or "path: it is empty"
    slash = isinstance(given, str) and given.endswith("/")
    folder = not path.suffix and (slash or isinstance(given, Path))
    if not slash and not folder and os.path.isdir(path):
        raise InputError(f"{shown}: is a folder; name a file, or write a / at its end for a folder of frames")
    if not folder and (slash or path.suffix.lower() not in [*KINDS][:-1]):
        raise InputError(f"{shown}: the name must end in {ENDINGS}, or without one in / for a folder of frames")
    if not path.name:
        raise InputError(f"{shown}: name a video, such as video.mp4, or a folder of frames, such as frames/")
    return path


def check_kind(path: Path, frames: int, height: int, width: int, fps: float) -> None:
    """InputError where this kind of file cannot hold such a video."""
    ending = path.suffix.lower()
    kind = KINDS[ending]
    if frames > 1 and not kind.moving:
        raise InputError(
            f"{named(path)}: a {ending} holds one frame, not {frames}: ask for frames=1, or for a folder of them, "
            f"{named(path.with_suffix(''))}/"
        )
    if frames > 1 and fps > kind.rate:
        raise InputError(f"{named(path)}: a {ending} shows at most {kind.rate:g} frames a second, not {fps:g}")
    if max(height, width) > kind.edge:
        kept = f"a {ending}" if ending else "a PNG"
        raise InputError(f"{named(path)}: {kept} takes at most {kind.edge} pixels along an edge, got {width}x{height}")


def beside(video: Path) -> Path:
    """Where a video's record is kept: VIDEO.mp4.json, a name that nobody else gives a file, or in the folder."""
    return video.with_name(f"{video.name}.json") if video.suffix else video / RECORD


def kept_as(path: Path, height: int, width: int) -> str:
    """In a line how an mp4 keeps a video of odd size; empty where nothing is special."""
    if path.suffix.lower() != ".mp4" or height % 2 == width % 2 == 0:
        return ""
    stored = f"{width + width % 2}x{height + height % 2}"
    return (
        f"{width}x{height} is odd, which H.264 is not: kept as {stored} with a crop flag; players that do not know it, "
        "as browsers, show a row or column twice; .webm needs none"
    )


def check_free(folder: Path) -> None:
    """InputError where a folder of frames would replace what is none."""
    if not os.path.lexists(folder):
        return
    plain = folder.is_dir() and not folder.is_symlink()
    names = {entry.name for entry in folder.iterdir()} if plain else {"a file or a link"}
    frames = {FRAME.format(number) for number in range(len(names))}
    if other := names - {RECORD, *frames} or (names and {RECORD} - names):
        told = "no record" if other == {RECORD} else named(min(other))
        raise InputError(f"{named(folder)}/: its place holds what is no video's frames ({told}); name another")


def check_place(video: Path) -> None:
    """Refuse a video for which something would be replaced that is no video's: a file that has its record's name, or a
    folder that holds more than frames and their record.
    """
    if not video.suffix:
        check_free(video)
    path = beside(video)
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # though the video's own may not be
            raise InputError(f"{named(path)}: cannot be written: {error.strerror}") from None
    if not os.path.exists(path):
        return
    try:
        content = read_json(path)
    except InputError:
        content = None
    if not isinstance(content, dict) or not {"prompt", "weights"} <= content.keys():
        raise InputError(f"{path}: the record of {video.name} would replace it, and it is none; give another out=")
