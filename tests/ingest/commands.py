"""`videodit ingest` as a process, in this one, and what it leaves."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pyarrow import parquet

from tests.ingest.nasty import good
from videodit.cli.main import main

DROP_BOUND, READ_ANY, SEARCH_ANY = 24, 1, 2  # Linux: prctl's command, and what makes root stop at no permission
HERE = ["engine._target_=tests.ingest.work.Here", "engine.workers=null"]


def folder(path: Path, count: int) -> Path:
    """A folder of so many plain clips with captions."""
    path.mkdir(exist_ok=True)
    for number in range(count):
        if not (path / f"{number}.mp4").exists():
            good(path / f"{number}.mp4", number)
            (path / f"{number}.txt").write_text(f"clip number {number}")
    return path


def here(videos: Path, out: Path, *overrides: str) -> int:
    """The command in this process."""
    return main(["ingest", str(videos), f"out={out}", *HERE, *overrides])


def started(
    videos: Path, out: Path, *overrides: str, environment: Mapping[str, str] = MappingProxyType({}), **options: Any
) -> subprocess.Popen:
    """The command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "videodit", "ingest", str(videos), f"out={out}", *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1", **environment},
        **options,
    )


def humble() -> None:
    """Let root be stopped by permissions as anybody is: to be called in a child before it runs."""
    if os.geteuid() == 0:
        for right in (READ_ANY, SEARCH_ANY):
            if ctypes.CDLL(None).prctl(DROP_BOUND, right, 0, 0, 0) != 0:
                raise OSError("root cannot give up its rights")


def rows(out: Path, name: str = "manifest") -> list[dict[str, Any]]:
    """A table of a set."""
    return parquet.read_table(out / f"{name}.parquet").to_pylist()


def contents(out: Path) -> dict[str, bytes]:
    """The set's own files, byte for byte: no report, whose pictures are of no consequence."""
    paths = [*out.glob("*.parquet"), out / "set.json", *(out / "cache").glob("*")]
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}
