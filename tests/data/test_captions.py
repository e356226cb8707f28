"""Tables of captions as properties: what a writer of CSV or JSON wrote comes back whole, what none wrote is told."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from videodit.data.captions import agreed, pairs, rows
from videodit.errors import InputError

NAMES = ("a.mp4", "b.mp4", "c.mp4")
LETTERS = st.sampled_from(" ,;\"\n\r\t'a.mp4bé中\u2028")
LETTERS |= st.characters(exclude_categories=["Cs"], exclude_characters="\0")
CAPTIONS = st.lists(st.text(LETTERS, max_size=30), min_size=3, max_size=3)
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])


def read(table: str, kind: str, encoding: str = "utf-8") -> tuple[dict[str, list[str]], list[str]]:
    """Captions by file, and faults."""
    found: dict[str, list[str]] = {}
    faults: list[str] = []
    try:
        for row in rows(io.BytesIO(table.encode(encoding)), f"metadata.{kind}"):
            if isinstance(row, InputError):
                faults.append(str(row))
            else:
                found.setdefault(row[0], []).append(row[1].caption)
    except InputError as error:
        faults.append(str(error))
    assert all(re.match(r"metadata\.\w+, line \d+: ", fault) for fault in faults)
    return found, faults


def whole(captions: list[str]) -> dict[str, list[str]]:
    return {name: [caption.strip()] for name, caption in zip(NAMES, captions, strict=True)}


@seed(1)
@settings(max_examples=200, deadline=None, database=None)
@given(CAPTIONS, st.sampled_from(",;\t"), ENCODINGS, st.booleans(), st.booleans(), st.sampled_from(["\n", "\r\n"]))
def test_what_a_writer_of_csv_wrote_comes_back(
    captions: list[str], separator: str, encoding: str, quoted: bool, third: bool, end: str
) -> None:
    """All of it, but for lines that look like rows, and blanks at the beginning and \\r that Python leaves unquoted."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator, quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL,
                        lineterminator=end)  # fmt: skip
    writer.writerow(["file_name", "caption", *["source"] * third])
    writer.writerows([name, caption, *["film"] * third] for name, caption in zip(NAMES, captions, strict=True))
    found, faults = read(out.getvalue(), "csv", encoding)
    doubtful = any(re.search(r"[\n\r].*\.[a-zA-Z]", one, re.DOTALL) for one in captions)
    doubtful |= not quoted and any((third and one.startswith(" ")) or "\r" in one for one in captions)
    assert found == whole(captions) or (faults and doubtful)


@seed(1)
@settings(max_examples=300, deadline=None, database=None)
@given(CAPTIONS, st.booleans())
def test_what_was_written_without_quotes_is_whole_or_told(captions: list[str], third: bool) -> None:
    """By a program that knows nothing of them. Rows that name no file are told elsewhere."""
    captions = [caption.lstrip(' "') for caption in captions]  # in quotes it would be another caption
    lines = [f"{name},{caption}{',film' * third}\n" for name, caption in zip(NAMES, captions, strict=True)]
    found, faults = read(f"file_name,caption{',source' * third}\n{''.join(lines)}", "csv")
    assert found == whole(captions) or faults or found.keys() - set(NAMES)


@seed(1)
@settings(max_examples=100, deadline=None, database=None)
@given(CAPTIONS, st.booleans(), ENCODINGS)
def test_json_lines_come_back(captions: list[str], escaped: bool, encoding: str) -> None:
    told = [{"file_name": name, "caption": caption} for name, caption in zip(NAMES, captions, strict=True)]
    table = "\n".join(json.dumps(one, ensure_ascii=escaped) for one in told)
    assert read(table, "jsonl", encoding) == (whole(captions), [])


def test_names_of_samples() -> None:
    """Each video's texts in a tar; in a folder only those of its name."""
    videos, texts = ["a.mp4", "b.c.mp4", "b.d.mp4"], ["a.txt", "a.en.txt", "b.txt", "b.c.json", "b.e.txt", "A.txt"]
    assert pairs(texts, videos, samples=False) == {"a.mp4": ["a.txt"], "b.c.mp4": ["b.c.json"]}
    found = pairs(texts, videos, samples=True)
    assert found == {"a.mp4": ["a.txt", "a.en.txt"], "b.c.mp4": ["b.txt", "b.c.json"], "b.d.mp4": ["b.txt"]}


def test_nothing_told_is_nothing() -> None:
    assert agreed([]).caption == "" and agreed([]).source == ""


@pytest.mark.parametrize("source", ['"film"', "null", '""'])
def test_a_source_may_be_told_by_one_of_several_lines(source: str) -> None:
    lines = ['{"file_name": "a.mp4", "caption": "one", "source": ' + source + "}"]
    lines += ['{"file_name": "a.mp4", "caption": ""}']
    told = [row[1] for row in rows(io.BytesIO("\n".join(lines).encode()), "metadata.jsonl")]
    assert agreed(told)[:2] == ("one", "film" if "film" in source else "")
    other = told[0]._replace(source="another film", where="b")
    with pytest.raises(InputError, match="one source in metadata.jsonl, line 1, another in b"):
        agreed([told[0]._replace(source="film"), other])
