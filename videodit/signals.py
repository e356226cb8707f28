"""Listen to SIGTERM, which schedulers send before they take a machine away."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def on_sigterm(call: Callable[[], object]) -> Iterator[None]:
    """While this lasts, call a function at SIGTERM. Outside of a process's main thread nobody can listen."""
    try:
        before = signal.signal(signal.SIGTERM, lambda *_: call())
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
