"""A set that an earlier version began: what is done is not done again, and the set is the one that it would be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.ingest.commands import here, rows
from tests.ingest.work import Here
from tests.structure.source import ROOT
from videodit.moved import MOVED

BEGUN, BEFORE = ROOT / "tests" / "fixtures" / "ingest", ROOT / "tests" / "fixtures" / "before"
KEYS = ["vae=vae.safetensors", "encode.bundle=1", "report=false", "heldout_share=0.3", "cutter.ratio=4",
        "measure.edge=64", "shape.fps=8", "shape.areas=[1024]", "shape.frames=5", "select.seconds=[0,null]",
        "+select.hue=null", "duplicates.share=1"]  # fmt: skip

SCANNED = {"Scan": 2}  # copies of files are other files, until their bytes are seen


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as 728da27 left it."""
    shutil.copytree(BEFORE / "clips", tmp_path / "clips")
    shutil.copy(BEFORE / "vae.safetensors", tmp_path)
    shutil.copytree(BEGUN / "cache", tmp_path / "set" / "cache")
    shutil.copytree(BEGUN / "journal", tmp_path / "set" / ".ingest")
    monkeypatch.chdir(tmp_path)
    Here.calls.clear()
    return tmp_path


def test_what_was_done_is_not_done_again(place: Path) -> None:
    """Settings are written as they were, numbers too: 8 frames a second are not 8.0 in the name of a clip."""
    assert here(Path("clips"), Path("set"), *KEYS) == 0
    assert Here.calls == SCANNED | {"Encode": 1}
    expected = json.loads((BEGUN / "expected.json").read_text())
    expected["set"]["embedder"]["_target_"] = MOVED[expected["set"]["embedder"]["_target_"]]
    about = json.dumps({"sources": str(place / "clips"), **expected["set"]}, indent=2)
    assert (place / "set" / "set.json").read_text() == f"{about}\n"
    names = expected["rows"][0].keys()
    assert [{name: row[name] for name in names} for row in rows(place / "set")] == expected["rows"]


@pytest.mark.parametrize(("key", "again"), [("cutter.ratio=3", "Cut"), ("measure.edge=32", "Measure")])
def test_what_depends_on_another_setting_is(place: Path, key: str, again: str) -> None:
    assert here(Path("clips"), Path("set"), *KEYS, key) == 0
    assert Here.calls == SCANNED | {again: 2, "Encode": 1}
