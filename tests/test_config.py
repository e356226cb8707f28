"""YAML files that ship: read once, and anew when they change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from videodit.config import read_yaml
from videodit.errors import InputError


def test_what_is_read_is_the_callers_own_and_as_new_as_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("part: {size: 1}\n")
    read_yaml(path)["part"]["size"] = 2
    assert read_yaml(path) == {"part": {"size": 1}}
    path.write_text("part: {size: 3}\n")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))  # however coarse the file system's clock is
    assert read_yaml(path) == {"part": {"size": 3}}


@pytest.mark.parametrize("content", [None, "a: [", "- 1\n"], ids=["missing", "broken", "a list"])
def test_what_cannot_be_read_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "a.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=r"a\.yaml: "):
        read_yaml(path)
