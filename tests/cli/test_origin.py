"""What a run was made with: git's state where there is a checkout, and nothing lost where there is none."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from tests.train.runs import alone
from videodit import provenance
from videodit.train import folder


def _git(where: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *who, *arguments], cwd=where, check=True, capture_output=True, text=True).stdout


@pytest.mark.skipif(not shutil.which("git"), reason="there is no git")
def test_a_checkout_has_a_commit_and_is_dirty_when_changed(tmp_path: Path) -> None:
    _git(tmp_path, "init", "-q")
    assert provenance.git_state(tmp_path) is None  # no commit yet
    (tmp_path / "a.py").write_text("1")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-qm", "first")
    commit = _git(tmp_path, "rev-parse", "HEAD").strip()
    (tmp_path / "not tracked").write_text("")
    assert provenance.git_state(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "a.py").write_text("2")
    assert provenance.git_state(tmp_path) == {"commit": commit, "dirty": True}
    (tmp_path / "site-packages").mkdir()
    assert provenance.git_state(tmp_path / "site-packages") is None  # in a checkout, but not of it


def test_no_git_is_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").write_text("gitdir: nowhere\n")
    assert provenance.git_state(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.git_state(tmp_path) is None
    assert provenance.versions()["torch"] == torch.__version__


def test_the_origin_is_kept_and_is_no_change_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another commit is told nowhere as another training, and does not change the stamp."""
    stamps = []
    for commit in ("abc", "def"):
        monkeypatch.setattr(folder, "origin", lambda commit=commit: {"git": {"commit": commit}, "versions": {}})
        config = folder.settle({"precision": "fp32", "seed": 1}, tmp_path, alone(), resuming=True)
        assert config["origin"]["git"]["commit"] == commit
        stamps.append(folder.stamp(config))
    assert stamps[0] == stamps[1] and capsys.readouterr().err == ""
