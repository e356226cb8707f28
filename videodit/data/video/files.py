"""Files to read and to replace, whatever stands under their names."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from videodit.atomic import atomic, atomic_folder
from videodit.errors import InputError
from videodit.printable import one_line


def named(path: str | Path) -> str:
    """A path as one line that can be printed: line breaks and bytes that are no text are escaped."""
    return one_line(path)


@contextmanager
def opened(path: str | Path) -> Iterator[int]:
    """A descriptor to read a plain file from. Anything else, a FIFO say, is not even opened but an InputError."""
    try:
        plain = stat.S_ISREG(os.stat(path).st_mode)
        # Not to wait should it become a FIFO just now.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK) if plain else None
    except FileNotFoundError as error:
        raise InputError(f"{named(path)}: no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a name that holds a zero byte
        raise InputError(f"{named(path)}: cannot be opened: {getattr(error, 'strerror', None) or error}") from error
    if descriptor is None:
        raise InputError(f"{named(path)}: not a plain file")
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def identity(path: str | Path) -> tuple[str, tuple[int, ...]]:
    """A path and what changes when its file does."""
    with opened(path) as descriptor:
        found = os.fstat(descriptor)
    return str(path), (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside `path` to write to; it takes `path`'s place at the end, or vanishes on an error.

    Missing folders above are made, and what a killed process left half written beside it goes. Raises InputError, one
    line, for a folder, a device or what the disk refuses.
    """
    path = Path(path)
    if os.path.isdir(path):
        raise InputError(f"{named(path)}: is a folder; give the name of a file")
    if os.path.exists(path) and not os.path.isfile(path):  # replacing /dev/null would be a bad surprise
        raise InputError(f"{named(path)}: is not a plain file")
    try:
        with atomic(path) as temporary:
            yield temporary
    except OSError as error:
        raise InputError(f"{named(path)}: cannot be written: {error.strerror or error}") from error


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """The same for a folder. What may be replaced is for the caller to say."""
    try:
        with atomic_folder(path) as temporary:
            yield temporary
    except OSError as error:
        raise InputError(f"{named(path)}/: cannot be written: {error.strerror or error}") from error
