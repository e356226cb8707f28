"""Stages that behave badly, for the tests of what runs them: importable by a worker process."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError

from videodit.errors import InputError, Stop
from videodit.ingest.engine import Local
from videodit.ingest.guard import outcome
from videodit.ingest.record import Dropped, Record


@dataclass(frozen=True, kw_only=True)
class Naughty:
    """Does what its record says."""

    def __call__(self, record: Record) -> list[Record]:
        """See the class."""
        Path(tempfile.gettempdir(), "scratch").touch()
        match record["do"]:
            case "sleep":
                time.sleep(1000)
            case "die":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os._exit(3)
            case "drop":
                raise Dropped("too dark", "0.1")
            case "bug":
                raise KeyError("oops")
            case "memory":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            case "lost":
                raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
            case "disk":
                raise OSError(28, "No space left on device")
            case "kill actor" if not os.path.exists(record["mark"]):
                if record["mark"]:
                    Path(record["mark"]).touch()
                os.kill(os.getppid(), signal.SIGKILL)
                time.sleep(1000)
            case "stop":
                raise Stop("key=x: is wrong")
            case "input":
                raise InputError("frame 3 is odd")
            case "named so":
                raise InputError("No space left on device.mp4: not a readable video")
            case "package":
                raise ImportError("no module")
            case "shard":
                _write_shard()
        return [{"scratch": tempfile.gettempdir(), "pid": os.getpid(), "twice": 2 * record["value"]}]


def _write_shard() -> None:
    """Fail as safetensors does on a full disk, told on as something else."""
    try:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    except SafetensorError:
        raise InputError("a shard cannot be written: No space left on device") from None


class Here(Local):
    """An engine: stages run in the test's own process, which is told of every call."""

    calls: ClassVar[Counter[str]] = Counter()

    def __init__(self, workers: int | None = None) -> None:
        """Any number of workers is this one."""

    def run(self, stage: Any, records: Sequence[Record], limits: Sequence[float], most: int | None) -> Any:
        """See ingest.engine.Engine."""
        for place, record in enumerate(records):
            self.calls[type(stage).__name__] += 1
            yield place, outcome(stage, record)
