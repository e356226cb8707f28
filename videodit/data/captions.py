"""The captions that come with videos: one reader for tables, texts and JSON, in whatever spelling they come.

A caption is taken whole, or it is a fault that names its file and line. Where two places tell different captions of one
clip, none of them is taken: the clip is the fault.
"""

from __future__ import annotations

import codecs
import json
import posixpath
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import count
from typing import IO, Any, NamedTuple

from videodit.data.rows import CAPTION, FILE, OF_CAPTIONS, SOURCE, Cells, Fields, csv_rows, numbered, spelt, unreadable
from videodit.errors import InputError
from videodit.untrusted import KIB, MOST

TABLES = ("metadata.jsonl", "metadata.csv")
BESIDE = (".txt", ".json")  # endings of what may hold a video's caption under its name
MISSING, DIFFER, LOST = "named in a table, not there", "what is told of it differs", "a caption was lost"
FAULTS = 100  # lines of a table that cannot be read, before the rest of it is given up


class Told(NamedTuple):
    """What one place tells of a clip. where: that place, a file and line. source: what the clip was cut from.

    changed: not every character of it could be kept.
    """

    caption: str = ""
    source: str = ""
    where: str = ""
    changed: bool = False


class Captions:
    """What the tables and texts of a folder tell of its files.

    `opened(path)` gives the bytes of a file there. lines: the names of clips in tables, one a line, and their paths.
    tables: by the path of a clip what these tell of it. faults: (path, why). changed: where captions stand that are
    used, but are not what they were.
    """

    def __init__(self, opened: Callable[[str], AbstractContextManager[IO[bytes]]]) -> None:
        self._opened = opened
        self.lines: list[tuple[str, str]] = []
        self.tables: dict[str, list[Told]] = {}
        self.faults: list[tuple[str, str]] = []
        self.changed: list[str] = []
        self._texts: dict[str, Told] = {}

    def read_table(self, path: str) -> None:
        """Read a table; its paths begin in its folder."""
        folder = posixpath.dirname(path)
        try:
            with self._opened(path) as file:
                for row in rows(file, path):
                    if isinstance(row, InputError):
                        self._lost(path, row)
                    else:
                        name = posixpath.join(folder, row[0])
                        self.lines.append((name, posixpath.normpath(name)))
                        self.tables.setdefault(posixpath.normpath(name), []).append(row[1])
        except (OSError, InputError) as error:
            self._lost(path, error)

    def of(self, path: str, beside: Iterable[str]) -> Told | None:
        """What tables and the texts beside it tell of a clip; None, and a fault, where they differ."""
        for text in beside:
            if text not in self._texts:
                try:
                    with self._opened(text) as file:
                        self._texts[text] = self.text(text, file)
                except (OSError, InputError) as error:
                    self._texts[text] = self._lost(text, error)
        return self.agree(path, [*self.tables.get(path, ()), *(self._texts[text] for text in beside)])

    def text(self, path: str, file: IO[bytes]) -> Told:
        """What an open .txt or .json tells; nothing, and a fault, where it cannot be read."""
        try:
            return _beside(file, path)
        except (OSError, InputError) as error:
            return self._lost(path, error)

    def agree(self, path: str, told: Sequence[Told]) -> Told | None:
        """What all these places tell of a clip; None, and a fault, where they differ."""
        try:
            whole = agreed(told)
        except InputError as error:
            self.faults.append((path, f"{DIFFER}: {error}"))
            return None
        if whole.changed:
            self.changed.append(whole.where)
        return whole

    def _lost(self, path: str, error: Exception) -> Told:
        """Note a file of which captions could not be taken."""
        if isinstance(error, OSError):
            error = InputError(f"cannot be read: {error.strerror or error}")
        why = str(error).removeprefix(str(InputError(path))).lstrip(", :")
        self.faults.append((path, f"{LOST}: {why}"))
        return Told(where=path)


def is_table(path: str) -> bool:
    """Whether a file is a table of captions, by its name."""
    return posixpath.basename(path).lower() in TABLES


def is_beside(path: str) -> bool:
    """Whether a file may hold the caption of one beside it, by its name."""
    return posixpath.splitext(path)[1].lower() in BESIDE


def pairs(texts: Iterable[str], videos: Collection[str], *, samples: bool) -> dict[str, list[str]]:
    """{video: its texts}, by names: a.txt and a.mp4.txt are a.mp4's.

    samples: as in a WebDataset, too. There a.en.txt is a.mp4's, and what is called up to its first dot as several
    videos are, and as none is but for the endings, is theirs: a.txt is that of a.left.mp4 and a.right.mp4.
    """
    named: dict[str, list[str]] = {}
    keyed: dict[str, list[str]] = {}
    for video in videos:
        folder, base = posixpath.split(posixpath.normpath(video))
        for name in {base, posixpath.splitext(base)[0]}:
            named.setdefault(posixpath.join(folder, name), []).append(video)
        keyed.setdefault(posixpath.join(folder, base.split(".")[0]), []).append(video)
    found: dict[str, list[str]] = {}
    for text in texts:
        own = stem = posixpath.splitext(posixpath.normpath(text))[0]
        while samples and stem not in named and (shorter := posixpath.splitext(stem)[0]) != stem:
            stem = shorter
        for video in named.get(stem) or (keyed.get(own, []) if samples else []):
            found.setdefault(video, []).append(text)
    return found


def agreed(told: Sequence[Told]) -> Told:
    """What several places tell of one clip, each as far as it says something. InputError where they differ.

    Captions that differ in blanks alone are the same; the first one counts.
    """
    captions, sources = [one for one in told if one.caption], [one for one in told if one.source]
    for what, places in (("caption", captions), ("source", sources)):
        for one in places[1:]:
            if getattr(one, what).split() != getattr(places[0], what).split():
                raise InputError(f"one {what} in {places[0].where}, another in {one.where}")
    if not captions:
        return Told(source=sources[0].source if sources else "")
    return captions[0]._replace(source=sources[0].source if sources else "")


def rows(file: IO[bytes], path: str) -> Iterator[tuple[str, Told] | InputError]:
    """(name, what is told) of each line of a table; of one that cannot be read its InputError, which names the line.

    Raises InputError where the rest cannot be read either.
    """
    bad, lacking, first = count(1), 0, ""
    for where, row in (csv_rows if path.lower().endswith(".csv") else _objects)(numbered(file, path), path):
        try:
            name, told = _row(row, where)
        except InputError as error:
            yield error
            if next(bad) == FAULTS:
                raise InputError(f"{where}: the line {FAULTS} with a fault; what follows is not read") from None
            continue
        if OF_CAPTIONS.isdisjoint(spelt(key) for key, _ in row):
            lacking, first = lacking + 1, first or f"{where}: lacks caption; it has {_keys(row)}"
        yield name, told
    if lacking:  # told once: a table without captions is one fault
        yield InputError(first + f"; {lacking - 1} more lines lack it, too" * (lacking > 1))


def _beside(file: IO[bytes], path: str) -> Told:
    """What a .txt or .json beside a video tells: of a .txt all of it, whatever its lines."""
    content = file.read(MOST.line + 1)
    if len(content) > MOST.line:
        raise InputError(f"{path}: larger than {MOST.line // KIB} KiB")
    text = _decoded(content, path)
    return _told(Fields([("caption", text)]) if path.lower().endswith(".txt") else _object(text, path), path)


def _objects(lines: Iterator[tuple[int, str]], path: str) -> Iterator[tuple[str, Fields | InputError]]:
    """The rows of JSON lines."""
    for number, line in lines:
        where = f"{path}, line {number}"
        if line.strip():
            try:
                if fault := unreadable(line):
                    raise InputError(f"{where}: {fault}")
                yield where, _object(line, where)
            except InputError as error:
                yield where, error


def _object(text: str, where: str) -> Fields:
    try:
        found = json.loads(text, object_pairs_hook=Fields)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(found, Fields):
        raise InputError(f"{where}: should be a JSON object of file_name and caption")
    return found


def _row(row: Cells | InputError, where: str) -> tuple[str, Told]:
    if isinstance(row, InputError):
        raise row
    name = _given(row, FILE, where)
    if name is None:
        raise InputError(f"{where}: lacks file_name; it has {_keys(row)}")
    return name, _told(row, where)


def _told(row: Cells, where: str) -> Told:
    caption, source = (_given(row, groups, where) or "" for groups in (CAPTION, SOURCE))
    if len(caption.encode("utf-8", "surrogatepass")) > MOST.caption:
        raise InputError(f"{where}: a caption of more than {MOST.caption // KIB} KiB")
    kept = _whole(caption)
    return Told(kept.strip(), _whole(source), where, kept != caption)


def _given(row: Cells, groups: Sequence[Sequence[str]], where: str) -> str | None:
    """What the first of these columns that says something says; "" where none does, None where there is none."""
    found = None
    for group in groups:
        values = {}
        for key, value in row:
            if spelt(key) in group and value is not None:
                if not isinstance(value, str):
                    raise InputError(f"{where}: {key} should be a string, got {value!r:.50}")
                values[value] = key
        said = [value for value in values if value.strip()]
        if len(said) > 1:
            names = " and ".join(values[value] for value in said)
            raise InputError(f"{where}: {names} tell two different things")
        if said:
            return said[0]
        found = "" if values else found
    return found


def _keys(row: Cells) -> str:
    return ", ".join(repr(key) for key, _ in row)[:200] or "nothing"


def _decoded(content: bytes, path: str) -> str:
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode(*(("utf-16", "surrogatepass") if wide else ("utf-8-sig", "surrogateescape")))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-16 text ({error.reason})") from None
    if unreadable(text):
        number, fault = next((i, why) for i, line in enumerate(text.split("\n"), 1) if (why := unreadable(line)))
        raise InputError(f"{path}, line {number}: {fault}")
    return text


def _whole(text: Any) -> str:
    """Text without the halves of characters that JSON can hold and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()
