"""What stages have done, so that a run which was cut off takes up where it was, and a later one does only the new.

A journal is a file of JSON lines, {"key": …, "out": …}, that only grows. A key says all that the value depends on. The
order of lines says nothing: workers are done when they are. A line that a kill cut off is forgotten.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from videodit.errors import InputError


class Journal:
    """key -> value, on disk once `add` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, Any] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = 0
        if path.exists():
            with path.open("rb") as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    entry = json.loads(line)
                    self.known[entry["key"]] = entry["out"]
                    whole += len(line)
        self.file = path.open("ab")
        self.file.truncate(whole)

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
