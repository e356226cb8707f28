"""What the library says, as lines on stderr."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from videodit.printable import say


class Spoken(logging.Handler):
    """Prints each message as the command line prints its own."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one."""
        say(record.getMessage())


@contextmanager
def spoken() -> Iterator[None]:
    """While this lasts, the library's messages are printed: INFO and above, each once, however often this is nested and
    whatever handlers of its own another library has.
    """
    logger = logging.getLogger("videodit")
    if any(isinstance(handler, Spoken) for handler in logger.handlers):
        yield
        return
    handler, level, propagates = Spoken(), logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagates
