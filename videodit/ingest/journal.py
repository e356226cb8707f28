"""What stages have done, so that a run which was cut off takes up where it was, and a later one does only the new.

A journal is a file of JSON lines, {"key": …, "out": …}, that only grows. A key says all that the value depends on. The
order of lines says nothing: workers are done when they are. A line that a kill cut off is forgotten; one that is
damaged is told, and what it stood for done again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from videodit.errors import InputError
from videodit.printable import warn
from videodit.untrusted import MIB, MOST, check, opened, parse_json


class Done(TypedDict):
    """What a stage made of a record."""

    records: list[dict[str, Any]]


class Gone(TypedDict):
    """Why a record went no further: see `guard.Result`."""

    dropped: str
    detail: str
    again: NotRequired[bool]
    limit: NotRequired[float]


class Entry(TypedDict):
    """A line of a journal."""

    key: str
    out: Done | Gone


class Journal:
    """key -> value, on disk once `add` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, Any] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        damaged: list[str] = []
        whole = 0
        for number, line in enumerate(_whole_lines(path), 1):
            whole += len(line)
            try:
                entry = parse_json(line, f"line {number}")
                check(entry, Entry, f"line {number}")  # as it stands: results may say more
                self.known[entry["key"]] = entry["out"]
            except InputError as error:
                damaged.append(str(error))
        if damaged:
            warn(
                __name__, f"{path}: {len(damaged)} damaged lines are left out, their work is done again ({damaged[0]})"
            )
        try:
            self.file = path.open("ab")
            self.file.truncate(whole)
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None

    def add(self, key: str, value: Any) -> None:
        """Remember a value."""
        line = json.dumps({"key": key, "out": value}, ensure_ascii=True).encode() + b"\n"
        try:
            self.file.write(line)
            self.file.flush()
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written: {error.strerror or error}") from None
        self.known[key] = value

    def close(self) -> None:
        """Nothing more is added."""
        with suppress(OSError):  # what could not be written has been told
            self.file.close()


def _whole_lines(path: Path) -> Iterator[bytes]:
    """The lines that have an end. InputError where there is no plain file, or one line is as no journal's."""
    if not path.is_symlink() and not path.exists():
        return
    with open(opened(path), "rb") as file:
        while (line := file.readline(MOST.entry + 1)).endswith(b"\n"):
            yield line
        if len(line) > MOST.entry:
            told = f"a line of more than {MOST.entry // MIB} MiB; without the file its work is done again"
            raise InputError(f"{path}: {told}")
