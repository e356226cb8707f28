"""Read what somebody else may have made: how much of a file is read, how deep its JSON nests, what it must hold.

`check` compares a value with a type (a TypedDict with ranges, say) by pydantic, in its strict mode: a number is not
taken for text, nor true for 1. Types stand beside what uses them; what they describe is refused in one line.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from videodit.errors import InputError

KIB, MIB = 2**10, 2**20
DEPTH = 64  # lists and objects within each other


class Most(NamedTuple):
    """The largest size of each kind of file or text, in bytes."""

    settings: int = 16 * MIB  # pipeline.json, config.json, an index of weights, set.json
    header: int = 32 * MIB  # of a safetensors file
    tokenizer: int = 64 * MIB
    table: int = 512 * MIB  # of captions or requests
    line: int = MIB  # of a table, a journal or a record of metrics
    caption: int = 64 * KIB
    answer: int = MIB  # of a captioner's server
    entry: int = 64 * MIB  # of a journal: what a stage made of one file
    member: int = 64 * KIB  # what a tar says of a member beside its header
    manifest: int = 1024 * MIB  # text of a set's columns
    rows: int = 2**24  # of a set's manifest, and values of each of its columns


MOST = Most()
PLAIN = (  # what pydantic says, and how it is said here
    ("input should be greater than or equal to", "must be at least"),
    ("input should be less than or equal to", "must be at most"),
    ("input should be greater than", "must be above"),
    ("input should be less than", "must be below"),
    ("input should", "must"),
    ("list should", "must"),
    ("a valid integer", "a whole number"),
    ("a valid number", "a number"),
    ("a valid boolean", "true or false"),
    (" after validation, not 0", ""),
)


def opened(path: str | Path) -> int:
    """A descriptor to read a plain file from. InputError, which names the file, for anything else."""
    try:
        # Not to wait for the other end of a FIFO.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: a name that holds a zero byte
        raise InputError(f"{path}: cannot be opened: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError(f"{path}: not a plain file")
    return descriptor


def leads_out(path: Path, folder: Path) -> bool:
    """Whether a path below a folder is, by a link, a file outside of it."""
    return not path.resolve().is_relative_to(folder.resolve())


def read_bytes(path: str | Path, most: int = MOST.settings) -> bytes:
    """The content of a file of at most so many bytes."""
    with open(opened(path), "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise InputError(f"{path}: larger than {most // KIB} KiB, which no such file should be")
    return content


def read_text(path: str | Path, most: int = MOST.settings) -> str:
    """The same as UTF-8 text."""
    try:
        return read_bytes(path, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def read_json(path: str | Path, kind: Any = Any, most: int = MOST.settings) -> Any:
    """A JSON file whose value is of this type."""
    return parse_json(read_bytes(path, most), path, kind)


def parse_json(content: str | bytes, where: object, kind: Any = Any) -> Any:
    """JSON as a value of this type. InputError, which begins with `where`, for anything else."""
    try:
        value = json.loads(content.decode("utf-8-sig") if isinstance(content, bytes) else content)
        _check_depth(value)
    except RecursionError:
        raise InputError(f"{where}: nested more than {DEPTH} deep") from None
    except UnicodeError:
        raise InputError(f"{where}: holds text that is no UTF-8, such as half a surrogate pair") from None
    except ValueError as error:
        raise InputError(f"{where}: not valid JSON: {error}") from None
    return check(value, kind, where)


def json_lines(path: str | Path, kind: Any = dict[str, Any]) -> Iterator[tuple[int, Any]]:
    """(number, value) of each line of a file of JSON lines; for a damaged line its InputError stands as the value."""
    with open(opened(path), "rb") as file:
        number = 1
        while line := file.readline(MOST.line + 1):
            where = f"{path}, line {number}"
            ended = line.endswith(b"\n")
            try:
                if len(line) > MOST.line:
                    raise InputError(f"{where}: longer than {MOST.line // KIB} KiB")
                if line.strip():
                    yield number, parse_json(line, where, kind)
            except InputError as error:
                yield number, error
            while not ended and (rest := file.readline(MOST.line)):  # what is too long goes unread
                ended = rest.endswith(b"\n")
            number += 1


def check(value: Any, kind: Any, where: object) -> Any:
    """The value, if it is of this type. InputError names the first place where it is not: "where: key.1: …"."""
    from pydantic import ValidationError

    if kind is Any:
        return value
    try:
        return _adapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(_place(value, first["loc"], first["type"]))
        given = "" if first["type"] == "missing" else f", not {_shown(first['input'])}"
        if first["type"] == "value_error":  # a rule of the type's own, which says it all
            told, given = first["msg"].removeprefix("Value error, "), ""
        else:
            told = first["msg"][:1].lower() + first["msg"][1:]
            for theirs, ours in PLAIN:
                told = told.replace(theirs, ours)
        raise InputError(f"{where}: {place + ': ' if place else ''}{told}{given}") from None


def _place(value: Any, location: Sequence[Any], kind: str) -> Iterator[str]:
    """The keys and numbers on the way to a place in a value, without pydantic's names for a type's choices."""
    for number, part in enumerate(location, 1):
        if isinstance(value, Mapping) and part in value or isinstance(value, list | tuple) and isinstance(part, int):
            value = value[part]
            yield str(part)
        elif number == len(location) and (kind == "missing" or part == "[key]"):
            yield str(part)


def is_a(value: Any, kind: Any) -> bool:
    """Whether a value is of this type."""
    try:
        check(value, kind, "")
    except InputError:
        return False
    return True


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _shown(value: Any) -> str:
    text = str(value) if isinstance(value, int | float | None) else repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _check_depth(value: Any, depth: int = 0) -> None:
    """RecursionError where a value nests too deep, UnicodeError where its text cannot be written as UTF-8."""
    if depth > DEPTH:
        raise RecursionError
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, dict):
        for key, item in value.items():
            key.encode()
            _check_depth(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_depth(item, depth + 1)
