"""Files that somebody else made: bounded, shallow, and of the type that their reader expects, or one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field
from typing_extensions import TypedDict

from videodit.errors import InputError
from videodit.untrusted import MOST, check, json_lines, parse_json, read_bytes, read_json


class Thing(TypedDict):
    """A type to compare with."""

    count: Annotated[int, Field(ge=1, le=10)]
    names: list[str]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"[" * 200_000, "deep"),
        (b'{"a":' * 1000 + b"1" + b"}" * 1000, "deep"),
        (b"1" * 100_000, "not valid JSON"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\udfff": 1}', "surrogate"),
        (b"\xff\xfe", "no UTF-8"),
        (b"", "not valid JSON"),
    ],
)
def test_what_is_no_sound_json_is_one_line(content: bytes, told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        parse_json(content, "x.json")
    assert str(caught.value).startswith("x.json: ")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"count": 0, "names": []}, "count: must be at least 1, not 0"),
        ({"count": True, "names": []}, "count: must be a whole number"),
        ({"count": "1", "names": []}, "count: must be a whole number"),
        ({"count": 10**30, "names": []}, "count: must be at most 10"),
        ({"count": 1, "names": ["a", None]}, "names.1: .*string"),
        ({"count": 1}, "names: field required"),
        ([], ".*dictionary"),
        (None, ".*dictionary"),
    ],
)
def test_a_value_of_another_type_is_named_by_its_place(value: Any, told: str) -> None:
    with pytest.raises(InputError, match=f"^x: {told}"):
        check(value, Thing, "x")


def test_only_plain_files_of_a_fair_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(b" " * 101)
    for name, told in (("fifo", "not a plain file"), (".", "not a plain file"), ("none", "does not exist")):
        with pytest.raises(InputError, match=told):
            read_json(tmp_path / name)
    with pytest.raises(InputError, match="larger"):
        read_bytes(tmp_path / "large", 100)
    with pytest.raises(InputError, match="cannot be opened"):
        read_bytes("a\0b")


def test_a_damaged_line_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": 1}\n\n{"a"\n[]\n{"a": "' + b"x" * MOST.line + b'"}\n{"a": 2}')
    found = dict(json_lines(path))
    assert {number: value for number, value in found.items() if isinstance(value, dict)} == {1: {"a": 1}, 6: {"a": 2}}
    assert {number: isinstance(found[number], InputError) for number in (3, 4, 5)} == dict.fromkeys((3, 4, 5), True)


def test_a_choice_of_types_is_not_part_of_the_place() -> None:
    with pytest.raises(InputError, match=r"^x: a\.1: must be a"):
        check({"a": [1, "two"]}, dict[str, list[int | float]], "x")
