"""Checkpoints: rotated, whole or not there, and a damaged one is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from videodit.checkpoint import store
from videodit.errors import InputError
from videodit.train.state import Checkpoints


def _parts(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {
        "model": {"a/b.weight": torch.full((2, 3), value), "n": torch.tensor(7)},
        "optim": {"a/b.weight:exp_avg": torch.full((2, 3), -value)},
    }


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    checkpoints = Checkpoints(folder=tmp_path, keep=2)
    assert checkpoints.latest() is None
    checkpoints.save(3, _parts(1.5), {"seen": {"clips": 2.0}})
    parts, info = Checkpoints(folder=tmp_path, keep=2).latest()
    assert info == {"step": 3, "seen": {"clips": 2.0}}
    for part, tensors in _parts(1.5).items():
        assert parts[part].keys() == tensors.keys()
        assert all(torch.equal(parts[part][name], value) for name, value in tensors.items())


def test_the_newest_are_kept(tmp_path: Path) -> None:
    """By step, also past the step where text would sort otherwise."""
    checkpoints = Checkpoints(folder=tmp_path, keep=2)
    for step in (8, 9, 10, 100):
        checkpoints.save(step, _parts(step), {})
    assert [path.name for path in checkpoints.files()] == ["step-000000010.safetensors", "step-000000100.safetensors"]
    assert checkpoints.latest()[1]["step"] == 100


def test_a_write_that_fails_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(folder=tmp_path, keep=1)
    checkpoints.save(1, _parts(1.0), {})

    def full(tensors: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "save_file", full)
    with pytest.raises(InputError, match="step-000000002"):
        checkpoints.save(2, _parts(2.0), {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001.safetensors"]
    assert torch.equal(checkpoints.latest()[0]["model"]["a/b.weight"], torch.full((2, 3), 1.0))


def test_what_a_kill_leaves_behind_is_no_checkpoint(tmp_path: Path) -> None:
    """A kill -9 in the middle of a write leaves its temporary file; the next write of that step takes its place."""
    checkpoints = Checkpoints(folder=tmp_path, keep=2)
    checkpoints.save(1, _parts(1.0), {})
    (tmp_path / ".step-000000002.safetensors.part").write_bytes(b"half")
    assert checkpoints.latest()[1]["step"] == 1
    checkpoints.save(2, _parts(2.0), {})
    assert len(list(tmp_path.iterdir())) == 2 and checkpoints.latest()[1]["step"] == 2


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, damage: str) -> None:
    """In one line that says how to go on; it is not passed over in silence."""
    checkpoints = Checkpoints(folder=tmp_path, keep=2)
    checkpoints.save(1, _parts(1.0), {})
    newest = checkpoints.save(2, _parts(2.0), {})
    content = newest.read_bytes()
    newest.write_bytes({"truncated": content[:-9], "empty": b"", "garbage": b"\xff" * len(content)}[damage])
    with pytest.raises(InputError, match="step-000000002.safetensors.*delete it to go on from the checkpoint") as error:
        checkpoints.latest()
    assert "\n" not in str(error.value)
    newest.unlink()
    assert checkpoints.latest()[1]["step"] == 1


def test_no_checkpoint_to_keep_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="keep=0"):
        Checkpoints(folder=tmp_path, keep=0)
