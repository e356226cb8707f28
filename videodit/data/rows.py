"""Lines of a table that somebody else wrote, and CSV read so that no cell is cut or swallowed in silence."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import IO, Any, NamedTuple

from videodit.errors import InputError
from videodit.untrusted import KIB, MIB, MOST

# Columns, as `spelt` has them. The first group that says something counts; within a group they must agree.
FILE = (("filename",), ("file", "path", "video", "filepath", "videopath"))
CAPTION = (("caption",), ("text",), ("prompt",))
SOURCE = (("source",),)
OF_FILES, OF_CAPTIONS = frozenset(chain(*FILE)), frozenset(chain(*CAPTION))
SEPARATORS = ",;\t"
NAMED = re.compile(r"\.[a-z][a-z0-9]{1,3}$", re.IGNORECASE)  # what is the name of a file
QUOTES = 'put a caption that holds separators or breaks of lines into double quotes, and each quote in it twice ("")'
UNKNOWN = "is neither UTF-8 nor UTF-16 with a byte mark: save the file as UTF-8"
ZEROS = "holds zero bytes, as UTF-16 without a byte mark does: save the file as UTF-8"

Cells = Sequence[tuple[str, Any]]  # (column, value)


class Fields(list[tuple[str, Any]]):
    """The pairs of a JSON object: a key that stands there twice is there twice."""


class Record(NamedTuple):
    """A row of a CSV: the line it begins in, its cells, and the text of its lines."""

    number: int
    cells: list[str]
    lines: list[str]


def spelt(column: str) -> str:
    """A column's name as it is compared: "File name" is file_name is filename."""
    return re.sub(r"[\W_]+", "", column).lower()


def numbered(file: IO[bytes], path: str) -> Iterator[tuple[int, str]]:
    """(number, text) of lines, which end as on any system. What could not be decoded is halves of characters.

    Raises InputError where one of them is too long, or all of them are.
    """
    wide, size = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), 0
    file.seek(0)
    kind, errors = ("utf-16", "surrogatepass") if wide else ("utf-8-sig", "surrogateescape")
    text, number = io.TextIOWrapper(file, kind, errors, newline=""), 0
    try:
        while line := text.readline(MOST.line + 1):
            number, size = number + 1, size + len(line)
            if len(line) > MOST.line:
                raise InputError(f"{path}, line {number}: a line of more than {MOST.line // KIB} KiB")
            if size > MOST.table:
                raise InputError(f"{path}: more than {MOST.table // MIB} MiB")
            yield number, line
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-16 text beyond line {number} ({error.reason})") from None


def unreadable(text: str) -> str:
    """Why what was decoded is no text; "" where it is."""
    if "\0" in text:
        return ZEROS
    try:
        text.encode()
    except UnicodeEncodeError:
        return UNKNOWN
    return ""


def csv_rows(lines: Iterator[tuple[int, str]], path: str) -> Iterator[tuple[str, Cells | InputError]]:
    """(where, row) of a CSV with a header, separated by commas, semicolons or tabs; a bad row is an InputError there.

    So is the row before one that lacks cells, which may be the end of its caption. Raises InputError for a quote that
    is not closed where the row ends: no line after it can be told from the quoted text.
    """
    number, first = next(((number, line) for number, line in lines if line.strip()), (1, ""))
    where, separator = f"{path}, line {number}", _separator(first)
    if fault := unreadable(first):
        raise InputError(f"{where}: {fault}")
    records = _records(chain([(number, first)], lines), path, separator, padded=f"{separator} " in first)
    header = next((record.cells for record in records), [])
    place = next((i for i, column in enumerate(header) if spelt(column) in OF_FILES), None)
    if place is None:
        wanted = "should name the columns file_name and caption, separated by commas, semicolons or tabs"
        raise InputError(f"{where}: {wanted}, not {first.strip()!r:.80}")
    before: tuple[str, Cells | InputError] | None = None
    try:
        for record in records:
            where, cells = f"{path}, line {record.number}", record.cells
            row = _row(header, record, where, separator)
            _check_closed(record, separator, place, where)
            if before is not None and len(cells) < len(header) and not isinstance(before[1], InputError):
                before = before[0], InputError(f"{before[0]}: may go on in line {record.number}: {QUOTES}")
            if before is not None:
                yield before
            before = where, row
    except InputError:
        if before is not None:
            yield before
        raise
    if before is not None:
        yield before


def _separator(line: str) -> str:
    """What stands between the names of a header."""
    known = OF_FILES | OF_CAPTIONS
    return max(SEPARATORS, key=lambda one: len({spelt(name) for name in line.split(one)} & known))


def _row(header: Sequence[str], record: Record, where: str, separator: str) -> Cells | InputError:
    cells = record.cells
    if fault := unreadable("".join(cells)):
        return InputError(f"{where}: {fault}")
    if len(cells) != len(header):
        return InputError(f"{where}: {len(cells)} cells where the header has {len(header)}: {QUOTES}")
    # In three columns "a.mp4,a red ball, rolling" has the right number of cells. Blanks inside of quotes tell nothing.
    text = "".join(record.lines)
    if len({cell.startswith(" ") and separator + cell in text for cell in cells[1:] if cell}) > 1:
        return InputError(f"{where}: blanks after some separators only, as in a caption: {QUOTES}")
    return list(zip(header, cells, strict=True))


def _check_closed(record: Record, separator: str, place: int, where: str) -> None:
    """InputError where a line inside of quotes looks like a row: with the name of a file in its place."""
    for number, line in enumerate(record.lines[1:], record.number + 1):
        cells = line.split(separator)
        if 1 < len(cells) > place and NAMED.search(cells[place].strip(' "\r\n')):
            told = (
                f"a quote that is open over line {number}, which looks like a row: {QUOTES}; what follows is not read"
            )
            raise InputError(f"{where}: {told}")


def _records(lines: Iterator[tuple[int, str]], path: str, separator: str, *, padded: bool) -> Iterator[Record]:
    """The rows of a CSV, header included. padded: blanks after separators are none of the cells'."""
    number, size, taken = 0, 0, []

    def followed() -> Iterator[str]:
        nonlocal number, size
        for last, line in lines:
            taken.append(line)
            number, size = last - len(taken) + 1, size + len(line)
            if size > MOST.line:
                raise InputError(f"{path}, line {number}: a row of more than {MOST.line // KIB} KiB")
            yield line

    reader = csv.reader(followed(), delimiter=separator, skipinitialspace=padded, strict=True)
    try:
        for cells in reader:
            if cells:
                yield Record(number, cells, list(taken))
            size = 0
            taken.clear()
    except csv.Error as error:
        raise InputError(f"{path}, line {number}: not CSV, {error}: {QUOTES}; what follows is not read") from None
