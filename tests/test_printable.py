"""Nothing that a stranger wrote moves a cursor, breaks a line or turns a terminal's direction."""

from __future__ import annotations

import io

import pytest

from videodit.errors import InputError
from videodit.printable import markup, one_line, say

HOSTILE = ["\x1b[31mred\x07", "a\nb", "a\r\x1b[2Kb", "\x9b31m", "\u202egpj.mp4", "\ud800", "a\u2028b", "\x00", "\x7f"]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_what_steers_a_terminal_is_shown(text: str) -> None:
    for shown in (one_line(text), str(InputError(f"{text}: wrong"))):
        assert shown.isprintable()
        shown.encode("utf-8")
    assert not set(markup(text)) & set("\x1b\x9b\x07\u202e\x00")
    file = io.StringIO()
    say(text, to=file)
    assert file.getvalue().count("\n") == 1


@pytest.mark.parametrize("text", ["ein rotes Rad", "赤い　ボール", "کتاب‌ها", "👩‍👧", "a\u00a0b", "…"])
def test_text_of_any_language_stays_as_it_is(text: str) -> None:
    assert one_line(text) == markup(text) == text


def test_markup_is_text() -> None:
    assert markup('<b class="x">&') == "&lt;b class=&quot;x&quot;&gt;&amp;"


def test_what_an_encoding_lacks_is_escaped() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    say("ein Würfel …", to=stream)
    assert raw.getvalue() == b"ein W\\xfcrfel \\u2026\n"
