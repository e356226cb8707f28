"""Stages that behave badly, for the tests of what runs them: importable by a worker process."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from videodit.errors import InputError
from videodit.ingest.record import Dropped, Record


@dataclass(frozen=True, kw_only=True)
class Naughty:
    """Does what its record says."""

    def __call__(self, record: Record) -> list[Record]:
        """See the class."""
        match record["do"]:
            case "sleep":
                time.sleep(1000)
            case "die":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "exit":
                os._exit(3)
            case "drop":
                raise Dropped("too dark", "0.1")
            case "bug":
                raise KeyError("oops")
            case "disk":
                raise OSError(28, "No space left on device")
            case "kill actor" if not os.path.exists(record["mark"]):
                if record["mark"]:
                    Path(record["mark"]).touch()
                os.kill(os.getppid(), signal.SIGKILL)
                time.sleep(1000)
            case "stop":
                raise InputError("key=x: is wrong")
        return [{"pid": os.getpid(), "twice": 2 * record["value"]}]
