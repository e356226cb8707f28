"""A sign of life: where a command has been silent for a while, a line on stderr tells what it is at.

`watched` looks after a process's output; `doing` names what goes on, and costs nothing where nobody watches.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from videodit.printable import say

SILENCE = 8.5  # seconds without a word, after which one is due

What = str | Callable[[], str]


class Watch:
    """Knows when this process last wrote something, and what it is doing."""

    def __init__(self, stream: TextIO, command: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream, self.clock, self.stopped = stream, clock, threading.Event()
        self.doing: list[tuple[What, float]] = [(command, clock())]  # the innermost last; since when
        self.said = self.written = clock()  # `written` counts this watch's own lines, too

    def tell(self) -> None:
        """A line, if it is due."""
        if (now := self.clock()) - self.written < SILENCE:
            return
        what, since = self.doing[-1]
        said = what if isinstance(what, str) else what()
        say(f"{said}: still at it after {now - min(since, self.said):.0f} s", to=self.stream)
        self.written = now

    def run(self) -> None:
        """Tell, again and again, until it is stopped."""
        while not self.stopped.wait(0.5):
            self.tell()


class Watched:
    """A stream that has its watch note when it is written to."""

    def __init__(self, stream: TextIO, watch: Watch) -> None:
        self.stream, self.watch = stream, watch

    def write(self, text: str) -> int:
        """As the stream's own."""
        self.watch.said = self.watch.written = self.watch.clock()
        return self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def watched(command: str) -> Iterator[None]:
    """While this lasts, no silence of this process is longer than about ten seconds."""
    before = sys.stdout, sys.stderr
    watch = Watch(sys.stderr, command)
    sys.stdout, sys.stderr = (Watched(stream, watch) for stream in before)
    thread = threading.Thread(target=watch.run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        watch.stopped.set()
        sys.stdout, sys.stderr = before
        thread.join()


@contextmanager
def doing(what: What) -> Iterator[None]:
    """Name what goes on inside of the `with` block, for when it takes long: "load the text encoder"."""
    watch = getattr(sys.stderr, "watch", None)
    if not isinstance(watch, Watch):
        yield
        return
    entry = (what, watch.clock())
    watch.doing.append(entry)
    try:
        yield
    finally:
        watch.doing.remove(entry)
