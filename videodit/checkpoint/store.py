"""Weights on disk: safetensors, whose header says in JSON which architecture they are and with which arguments.

Every write is atomic (`videodit.atomic`), so a reader never sees half a file.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from videodit.atomic import atomic, scratch_folder, tidy
from videodit.errors import InputError
from videodit.untrusted import opened, parse_json

HEADER = "videodit"  # the key of our JSON in a safetensors header, whose values are strings


def is_held(lock: Path) -> bool:
    """Whether a process holds this lock file; it is left as it is."""
    try:
        with lock.open("rb+", buffering=0) as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go where the file is closed
    except FileNotFoundError:
        return False
    except OSError:  # held, or not ours to look at
        return True
    return False


@contextmanager
def sole(lock: Path, told: str) -> Iterator[None]:
    """Be the only process that holds a lock file while the `with` block lasts; it is gone afterwards.

    InputError, which begins with `told`, where another one holds it. The lock is the system's: it ends with the
    process, however that ends, and the process's children do not have it.
    """
    while True:
        try:
            file = lock.open("ab+", buffering=0)
        except OSError as error:
            raise InputError(f"{told}: cannot be written: {error.strerror or error}") from None
        with file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                file.seek(0)
                who = file.read().decode(errors="replace") or "not known which"
                raise InputError(f"{told}: another run is at it ({who})") from None
            if not os.fstat(file.fileno()).st_nlink:
                continue  # its last holder removed it before it was ours
            with suppress(OSError):  # a full disk
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def save_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and a JSON header to one safetensors file, atomically. Raises InputError when the disk is full."""
    _save(path, tensors, {HEADER: json.dumps(header)})


def save_untagged(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """The same in another library's layout: a config beside the file says what it is."""
    _save(path, tensors, {"format": "pt"})


def _save(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with atomic(path) as temporary:
            temporary.touch()
            mode = temporary.stat().st_mode
            # The library writes under a name of its own beside its target: a kill would leave that file for ever.
            with scratch_folder(path) as folder:
                save_file(cpu, file := folder / path.name, metadata)
                file.chmod(mode)  # the library would keep it for its owner
                file.replace(temporary)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot write {path}: {error}; nothing was left behind") from error


def load_tensors(path: Path, *, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (memory-mapped on a CPU) and the JSON header of a file written by `save_tensors`.

    Raises InputError naming the file when it is missing, truncated or not ours.
    """
    try:
        os.close(opened(path))  # a plain file, and no FIFO, which would be waited for
        with safe_open(path, framework="pt", device=device) as file:
            header = spec_of((file.metadata() or {}).get(HEADER), path)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError, RuntimeError) as error:  # torch has no room for some odd types
        raise InputError(f"{path} is not a readable safetensors file ({error}); it may be truncated") from None
    return tensors, header


def spec_of(header: str | None, path: Path) -> dict[str, Any]:
    """The JSON object in a file's header: of a network its architecture and arguments."""
    told = f"{path} has no videodit header; `videodit export` writes one that has"
    return parse_json(header or "null", told, dict[str, Any])


def save_model(
    path: Path, module: nn.Module, *, state: Mapping[str, Tensor] | None = None, step: int | None = None
) -> None:
    """Write a module made by `models.build.build`, or other values of its parameters (such as an EMA).

    step: of the training that they are of, for the header. A file that holds the same and names no step stays as it
    is, since others may know it by its fingerprint: older versions wrote none.
    """
    tidy(path.parent)
    state = module.state_dict() if state is None else state
    if step is None or not _holds(path, state, module.spec):
        save_tensors(path, state, module.spec if step is None else {**module.spec, "step": step})


def _holds(path: Path, state: Mapping[str, Tensor], header: Mapping[str, Any]) -> bool:
    """Whether a file has just these tensors and this header."""
    if not path.exists():
        return False
    try:
        held, found = load_tensors(path)
    except InputError:
        return False
    same = found == header and held.keys() == state.keys()
    return same and all(torch.equal(held[name], tensor.detach().cpu()) for name, tensor in state.items())


def give(module: nn.Module, tensors: Mapping[str, Tensor], *, source: Path, dtype: torch.dtype | None = None) -> None:
    """Make `tensors` the parameters and buffers of a module on the meta device, strictly."""
    wanted = module.state_dict()
    missing, unexpected = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or unexpected:
        raise InputError(f"{source}: missing tensors {missing[:5]}, unexpected tensors {unexpected[:5]}")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise InputError(f"{source}: {name} is {tuple(tensor.shape)}, expected {tuple(wanted[name].shape)}")
    cast = {name: t.to(dtype) if dtype is not None and t.is_floating_point() else t for name, t in tensors.items()}
    module.load_state_dict(cast, strict=True, assign=True)
