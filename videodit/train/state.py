"""What a run needs to go on exactly where it was: one safetensors file a checkpoint, written atomically and rotated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from videodit.checkpoint.store import load_tensors, save_tensors
from videodit.errors import InputError


class Checkpoints:
    """The checkpoints of one run, newest last; all but the last `keep` are deleted."""

    def __init__(self, *, folder: str | Path, keep: int) -> None:
        if not isinstance(keep, int) or keep < 1:
            raise InputError(f"keep={keep}: how many checkpoints are kept, at least 1")
        self.folder, self.keep = Path(folder), keep

    def files(self) -> list[Path]:
        """The checkpoint files, by step."""
        return sorted(self.folder.glob("step-*.safetensors"))

    def save(self, step: int, parts: dict[str, dict[str, Tensor]], info: dict[str, Any]) -> Path:
        """Write the state after `step` steps: named parts of named tensors, and JSON."""
        path = self.folder / f"step-{step:09d}.safetensors"
        flat = {f"{part}/{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}
        save_tensors(path, flat, {"step": step, **info})
        for old in self.files()[: -self.keep]:
            old.unlink()
        return path

    def latest(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
        """Parts and info of the newest checkpoint, or None. Raises InputError naming the file if it is unreadable."""
        if not self.files():
            return None
        try:
            flat, info = load_tensors(self.files()[-1])
        except InputError as error:
            raise InputError(f"{error}; delete it to go on from the checkpoint before") from error
        parts: dict[str, dict[str, Tensor]] = {}
        for key, tensor in flat.items():
            part, _, name = key.partition("/")
            parts.setdefault(part, {})[name] = tensor
        return parts, info
