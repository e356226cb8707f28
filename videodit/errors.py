"""The exceptions that a user should read one line of: the input is wrong, or the work was interrupted. And one that
libraries have many words for: memory ran out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

from videodit.printable import one_line


class InputError(ValueError):
    """Bad input. The message is one line that names the file or key and says what would be right.

    The command line prints it and exits with code 2, without a traceback. What the message quotes cannot break the
    line or steer a terminal.
    """

    def __init__(self, message: object = "") -> None:
        text = str(message)
        if "Traceback (most recent call last)" in text:  # a data loader's worker adds its own; the error comes last
            text = text.strip().splitlines()[-1].partition("InputError: ")[2] or text
        super().__init__(one_line(text))


class Stop(InputError):
    """Bad input that every other file or clip would meet as well: no such package, model or server, a refused key."""


# How libraries say it; cuDNN, whose tries all failed, may not say why, nor oneDNN, which could not even begin.
MEMORY = re.compile(
    "can't allocate memory|not enough memory|out of memory|bad_alloc|ALLOC_FAILED|ALLOCATION_FAILED"
    "|unable to find an engine|could not create a (memory|primitive$)"
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or a CPU."""
    return isinstance(error, MemoryError) or MEMORY.search(str(error)) is not None


class Terminated(KeyboardInterrupt):
    """The process got SIGTERM. Like Ctrl-C it passes through what catches errors, and files are cleared up."""


class Interrupted(Exception):
    """The work was asked to stop before its end, and can be taken up again by the same command.

    The command line prints the message and exits with code 75 (EX_TEMPFAIL, "try again later"), or with 130 where it
    was `by_hand`, by Ctrl-C.
    """

    def __init__(self, message: str, *, by_hand: bool = False) -> None:
        super().__init__(message)
        self.by_hand = by_hand


class Cancelled(Interrupted):
    """Whoever started the work no longer wants it: asked for through `cancel=`. Nothing is half-written."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known word nearest to `word`, or nothing when none is near."""
    near = get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
