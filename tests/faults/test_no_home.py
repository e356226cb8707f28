"""A cache that cannot be written is said once and done without: the work goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny import CAPTIONS, tiny_pipeline
from videodit import config
from videodit.cli.main import main

UNKNOWN = """import os, pwd, sys
def getpwuid(number): raise KeyError(number)  # as for `docker run --user 12345`
pwd.getpwuid = getpwuid
for name in ("HOME", "XDG_CACHE_HOME", "VIDEODIT_CACHE"): os.environ.pop(name, 0)
from videodit.cli.main import main
sys.exit(main(sys.argv[1:]))"""


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    config._writable.cache_clear()
    yield
    config._writable.cache_clear()


@pytest.mark.parametrize("place", ["/proc/none", "file", "file/below"])
@pytest.mark.parametrize("name", ["VIDEODIT_CACHE", "XDG_CACHE_HOME", "HOME"])
def test_it_is_said_once_and_another_folder_serves(
    name: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for one in ("VIDEODIT_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(one, raising=False)
    monkeypatch.setenv(name, place if place.startswith("/") else str(tmp_path / place))
    folders = {config.cache_dir() for _ in range(3)}
    said = capsys.readouterr().err.splitlines()
    assert len(folders) == 1 and len(said) == 1
    assert said[0].startswith("no cache: ") and "VIDEODIT_CACHE= names another folder" in said[0]
    (folders.pop() / "x").write_text("it can be written")


def test_what_can_be_written_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("VIDEODIT_CACHE", str(tmp_path / "a" / "b"))
    assert config.cache_dir() == tmp_path / "a" / "b" and (tmp_path / "a" / "b").is_dir()
    assert not list((tmp_path / "a" / "b").iterdir()) and capsys.readouterr().err == ""


def test_a_model_that_comes_in_parts_needs_no_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """offload=model keeps prompts' states in the cache; on a file system that is read-only there is none."""
    monkeypatch.setenv("VIDEODIT_CACHE", "/proc/none")
    model = tiny_pipeline(tmp_path / "m")
    words = [CAPTIONS[0], f"model={model}", f"out={tmp_path / 'o.mp4'}", "size=32x32", "frames=1", "steps=1"]
    assert main(["generate", *words, "offload=model"]) == 0
    assert capsys.readouterr().err.count("no cache: ") == 1 and (tmp_path / "o.mp4").is_file()


def test_a_user_whom_the_system_does_not_know(tmp_path: Path) -> None:
    model = tiny_pipeline(tmp_path / "m")
    words = [CAPTIONS[0], f"model={model}", "out=o.mp4", "size=32x32", "frames=1", "steps=1", "offload=model"]
    command, here = [sys.executable, "-c", UNKNOWN, "generate", *words], {"PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, env={**os.environ, **here})
    assert ended.returncode == 0 and "there is no home folder" in ended.stderr, ended.stderr
