"""Checkpoints: rotated, whole or not there, and a damaged one is named."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from tests.train.runs import alone
from videodit.errors import InputError
from videodit.parallel import store
from videodit.parallel.store import Checkpoints, Saved

CHECKPOINTS = partial(Checkpoints, keep=2)
Parts = dict[str, dict[str, Tensor]]


def _parts(value: float) -> Parts:
    half = torch.full((4,), value, dtype=torch.float16)
    return {
        "model": {"a/b.weight": torch.full((2, 3), value), "n": torch.tensor(7), "half": half},
        "optim": {"a/b.weight:exp_avg": torch.full((2, 3), -value)},
    }


def _saved(checkpoints: Checkpoints, step: int, info: dict[str, Any] | None = None) -> None:
    checkpoints.save(step, _parts(step), info or {})
    checkpoints.wait()


def _loaded(saved: Saved | None) -> Parts:
    assert saved is not None
    parts = {part: {name: torch.zeros_like(value) for name, value in values.items()}
             for part, values in _parts(0).items()}  # fmt: skip
    saved.load(parts)
    return parts


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    checkpoints = CHECKPOINTS(folder=tmp_path, mesh=alone(), stamp={"config": "abc"})
    assert checkpoints.latest() is None
    _saved(checkpoints, 3, {"seen": {"clips": 2.0}})
    saved = CHECKPOINTS(folder=tmp_path, mesh=alone()).latest()
    assert saved.info == {"step": 3, "seen": {"clips": 2.0}, "config": "abc"}
    assert saved.shapes["model"] == {"a/b.weight": (2, 3), "n": (), "half": (4,)}
    for part, tensors in _loaded(saved).items():
        assert all(torch.equal(value, _parts(3)[part][name]) for name, value in tensors.items())


def test_it_is_safetensors_and_json_and_nothing_else(tmp_path: Path) -> None:
    """No pickle: torch's default would leave its metadata as one."""
    checkpoints = CHECKPOINTS(folder=tmp_path, mesh=alone())
    _saved(checkpoints, 1)
    files = {path.suffix: path for path in checkpoints.folders()[0].iterdir()}
    assert files.keys() == {".safetensors", ".json"}
    with safe_open(files[".safetensors"], framework="pt") as file:
        assert set(file.keys()) == {"model/a/b.weight", "model/n", "model/half", "optim/a/b.weight:exp_avg"}


def test_what_is_saved_is_the_state_of_the_moment(tmp_path: Path) -> None:
    """Training goes on, in the same tensors, while it is written."""
    checkpoints, parts = CHECKPOINTS(folder=tmp_path, mesh=alone()), _parts(1)
    checkpoints.save(1, parts, {})
    for values in parts.values():
        for value in values.values():
            value.fill_(9)
    checkpoints.wait()
    assert torch.equal(_loaded(checkpoints.latest())["model"]["a/b.weight"], torch.full((2, 3), 1.0))


def test_the_newest_are_kept(tmp_path: Path) -> None:
    """By step, also past the step where text would sort otherwise. Saving a step again takes its place."""
    checkpoints = CHECKPOINTS(folder=tmp_path, mesh=alone())
    for step in (8, 9, 10, 100, 100):
        _saved(checkpoints, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000010", "step-000000100"]
    assert checkpoints.latest().info["step"] == 100


def test_a_write_that_fails_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told when the next one is due, or at the end."""
    checkpoints = CHECKPOINTS(folder=tmp_path, mesh=alone())
    _saved(checkpoints, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_json", full)
        checkpoints.save(2, _parts(2), {})
        with pytest.raises(InputError, match="step-000000002.*No space left") as error:
            checkpoints.wait()
    assert "\n" not in str(error.value)
    assert checkpoints.latest().info["step"] == 1
    _saved(checkpoints, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000001", "step-000000002"]


def test_what_a_kill_leaves_behind_is_no_checkpoint(tmp_path: Path) -> None:
    """In the middle of a write, or of the deletion of an old one: the next write clears it away."""
    checkpoints = CHECKPOINTS(folder=tmp_path, mesh=alone())
    _saved(checkpoints, 1)
    for left in (".step-000000002.part", ".step-000000000.old"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"half")
    assert checkpoints.latest().info["step"] == 1
    _saved(checkpoints, 2)
    assert len(list(tmp_path.iterdir())) == 2 and checkpoints.latest().info["step"] == 2


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "json"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, damage: str) -> None:
    """In one line that says how to go on; it is not passed over in silence."""
    checkpoints = CHECKPOINTS(folder=tmp_path, mesh=alone())
    _saved(checkpoints, 1)
    _saved(checkpoints, 2)
    newest = checkpoints.folders()[-1]
    file = newest / "state.json" if damage == "json" else next(newest.glob("*.safetensors"))
    content = file.read_bytes()
    file.write_bytes({"empty": b"", "garbage": b"\xff" * len(content)}.get(damage, content[:-9]))
    with pytest.raises(InputError, match="step-000000002.*delete it to go on from the one before") as error:
        checkpoints.latest()
    assert "\n" not in str(error.value)
    for path in newest.iterdir():
        path.unlink()
    assert checkpoints.latest().info["step"] == 1


def test_a_checkpoint_without_what_is_asked_for_says_so(tmp_path: Path) -> None:
    checkpoints = CHECKPOINTS(folder=tmp_path, mesh=alone())
    _saved(checkpoints, 1)
    for wanted in ({"a/b.weight": torch.zeros(3, 2)}, {"other": torch.zeros(2)}):
        with pytest.raises(InputError, match=f"step-000000001: has no model/{next(iter(wanted))}"):
            checkpoints.latest().load({"model": wanted})


def test_no_checkpoint_to_keep_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="keep=0"):
        Checkpoints(folder=tmp_path, keep=0, mesh=alone())
