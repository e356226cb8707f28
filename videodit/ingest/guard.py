"""A function called in a process of its own: one that hangs is ended, one that dies is missed by nobody."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from typing import Any

from videodit.errors import InputError, Stop, is_out_of_memory
from videodit.ingest.record import Dropped, Record, Stage
from videodit.printable import one_line

START = 120.0  # seconds for a process to begin; a model may have to be loaded
MOST = 1e6  # seconds for a call; poll() counts in milliseconds that must fit 32 bits
ENDED = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP)  # by somebody else, or for want of memory
FAILED = ("CUDA error", "CUDNN_STATUS", "CUBLAS_STATUS")  # words of what a GPU that has failed says
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}  # a disk that takes nothing more, and how libraries say it
FULL_TOLD = [os.strerror(code) for code in FULL]
# {"records": […]}, {"dropped": reason, "detail": …, "again": …}, the latter with the "limit" it broke, or whether its
# process has "lost" the GPU; or {"stop": why}
Result = dict[str, Any]


def outcome(stage: Stage, record: Record) -> Result:
    """What a stage makes of a record. What it raises is a reason to drop that one, unless every other would meet it."""
    try:
        return {"records": stage(record)}
    except Dropped as drop:
        return dropped(drop.reason, drop.detail, again=drop.again)
    except Exception as error:  # a bad file may bring out a bug; it must not stop the others
        what = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        if stops(error):
            return {"stop": one_line(what)}
        if isinstance(error, InputError):
            return dropped("cannot be used", what)
        if isinstance(error, MemoryError | OSError):
            return dropped("the machine failed", what, again=True)
        lost = type(error).__name__ == "AcceleratorError" or any(word in str(error) for word in FAILED)  # torch's
        if lost or is_out_of_memory(error):
            return dropped("the machine failed", what, again=True) | ({"lost": True} if lost else {})
        return dropped("a stage failed", what)


def stops(error: BaseException | None) -> bool:
    """Whether an error would meet every other record too, as all do that a full disk led to."""
    if isinstance(error, Stop | ImportError):
        return True
    while error is not None:
        # Only of safetensors, which has no number for it: other errors quote names, and a file may be called so.
        told = str(error) if type(error).__name__ == "SafetensorError" else ""
        if getattr(error, "errno", None) in FULL or any(words in told for words in FULL_TOLD):
            return True
        error = error.__cause__ or error.__context__
    return False


def dropped(reason: str, detail: str = "", *, again: bool = False) -> Result:
    """The result for a record that goes no further."""
    return {"dropped": one_line(reason), "detail": one_line(detail), "again": again}


class Guard:
    """A stage in a child process. A call that takes too long, or ends the process, drops its record."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.process: Any = None
        self.pipe: Connection | None = None
        self.scratch = ""

    def __call__(self, record: Record, limit: float) -> Result:
        """What the stage makes of it within so many seconds."""
        if self.process is None:
            self._start()
        try:
            self.pipe.send(record)
            if self.pipe.poll(min(limit, MOST)):
                result = self.pipe.recv()
                if result.get("lost"):
                    self.close()
                return result
            result = dropped("took too long", f"more than {limit:.0f} seconds") | {"limit": limit}
        except (EOFError, OSError):
            self.process.join(1.0)
            code = self.process.exitcode
            died = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
            result = dropped("crashed its reader", died, again=code in ENDED)
        self.close()
        return result

    def end(self) -> None:
        """End the process, whatever it is doing; a call in another thread comes back."""
        if self.process is not None:
            self.process.kill()

    def close(self) -> None:
        """End the process, when no call is going on."""
        if self.process is not None:
            self.pipe.close()
            self.process.kill()
            self.process.join()
            self.process = self.pipe = None
            shutil.rmtree(self.scratch, ignore_errors=True)

    def _start(self) -> None:
        context = get_context("spawn")  # a fork would take over the threads' locks
        self.pipe, theirs = context.Pipe()
        self.scratch = tempfile.mkdtemp(prefix="videodit-")
        process = context.Process(target=_serve, args=(theirs, self.stage, self.scratch), daemon=True)
        process.start()
        self.process = process
        theirs.close()
        if not self.pipe.poll(START):
            raise RuntimeError("a worker process did not begin")
        self.pipe.recv()


def _serve(pipe: Connection, stage: Callable[[Record], list[Record]], scratch: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends us
    tempfile.tempdir = scratch  # who is killed cannot clear up
    threading.Thread(target=_follow_parent, args=(scratch,), daemon=True).start()
    with suppress(EOFError, BrokenPipeError):  # the parent is gone
        pipe.send("ready")
        while True:
            pipe.send(outcome(stage, pipe.recv()))


def _follow_parent(scratch: str) -> None:
    """A parent that was killed cannot end us, and a call may never return."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        shutil.rmtree(scratch, ignore_errors=True)
        os._exit(1)
