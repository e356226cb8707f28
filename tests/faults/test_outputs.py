"""What cannot be written in the end is told in the beginning, in a line, and nothing is begun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import videodit
from tests.ingest.commands import humble
from tests.tiny import CAPTIONS, tiny_pipeline
from videodit.atomic import atomic, check_output
from videodit.cli.main import main
from videodit.errors import InputError

LONG = "x" * 300


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("outputs") / "model")


def commands(model: Path, out: str) -> dict[str, list[str]]:
    """Each command that writes what it is told to, on its way to `out` (without an ending)."""
    return {
        "generate": ["generate", CAPTIONS[0], f"model={model}", f"out={out}.mp4", "steps=1", "frames=1", "size=32x32"],
        "sheet": ["generate", CAPTIONS[0], f"model={model}", f"sheet={out}.png", "steps=1", "frames=1", "size=32x32"],
        "evaluate": ["evaluate", f"model={model}", f"out={out}"],
        "export": ["export", f"model={model}", f"out={out}"],
        "doctor": ["doctor", f"out={out}.html"],
        "ingest": ["ingest", ".", f"out={out}"],
        "train": ["train", f"run_dir={out}"],
    }


@pytest.mark.parametrize("place", ["file/o", f"{LONG}", f"a/{LONG}/o", "/proc/none/o"], ids=lambda one: one[:12])
@pytest.mark.parametrize("name", commands(Path(), ""))
def test_what_cannot_be_written_is_one_line(
    name: str, place: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    assert main(commands(model, place)[name]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and errors[0].startswith("videodit: error: "), errors
    assert [path.name for path in tmp_path.rglob("*") if path.name != "a"] == ["file"], "nothing was begun"


def test_a_folder_without_rights(model: Path, tmp_path: Path) -> None:
    """Also for root, made humble."""
    (tmp_path / "locked").mkdir(mode=0o555)
    words = commands(model, str(tmp_path / "locked" / "o"))["generate"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "VIDEODIT_CACHE": str(tmp_path / "c")}
    ended = subprocess.run([sys.executable, "-m", "videodit", *words], env=environment, text=True, capture_output=True,
                           preexec_fn=_without_rights)  # fmt: skip
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1, ended.stderr
    assert "cannot be written: Permission denied" in ended.stderr


def _without_rights() -> None:
    humble()
    if os.geteuid() == 0:  # what writes where nobody may
        import ctypes

        ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)


@pytest.mark.parametrize("name", ["日" * 75, "é" * 110, "x" * 220, "🎬" * 55])
def test_names_as_long_as_a_system_takes(name: str, tmp_path: Path) -> None:
    """A system counts bytes, and the names that are written beside are longer."""
    path = tmp_path / f"{name}.mp4"
    check_output(path)
    with atomic(path) as temporary:
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    path.with_suffix(".latents.safetensors").write_text("beside it")


@pytest.mark.parametrize("name", ["日" * 80, "x" * 240])
def test_longer_names_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the name takes \d+ bytes; at most 235 can be written"):
        check_output(tmp_path / f"{name}.mp4")
    assert not list(tmp_path.iterdir())


def test_a_name_that_only_a_record_is_too_long_for(model: Path, tmp_path: Path) -> None:
    """Of a video that Python saves: no half of the two is written."""
    video = videodit.load(model, device="cpu")("a red ball", size="32x32", frames=5, steps=1)
    with pytest.raises(InputError, match=r"\.mp4\.json: cannot be written: File name too long"):
        video.save(tmp_path / f"{'x' * 249}.mp4")
    assert not list(tmp_path.iterdir())
    video.save(tmp_path / f"{'x' * 246}.mp4")
    assert len(list(tmp_path.iterdir())) == 2
