"""Write files that appear whole or not at all: under a name of this process's own, renamed when complete."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from glob import escape
from pathlib import Path
from uuid import uuid4


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the target's place, on failure it is removed.

    The temporary path is this call's own, so that several may write the same file at once. A process's first file in a
    folder also removes what killed processes have left there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _tidy_once(path.parent.absolute())
    own = f"{uuid4().hex[:8]}.{socket.gethostname()}-{os.getpid()}"
    temporary = path.with_name(f".{path.name[:100]}.{own}.part")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def tidy(folder: Path) -> None:
    """Remove what processes of this machine that were killed have left of their temporary files in a folder."""
    for left in folder.glob(f".*.{escape(socket.gethostname())}-*.part"):
        number = left.stem.rpartition("-")[2]
        try:
            os.kill(int(number), 0)
        except (ValueError, OverflowError, PermissionError):  # not one of ours, or somebody else's and alive
            continue
        except ProcessLookupError:
            left.unlink(missing_ok=True)


@cache
def _tidy_once(folder: Path) -> None:
    tidy(folder)
