"""The run's own record: a text file with one JSON object a line, and the config beside it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Annotated, Any, NotRequired

from annotated_types import Ge, Le
from pydantic import AfterValidator
from typing_extensions import TypedDict

from videodit.errors import InputError
from videodit.track.tracker import Tracker, plain
from videodit.untrusted import MOST, parse_json

ALWAYS = frozenset({"step", "time"})  # in every record
NOT_FINITE = ("nan", "inf", "-inf")  # JSON has no such numbers, so they are written as strings


def _bounded(line: Line) -> Line:
    if any(isinstance(value, int) and abs(value) > 2**63 for value in line.values()):
        raise ValueError("a number is larger than any that a run records")
    return line


class Line(TypedDict):
    """A line of a metrics file: numbers, or tables, by their names."""

    __pydantic_config__ = {"extra": "allow"}  # type: ignore[misc]
    step: Annotated[int, Ge(0), Le(2**53)]
    time: NotRequired[Annotated[float, Ge(0), Le(2**40)]]


Record = Annotated[Line, AfterValidator(_bounded)]


class Jsonl(Tracker):
    """Writes {"step": 20, "time": 1718000000.0, "loss": 0.31} lines to `path`, and config.json next to it.

    A line is in the file once the call returns, so killing the process loses nothing. This file is what resuming,
    plotting and comparing rely on: a failure to write it (a full disk would take the next checkpoint too) is an
    InputError, which stops the run with one clear line. The file is left with whole lines only.
    """

    def __init__(self, *, path: str | Path) -> None:
        self.path = Path(path)
        self._file: FileIO | None = None

    def start(self, config: Mapping[str, Any], step: int) -> None:
        with _writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _replace(self.path.with_name("config.json"), [json.dumps(plain(config), indent=2)])
            before = records(self.path) if step > 0 and self.path.exists() else ()
            self._keep(record for record in before if record["step"] <= step)

    def forget(self, step: int, beginnings: Sequence[str]) -> None:
        with _writing(self.path):
            self.finish()
            self._keep(_without(records(self.path), step, tuple(beginnings)))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._append(step, values)

    def table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self._append(step, {name: {"columns": columns, "rows": rows}})

    def finish(self, failed: bool = False) -> None:
        if self._file:
            self._file.close()

    def _keep(self, kept: Iterable[Mapping[str, Any]]) -> None:
        """Write the file anew, and go on at its end."""
        _replace(self.path, map(_line, kept))
        self._file = FileIO(self.path, "a")  # unbuffered: what is written is with the operating system

    def _append(self, step: int, values: Mapping[str, Any]) -> None:
        if taken := values.keys() & ALWAYS:
            raise InputError(f"{self.path}: every record has a {taken.pop()} of its own; give the number another name")
        line = memoryview(_line({"step": step, "time": round(time.time(), 3), **values}).encode())
        with _writing(self.path):
            end = os.path.getsize(self.path)
            try:
                while line:
                    line = line[self._file.write(line) :]  # an almost full disk takes a part of a line
            except OSError:
                self._file.truncate(end)
                raise


def records(path: str | Path) -> Iterator[dict[str, Any]]:
    """The records of a metrics file in order, with non-finite numbers as floats again.

    A last line torn by a crash is left out. Raises InputError naming the line if any other cannot be read.
    """
    torn = 0
    with Path(path).open("rb") as file:
        lines = iter(lambda: file.readline(MOST.line + 1), b"")  # of a longer one the rest is no record either
        for number, line in enumerate(lines, start=1):
            if torn:
                raise InputError(f"{path}: line {torn} is not a record with a step; remove that line")
            record = _parse(line)
            if record is None:
                torn = number  # forgiven when nothing follows
            else:
                yield {key: float(item) if item in NOT_FINITE else item for key, item in record.items()}


def _without(kept: Iterable[dict[str, Any]], step: int, beginnings: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Records less the numbers of a step whose names begin so; one that held nothing else is left out."""
    for record in kept:
        if record["step"] != step:
            yield record
        elif (rest := {key: value for key, value in record.items() if not key.startswith(beginnings)}).keys() - ALWAYS:
            yield rest


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        return parse_json(line, "a record", Record)
    except InputError:
        return None


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(plain(record), allow_nan=False) + "\n"


def _replace(path: Path, lines: Iterable[str]) -> None:
    """Write `path` anew, all of it or nothing; `lines` may be read from the old file meanwhile."""
    temporary = path.with_name(f"{path.name}.new")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be written ({reason}); put that right and run the same command") from error
