"""What a run was made with: versions, and the git state of the checkout that its code came from."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import videodit

LIBRARIES = ("torch", "transformers", "diffusers", "av", "decord", "xformers", "hydra-core", "safetensors", "numpy")
PATIENCE = 5.0  # seconds for git, which may have a network disk to read


def origin() -> dict[str, Any]:
    """{"git": {"commit": …, "dirty": …} or None, "versions": {…}} of this process."""
    return {"git": git_state(Path(videodit.__file__).resolve().parent.parent), "versions": versions()}


def versions() -> dict[str, str]:
    """Of this package, of Python, and of every one of LIBRARIES, "not installed" where it is not."""
    return {"videodit": videodit.__version__, "python": platform.python_version()} | {
        name: _version(name) for name in LIBRARIES
    }


def git_state(checkout: Path) -> dict[str, Any] | None:
    """Commit of a checkout, and whether tracked files differ from it. None where there is no checkout or no git.

    A folder somewhere inside another project's checkout, such as its virtual environment, is none.
    """
    if not (checkout / ".git").exists():
        return None
    commit = _git(checkout, "rev-parse", "HEAD")
    changed = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit.strip(), "dirty": None if changed is None else bool(changed)} if commit else None


def _git(checkout: Path, *arguments: str) -> str | None:
    command = ["git", "--no-optional-locks", "-C", str(checkout), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=PATIENCE, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"
