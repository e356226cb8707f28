"""The reader of a folder of frames: numbered pictures of one kind and size, as videodit and others write them.

Its rate is what its record.json says, else RATE.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le
from typing_extensions import TypedDict

from videodit.data.video import by_pillow
from videodit.data.video.files import named, opened
from videodit.data.video.frame import FASTEST, RATE, TIE, Frame, VideoInfo
from videodit.data.video.outputs import RECORD
from videodit.errors import InputError
from videodit.untrusted import read_json, read_text

NUMBERED = re.compile(r"(.*?)(\d+)(\.(?:png|jpe?g|webp|bmp|tiff?))", re.IGNORECASE | re.ASCII)


class Rate(TypedDict, total=False):
    """What is read of a record."""

    fps: Annotated[float, Ge(0.01), Le(FASTEST)]


def in_order(names: Sequence[str]) -> list[str]:
    """The names of a folder's frames, by their numbers: pictures that are called alike but for a number, each once and
    without gaps, with nothing beside them but a record and hidden files. Empty for any other names.
    """
    plain = [name for name in names if not name.startswith(".") and name != RECORD]
    found = [NUMBERED.fullmatch(name) for name in plain]
    if not all(found) or len({(one[1], one[3].lower()) for one in found}) != 1:
        return []
    numbers = {int(one[2]): one[0] for one in found}
    whole = len(numbers) == len(plain) and max(numbers) - min(numbers) == len(numbers) - 1
    return [numbers[number] for number in sorted(numbers)] if whole else []


def files_of(folder: str | Path) -> list[Path]:
    """The frames' files. InputError for a folder that holds anything else."""
    try:
        found = in_order(os.listdir(folder))
    except OSError as error:
        raise InputError(f"{named(folder)}: cannot be listed: {error.strerror}") from None
    if not found:
        told = "no folder of frames: numbered pictures of one kind without gaps, such as 00000.png and on"
        raise InputError(f"{named(folder)}: {told}")
    return [Path(folder) / name for name in found]


def inspect(folder: str | Path) -> VideoInfo:
    """Describe it by its first frame."""
    files, record = files_of(folder), Path(folder) / RECORD
    rate, first = _rate(folder), by_pillow.inspect(files[0])
    metadata = {"comment": read_text(record)} if record.is_file() else {}
    length = len(files) / rate
    return replace(first, frames=len(files), fps=rate, seconds=length, metadata=metadata, variable=False)


def table(folder: str | Path) -> tuple[np.ndarray, float]:
    """When each frame is shown, float64 (T,), and when the last one ends, in seconds."""
    count, rate = len(files_of(folder)), _rate(folder)
    return np.arange(count) / rate, count / rate


def frames(folder: str | Path, start: float, threads: int) -> Iterator[Frame]:
    """The frames from the one that is shown at `start` on; `threads` changes nothing."""
    files, rate = files_of(folder), _rate(folder)
    info = by_pillow.inspect(files[0])
    for number in range(min(int(start * rate + TIE), len(files) - 1), len(files)):
        yield Frame(number / rate, (number + 1) / rate, rate, _pixels(files[number], info))


def digest(path: str | Path) -> str:
    """A hash of a file's bytes, or of those of all frames of a folder and of their rate."""
    if not os.path.isdir(path):
        with opened(path) as descriptor, open(descriptor, "rb", closefd=False) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    parts = [str(_rate(path)), *map(digest, files_of(path))]
    return hashlib.sha256("/".join(parts).encode()).hexdigest()


def _pixels(file: Path, info: VideoInfo) -> Callable[[], np.ndarray]:
    def made() -> np.ndarray:
        image = next(by_pillow.frames(file, 0.0, 1)).pixels()
        if image.shape[:2] != (info.height, info.width):
            height, width = image.shape[:2]
            raise InputError(f"{named(file)}: it is {width}x{height}, the first frame {info.width}x{info.height}")
        return image

    return made


def _rate(folder: str | Path) -> float:
    record = Path(folder) / RECORD
    return float(read_json(record, Rate).get("fps", RATE)) if record.is_file() else RATE
