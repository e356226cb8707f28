"""Where the shipped files lie, in a wheel or in a checkout, and how to read one YAML of them.

A leaf, so that anything which needs a shipped file may ask it; and the one module that touches the environment.
"""

from __future__ import annotations

import atexit
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from videodit.errors import InputError
from videodit.printable import warn


class Launch(NamedTuple):
    """This process among those of a launcher, and where they meet."""

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0
    address: str = "127.0.0.1"
    port: int = 29500


LAUNCHERS = (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"))


def launch() -> Launch:
    """What torchrun or Slurm's srun says of this process; one process alone where neither started it."""
    for names in LAUNCHERS:
        if all(name in os.environ for name in names):
            rank, ranks, local = (int(os.environ[name]) for name in names)
            return Launch(rank, ranks, local, *_meeting())
    return Launch()


def _meeting() -> tuple[str, int]:
    """MASTER_ADDR and MASTER_PORT; else the first node of Slurm's step (`a[01-04,7],b`), a port by its job."""
    nodes, job = os.environ.get("SLURM_STEP_NODELIST", ""), os.environ.get("SLURM_JOB_ID", "")
    first = re.sub(r"\[([^],-]+)[^]]*\]", r"\1", nodes).split(",")[0] or Launch().address
    own = 20000 + int(job) % 10000 if job.isdigit() else Launch().port
    return os.environ.get("MASTER_ADDR", first), int(os.environ.get("MASTER_PORT", own))


SHARED = ("VIDEODIT_", "XDG_CACHE_HOME", "HF_")


def conf_dir() -> Path:
    """The hydra tree: the copy inside the wheel, else the checkout's `conf/`; InputError if there is neither."""
    return _shipped("conf", "conf")


def assets_dir() -> Path:
    """The bundled weights and curves: the copy inside the wheel, else the checkout's `data/`; else InputError."""
    return _shipped("assets", "data")


def cache_dir() -> Path:
    """Where what was computed once is kept for this user: VIDEODIT_CACHE, else the usual place for caches.

    Where that cannot be written, a line says so, and it is a folder that goes with this process.
    """
    own, above = os.environ.get("VIDEODIT_CACHE"), os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return _writable(own or os.path.join(above, "videodit"))


@cache
def _writable(folder: str) -> Path:
    try:
        if folder.startswith("~"):  # as it stays where there is no HOME, and the system does not know the user
            raise FileNotFoundError(errno.ENOENT, "there is no home folder")
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return Path(folder)
    except OSError as error:
        warn(
            __name__,
            f"no cache: {folder} cannot be written ({error.strerror}); VIDEODIT_CACHE= names another folder for it",
        )
    own = Path(tempfile.mkdtemp(prefix="videodit-cache-"))
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    return own


def secret(name: str) -> str:
    """The value of an environment variable that holds a key; InputError, naming it, if it is not set."""
    if value := os.environ.get(name, "").strip():
        return value
    raise InputError(f"{name}: this environment variable should hold a key, and is not set")


def ray_environment(*, alone: bool) -> None:
    """How Ray behaves in this process; before it is imported. alone: a cluster made here is this machine's only."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else it writes to the terminal
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if alone:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # on Linux too: 127.0.0.1 is all that it listens at


def shared_environment() -> dict[str, str]:
    """What the work of this process goes by wherever it is done: caches, and how the hub is reached."""
    return {name: value for name, value in os.environ.items() if name.startswith(SHARED)}


def share_environment(variables: Mapping[str, str]) -> None:
    """Take over another process's `shared_environment`."""
    os.environ.update(variables)


def read_yaml(path: Path) -> dict[str, Any]:
    """One YAML file as plain Python, interpolations resolved; InputError names the file if it cannot be read."""
    try:
        return deepcopy(_read_yaml(path, path.stat().st_mtime_ns))
    except OSError as error:
        raise InputError(f"{path}: not a readable YAML file ({error})") from None


@cache
def _read_yaml(path: Path, changed: int) -> dict[str, Any]:
    """Kept as long as the file is as it was: opening public weights asks for all of conf/pretrained, several times."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise InputError(f"{path}: not a readable YAML file ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected keys and values")
    return {str(key): value for key, value in content.items()}


def raise_hydra_errors() -> None:
    """Have hydra's launcher raise its errors, which the command line words itself, instead of printing and exiting."""
    os.environ["HYDRA_FULL_ERROR"] = "1"


def _shipped(packaged: str, in_checkout: str) -> Path:
    package = Path(__file__).resolve().parent
    if (package / packaged).is_dir():
        return package / packaged
    checkout = package.parent
    if (checkout / "setup.cfg").is_file() and (checkout / in_checkout).is_dir():
        return checkout / in_checkout
    raise InputError(f"videodit's own {in_checkout}/ is missing beside {package}: install the package again")
