"""The composite keeps a run alive, and no tracker costs an import until it is started."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import videodit
from videodit.errors import InputError
from videodit.track.jsonl import Jsonl, records
from videodit.track.tracker import Composite, Tracker, plain


class Failing(Tracker):
    """Raises `error` whenever it is given a number or finished."""

    def __init__(self, error: Exception) -> None:
        self.error, self.calls, self.finished = error, 0, 0

    def scalars(self, step, values):
        self.calls += 1
        raise self.error

    def finish(self, failed=False):
        self.finished += 1
        raise self.error


def test_the_null_tracker_takes_everything() -> None:
    with Tracker() as tracker:
        tracker.start({}, 0)
        tracker.scalars(1, {"loss": 1.0})
        tracker.image(1, "a", "a.png")
        tracker.video(1, "b", "b.mp4", "a red ball", "b.png")
        tracker.table(1, "c", ["x"], [[1]])


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("two\nlines"), KeyError("x")])
def test_a_broken_tracker_is_reported_once_and_the_others_go_on(error, tmp_path, capsys) -> None:
    broken = Failing(error)
    with Composite(trackers=[broken, Jsonl(path=tmp_path / "metrics.jsonl")]) as tracker:
        tracker.start({}, 0)
        for step in (1, 2, 3):
            tracker.scalars(step, {"loss": 1.0})
    assert [record["step"] for record in records(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    assert (broken.calls, broken.finished) == (1, 1)  # left alone afterwards, yet closed
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1 and "Failing" in warning and type(error).__name__ in warning


def test_an_input_error_surfaces_after_every_tracker_had_its_turn(tmp_path) -> None:
    tracker = Composite(trackers=[Failing(InputError("pip install it")), Jsonl(path=tmp_path / "metrics.jsonl")])
    tracker.start({}, 0)
    with pytest.raises(InputError, match="pip install it"):
        tracker.scalars(1, {"loss": 1.0})
    assert len(list(records(tmp_path / "metrics.jsonl"))) == 1


def test_finish_reaches_everyone_after_an_exception() -> None:
    class Seen(Tracker):
        failed = None

        def finish(self, failed=False):
            self.failed = failed

    seen = Seen()
    with pytest.raises(ZeroDivisionError), Composite(trackers=[Failing(OSError("gone")), seen]):
        raise ZeroDivisionError
    assert seen.failed is True


def test_plain_is_strict_json() -> None:
    numbers = {3: np.float32(0.5), "n": np.int64(7), "t": np.array(float("nan"))}
    value = {"a": (1, float("nan"), -float("inf")), "path": Path("x/y"), "ok": None, **numbers}
    assert plain(value) == {"a": [1, "nan", "-inf"], "path": "x/y", "3": 0.5, "n": 7, "t": "nan", "ok": None}
    json.dumps(plain(value), allow_nan=False)


def test_trackers_are_built_without_importing_their_libraries() -> None:
    code = """
import sys
from videodit.track.jsonl import Jsonl
from videodit.track.progress import Progress
from videodit.track.tensorboard import TensorBoard
from videodit.track.tracker import Composite
from videodit.track.wandb import Wandb
wandb = Wandb(folder="w", project="p", name="n", group="")
Composite(trackers=[Jsonl(path="m"), TensorBoard(folder="t"), wandb]).finish()
print(sorted({"wandb", "tensorboard", "torch", "numpy", "PIL"} & sys.modules.keys()))
"""
    root = Path(videodit.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
