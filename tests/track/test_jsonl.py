"""The record of a run: whole lines of strict JSON, whatever happens to the process or the disk."""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import videodit
from videodit.errors import InputError
from videodit.track.jsonl import Jsonl, records
from videodit.untrusted import MOST


def strict(line: str) -> dict:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(line, parse_constant=refuse)


def write(path: Path, steps: range, start: int = 0) -> None:
    with Jsonl(path=path) as tracker:
        tracker.start({"lr": 1e-3, "start": start}, start)
        for step in steps:
            tracker.scalars(step, {"loss": 1 / step, "clips": step})


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Files can grow to `size` bytes and no further: like a full disk, the last write is a partial one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_is_written_is_read_back(tmp_path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    write(path, range(1, 4))
    got = list(records(path))
    assert [(r["step"], r["loss"], r["clips"]) for r in got] == [(1, 1.0, 1), (2, 0.5, 2), (3, 1 / 3, 3)]
    assert all(r["time"] > 1.7e9 for r in got)
    assert json.loads((path.parent / "config.json").read_text()) == {"lr": 1e-3, "start": 0}


def test_every_line_is_valid_json_even_for_numbers_that_are_not_finite(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    with Jsonl(path=path) as tracker:
        tracker.start({"clip": float("inf")}, 0)
        tracker.scalars(1, {"a": float("nan"), "b": float("inf"), "c": -float("inf"), "d": 1.5})
        tracker.table(1, "scores", ["kind", "right"], [("ball", 0.5), ("cube", float("nan"))])
    lines = [strict(line) for line in path.read_text().splitlines()]
    assert (lines[0]["a"], lines[0]["b"], lines[0]["c"], lines[0]["d"]) == ("nan", "inf", "-inf", 1.5)
    assert lines[1]["scores"] == {"columns": ["kind", "right"], "rows": [["ball", 0.5], ["cube", "nan"]]}
    assert strict((tmp_path / "config.json").read_text()) == {"clip": "inf"}
    read = next(records(path))
    assert math.isnan(read["a"]) and (read["b"], read["c"]) == (math.inf, -math.inf)


def test_resuming_drops_what_will_be_done_again(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 11))
    before = path.read_bytes().splitlines()
    write(path, range(7, 9), start=6)
    assert path.read_bytes().splitlines()[:6] == before[:6]  # kept lines byte for byte
    assert [r["step"] for r in records(path)] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert json.loads((tmp_path / "config.json").read_text())["start"] == 6
    write(path, range(1, 3))  # and step 0 starts over
    assert [r["step"] for r in records(path)] == [1, 2]
    assert {p.name for p in tmp_path.iterdir()} == {"metrics.jsonl", "config.json"}


@pytest.mark.parametrize("torn", [b'{"step": 4, "lo', b'{"step": 4, "loss": 0.1', b"\0\0\0\0", b"12", b"{}"])
def test_a_torn_last_line_is_forgiven(tmp_path, torn) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 4))
    with path.open("ab") as file:
        file.write(torn)
    assert [r["step"] for r in records(path)] == [1, 2, 3]
    write(path, range(4, 6), start=3)
    assert [strict(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4, 5]


def test_a_broken_line_elsewhere_is_named(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl: line 2 "):
        list(records(path))


def test_killing_the_process_loses_no_line(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    code = f"""
import os, signal
from videodit.track.jsonl import Jsonl
tracker = Jsonl(path={str(path)!r})
tracker.start({{}}, 0)
for step in range(1, 101):
    tracker.scalars(step, {{"loss": 1 / step}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(videodit.__file__).parents[1])
    assert done.returncode == -9
    assert [r["step"] for r in records(path)] == list(range(1, 101))


def test_a_full_disk_is_an_input_error_and_leaves_whole_lines(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    with Jsonl(path=path) as tracker:
        tracker.start({}, 0)
        with full_disk(200), pytest.raises(InputError, match=r"metrics\.jsonl: cannot be written"):
            for step in range(1, 100):
                tracker.scalars(step, {"loss": 1 / step})
        written = path.read_bytes()
        assert 100 < len(written) <= 200 and written.endswith(b"\n")
        tracker.scalars(50, {"loss": 0.5})  # room again: the record goes on
    assert [strict(line)["step"] for line in path.read_text().splitlines()][-1] == 50


def test_resuming_on_a_full_disk_keeps_the_old_record(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 50))
    before = path.read_bytes()
    with full_disk(500), pytest.raises(InputError, match="cannot be written"):
        Jsonl(path=path).start({}, 40)
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("*.new"))


def test_a_folder_that_cannot_be_made_is_an_input_error(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="metrics.jsonl"):
        Jsonl(path=tmp_path / "file" / "metrics.jsonl").start({}, 0)


def test_names_that_every_record_has_are_refused(tmp_path) -> None:
    with Jsonl(path=tmp_path / "metrics.jsonl") as tracker:
        tracker.start({}, 0)
        with pytest.raises(InputError, match="another name"):
            tracker.scalars(1, {"time": 3.0})


def test_what_comes_again_is_forgotten_of_its_step_alone(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    with Jsonl(path=path) as tracker:
        tracker.start({}, 0)
        for step in (1, 2):
            tracker.scalars(step, {"loss": 1.0})
            tracker.scalars(step, {"heldout/loss": 2.0, "loss again": 3.0})
            tracker.table(step, "samples/prompts", ["prompt"], [["a ball"]])
        tracker.forget(2, ("heldout/", "samples/"))
        tracker.scalars(2, {"heldout/loss": 4.0})
    told = [sorted(record.keys() - {"time"}) for record in records(path)]
    assert told[:3] == [["loss", "step"], ["heldout/loss", "loss again", "step"], ["samples/prompts", "step"]]
    assert told[3:] == [["loss", "step"], ["loss again", "step"], ["heldout/loss", "step"]]


def test_a_line_without_end_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "loss": 1.0}\n{"step": 2, "x": "' + b"x" * (3 * MOST.line) + b'"}\n')
    with pytest.raises(InputError, match="line 2 is not a record"):
        list(records(path))
