"""What a run needs to go on exactly where it was: a folder a checkpoint, written by all processes, rotated.

    checkpoints/step-000000500/shard-00001-….safetensors    a file a process, torch's distributed checkpoint
                               state.json                   step, clips seen, versions, what the run is

Every process writes what it holds; a run of another number of processes reads what it needs of it. A checkpoint is
written under another name and renamed when all of it is on disk, by a thread, while training goes on.
"""

from __future__ import annotations

import copy
import os
import shutil
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from annotated_types import Ge, Le, Len
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.tensor import DTensor
from typing_extensions import TypedDict

from videodit.checkpoint.store import write_json
from videodit.errors import InputError
from videodit.parallel.mesh import Mesh
from videodit.signals import later
from videodit.untrusted import read_json

STATE = "state.json"
Parts = Mapping[str, Mapping[str, Tensor]]
Count = Annotated[int, Ge(0)]


class State(TypedDict):
    """A checkpoint's state.json: how far the run was, what it saw, and the sums of the record that it was in."""

    __pydantic_config__ = {"extra": "allow"}  # type: ignore[misc]
    step: Annotated[int, Ge(0), Le(2**53)]
    bad: NotRequired[Count]
    bad_total: NotRequired[Count]
    skipped: NotRequired[dict[str, Count]]
    seen: NotRequired[dict[str, float]]
    interval: NotRequired[dict[str, Annotated[list[float], Len(2, 2)]]]


@dataclass(frozen=True)
class Saved:
    """A checkpoint on disk: its JSON, and the shapes of its tensors by part and name."""

    folder: Path
    info: dict[str, Any]
    shapes: dict[str, dict[str, tuple[int, ...]]]

    def load(self, parts: Parts) -> None:
        """Fill these tensors, which may be sharded in another way than they were. InputError if one is not there."""
        flat = _flat(parts)
        known = _flat(self.shapes)
        if missing := sorted(name for name, value in flat.items() if known.get(name) != tuple(value.shape)):
            raise InputError(f"{self.folder}: has no {missing[0]} of that shape")
        with later():  # torch makes an error of its own of whatever is raised in it
            dcp.load(flat, storage_reader=HuggingFaceStorageReader(str(self.folder)), no_dist=not dist.is_initialized())


class Checkpoints:
    """The checkpoints of one run, newest last; all but the last `keep` are deleted. `stamp`: JSON for each of them.

    The one before the newest always stays: whether the newest is sound shows only in what comes of it.
    """

    def __init__(self, *, folder: str | Path, keep: int, mesh: Mesh, stamp: Mapping[str, Any] | None = None) -> None:
        if not isinstance(keep, int) or keep < 1:
            raise InputError(f"keep={keep}: how many checkpoints are kept, at least 1")
        self.folder, self.keep, self.mesh, self.stamp = Path(folder), keep, mesh, stamp or {}
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process is no mistake
        # A thread's GPU is the first until it is told, and torch's writer waits for that of its thread.
        cuda = mesh.device.type == "cuda"
        own = {"initializer": torch.cuda.set_device, "initargs": (mesh.device.index or 0,)} if cuda else {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint", **own)
        self._pending: Future | None = None
        self._group = dist.new_group(backend="gloo") if mesh.ranks > 1 else None  # the thread's own

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()

    def folders(self) -> list[Path]:
        """The checkpoints that are complete, by step."""
        return sorted(path.parent for path in self.folder.glob(f"step-*/{STATE}"))

    def tidy(self) -> None:
        """Delete what a killed process left half-written, half-deleted or not yet deleted."""
        for left in self.folder.glob(".step-*"):
            shutil.rmtree(left)
        _rotate(self.folder, self.keep)

    def drop_after(self, step: int) -> None:
        """Delete those of later steps."""
        for folder in self.folders():
            if int(folder.name.partition("-")[2]) > step:
                _remove(folder)

    def save(self, step: int, parts: Parts, info: Mapping[str, Any]) -> None:
        """Write the state after `step` steps: named parts of named tensors, and JSON. Copies them and returns."""
        self.wait()
        path = self.folder / f"step-{step:09d}"
        unfinished = path.with_name(f".{path.name}.part")
        if self.mesh.main:
            self.tidy()
            unfinished.mkdir(parents=True)
        self.mesh.wait()
        copies = {name: _copy(value) for name, value in _flat(parts).items()}
        writer = _Writer(unfinished, path, copy.deepcopy({"step": step, **info, **self.stamp}), self.keep)
        self._pending = self._thread.submit(self._write, copies, writer)

    def wait(self) -> None:
        """Until what was to be saved is on disk. Raises InputError if it could not be written."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def latest(self) -> Saved | None:
        """The newest checkpoint, or None. Raises InputError naming the file if it is unreadable."""
        if not self.folders():
            return None
        folder = self.folders()[-1]
        try:
            info = read_json(folder / STATE, State)
            metadata = HuggingFaceStorageReader(str(folder)).read_metadata()
        except (InputError, OSError, SafetensorError, ValueError) as error:
            raise InputError(f"{folder}: unreadable ({error}); delete it to go on from the one before") from error
        shapes: dict[str, dict[str, tuple[int, ...]]] = {}
        for key, entry in metadata.state_dict_metadata.items():
            part, _, name = key.partition("/")
            shapes.setdefault(part, {})[name] = tuple(entry.size)
        return Saved(folder, info, shapes)

    def _write(self, copies: dict[str, Tensor], writer: _Writer) -> None:
        try:
            dcp.save(copies, storage_writer=writer, process_group=self._group, no_dist=self._group is None)
        except (Exception, CheckpointException) as error:  # the latter, which wraps what a rank raised, is no Exception
            reason = str(error).strip().splitlines()[-1]
            raise InputError(f"cannot write {writer.target}: {reason}; the checkpoint before is sound") from error


class _Writer(HuggingFaceStorageWriter):
    """Torch's writer of safetensors, which at the end, on one process, gives the folder its name."""

    def __init__(self, folder: Path, target: Path, info: dict[str, Any], keep: int) -> None:
        super().__init__(str(folder), save_distributed=True)
        self.folder, self.target, self.info, self.kept = folder, target, info, keep

    def finish(self, metadata: Any, results: Any) -> None:
        write_json(self.folder / STATE, self.info)
        if self.target.exists():
            _remove(self.target)
        self.folder.rename(self.target)
        _sync(self.target.parent)
        _rotate(self.target.parent, self.kept)


def _remove(folder: Path) -> None:
    """Delete a checkpoint so that no half of it ever looks like one."""
    gone = folder.with_name(f".{folder.name}.old")
    folder.rename(gone)
    shutil.rmtree(gone)


def _rotate(folder: Path, keep: int) -> None:
    """Delete all but the newest checkpoints, of which two stay at least."""
    for old in sorted(path.parent for path in folder.glob(f"step-*/{STATE}"))[: -max(keep, 2)]:
        _remove(old)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flat(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}


def _copy(value: Tensor) -> Tensor:
    if isinstance(value, DTensor):
        return DTensor(value.to_local().detach().to("cpu", copy=True), value._spec, requires_grad=False)
    return value.detach().to("cpu", copy=True)
