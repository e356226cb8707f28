"""Write files that appear whole or not at all: under a name of this process's own, renamed when complete."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from glob import escape
from pathlib import Path
from uuid import uuid4

from videodit.errors import InputError

GIB = 2**30
BESIDE = 20  # bytes that the name of a file beside an output has more than its own: .latents.safetensors


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the target's place, on failure it is removed.

    The temporary path is this call's own, so that several may write the same file at once. A process's first file in a
    folder also removes what killed processes have left there.
    """
    temporary = _beside(path)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: Path, *, keep: bool = False) -> Iterator[Path]:
    """The same for a folder, which takes the place of one that may be there; `keep`: that one stays instead."""
    temporary = _beside(path)
    try:
        temporary.mkdir()
        yield temporary
        if path.exists() and not keep:
            shutil.rmtree(path)
        try:
            temporary.replace(path)
        except OSError:  # another process has made it meanwhile: a folder with files in it is never replaced
            if not keep or not path.is_dir():
                raise
            shutil.rmtree(temporary)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`, for a library that makes temporary files of its own; removed at the end."""
    folder = _beside(path)
    try:
        folder.mkdir()
        yield folder
        shutil.rmtree(folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _beside(path: Path) -> Path:
    """A name of this call's own beside `path`, whose folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _tidy_once(path.parent.absolute())
    own = f"{uuid4().hex[:8]}.{socket.gethostname()}-{os.getpid()}"
    name = path.name.encode("utf-8", "ignore")[:100].decode("utf-8", "ignore")  # a system counts bytes
    return path.with_name(f".{name}.{own}.part")


def check_output(path: Path, key: str = "out") -> None:
    """InputError where a file that `key` names could not be written: before work, instead of after it."""
    missing = [path.name, *(parent.name for parent in path.absolute().parents if not os.path.lexists(parent))]
    folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    if not folder.is_dir():
        raise InputError(f"{key}={path}: cannot be written: {folder} is not a folder")
    try:
        most = os.pathconf(folder, "PC_NAME_MAX") - BESIDE
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{key}={path}: cannot be written: {error.strerror or error}") from None
    for name in missing:
        if (size := len(os.fsencode(name))) > most:
            raise InputError(
                f"{key}={name[:60]}…: the name takes {size} bytes; at most {most} can be written in {folder}"
            )


def check_room(folder: Path, size: int, what: str) -> None:
    """InputError where a disk has no room for `what` of so many bytes, to be written below a folder."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if (free := shutil.disk_usage(there).free) < size:
        raise InputError(f"{folder}: {what} takes {size / GIB:.3g} GiB, and its disk has {free / GIB:.3g} GiB free")


def tidy(folder: Path) -> None:
    """Remove what processes of this machine that were killed have left of their temporary files in a folder."""
    for left in folder.glob(f".*.{escape(socket.gethostname())}-*.part"):
        number = left.stem.rpartition("-")[2]
        try:
            os.kill(int(number), 0)
        except (ValueError, OverflowError, PermissionError):  # not one of ours, or somebody else's and alive
            continue
        except ProcessLookupError:
            _remove(left)


def clear(folder: Path) -> None:
    """Remove all temporary files in a folder that is this process's alone, whoever has left them."""
    for left in folder.glob(".*.part"):
        _remove(left)


def _remove(left: Path) -> None:
    if left.is_dir() and not left.is_symlink():
        shutil.rmtree(left, ignore_errors=True)
    else:
        left.unlink(missing_ok=True)


@cache
def _tidy_once(folder: Path) -> None:
    tidy(folder)
