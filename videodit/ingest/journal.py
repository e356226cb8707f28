"""What stages have done, so that a run which was cut off takes up where it was, and a later one does only the new.

A journal is a file of JSON lines, {"key": …, "out": …}, that only grows. A key says all that the value depends on. The
order of lines says nothing: workers are done when they are. A line that a kill cut off is forgotten.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


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
        self.file.write(line)
        self.file.flush()
        self.known[key] = value

    def close(self) -> None:
        """Nothing more is added."""
        self.file.close()
