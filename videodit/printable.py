"""Make text that somebody else wrote (names, prompts, captions, messages) safe for a terminal, a log and a page."""

from __future__ import annotations

import logging
import sys
import unicodedata
from html import escape
from typing import TextIO

# Turn the direction of what follows on a terminal: a name could show as another one.
DIRECTION = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
CONTROL = frozenset(("Cc", "Cs", "Zl", "Zp"))  # Unicode's categories of control characters, half pairs, line breaks


def one_line(text: object) -> str:
    """Escape what moves a cursor, breaks a line or is no character: "a\\nb" becomes a, backslash, n, b."""
    return _escaped(str(text), keep="")


def markup(text: object) -> str:
    """Escape text for HTML. Line breaks and tabs stay; other control characters become visible."""
    return escape(_escaped(str(text), keep="\n\t"))


def say(*lines: object, to: TextIO | None = None) -> None:
    """Print lines, each as one, to stderr or another stream; what its encoding lacks is escaped."""
    stream = to or sys.stderr
    encoding = getattr(stream, "encoding", None) or "utf-8"
    for line in lines:
        print(one_line(line).encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def answer(*lines: object) -> None:
    """Print lines, each as one, to stdout: what a command was asked for."""
    say(*lines, to=sys.stdout)


def note(area: str, line: object) -> None:
    """Log a line of the library's, at the level INFO: `area` is the module's name."""
    logging.getLogger(area).info("%s", one_line(line), stacklevel=2)


def warn(area: str, line: object) -> None:
    """The same at the level WARNING: something is not as it was asked for, and the work goes on."""
    logging.getLogger(area).warning("%s", one_line(line), stacklevel=2)


def quiet_torchao() -> None:
    """Silence what torchao tells of kernels for other machines, and torch of its age, before one imports it."""
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _escaped(text: str, keep: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c in keep or not _is_control(c) else _visible(c) for c in text)


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in CONTROL or character in DIRECTION


def _visible(character: str) -> str:
    return character.encode("unicode_escape").decode()
