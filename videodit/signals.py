"""Listen to who asks to stop: SIGTERM, which schedulers send before they take a machine away, and Ctrl-C.

The first of them ends a command's work where nothing is lost by it. A second Ctrl-C ends the process at once.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from videodit.errors import Terminated

ASKING = (signal.SIGTERM, signal.SIGINT)
ECHO = 0.3  # seconds within which launchers pass on the Ctrl-C that the terminal has sent to all


@contextmanager
def on_stop(call: Callable[[int], object]) -> Iterator[None]:
    """While this lasts, call a function with the number of the first signal that asks to stop.

    Later ones change nothing, but for a second Ctrl-C, which ends the process. What was ignored stays ignored, such as
    Ctrl-C by a script's background jobs. Outside of a process's main thread nobody can listen.
    """
    first: list[float] = []

    def hear(number: int, _: object) -> None:
        if not first:
            first.append(time.monotonic())
            call(number)
        elif number == signal.SIGINT and time.monotonic() - first[0] > ECHO:
            _end_at_once()

    before = {number: handler for number in ASKING if (handler := signal.getsignal(number)) is not signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, hear)
    except ValueError:
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def end(number: int) -> None:
    """What `on_stop` may call to leave the work where it is: files that are half written go on the way out."""
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


@contextmanager
def later() -> Iterator[None]:
    """Who asks to stop while this lasts is heard at its end: for what must not stay half done."""
    heard: list[int] = []
    with on_stop(heard.append):
        yield
    for number in heard:
        signal.raise_signal(number)


def _end_at_once() -> None:
    if sys.stderr.isatty():
        os.write(sys.stderr.fileno(), b"\x1b[?25h")  # a progress bar has hidden the cursor
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)  # so that a shell sees what ended it
