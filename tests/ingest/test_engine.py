"""Stages in processes: whatever one of them does, the others go on, and every record has an outcome."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.ingest.work import Naughty
from videodit.errors import InputError
from videodit.ingest.engine import Local
from videodit.ingest.guard import Guard
from videodit.ingest.journal import Journal


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"


def test_every_record_has_its_outcome() -> None:
    does = ["fine", "sleep", "die", "killed", "exit", "drop", "bug", "disk", "memory", "lost", "stop", "input",
            "package", "shard", "named so", *["fine"] * 5]  # fmt: skip
    records = [{"do": do, "value": i} for i, do in enumerate(does)]
    found = dict(Local(workers=2).run(Naughty(), records, [2.0 if r["do"] == "sleep" else 60.0 for r in records], None))
    assert sorted(found) == list(range(len(does)))
    assert all(found[i]["records"][0]["twice"] == 2 * i for i, do in enumerate(does) if do == "fine")
    said = {do: found[i] for i, do in enumerate(does)}
    assert said["sleep"]["dropped"] == "took too long" and said["sleep"]["detail"] == "more than 2 seconds"
    assert said["die"] == {"dropped": "crashed its reader", "detail": "SIGSEGV", "again": False}
    assert said["killed"]["again"], "whoever kills workers does not mean the file"
    assert said["sleep"]["limit"] == 2.0
    assert said["exit"]["detail"] == "exit code 3"
    assert said["drop"] == {"dropped": "too dark", "detail": "0.1", "again": False}
    assert said["bug"]["dropped"] == "a stage failed" and "oops" in said["bug"]["detail"]
    assert said["memory"]["again"] and said["lost"]["again"], "a GPU's failure is no fault of the file"
    assert said["stop"] == {"stop": "key=x: is wrong"}
    assert said["input"] == {"dropped": "cannot be used", "detail": "frame 3 is odd", "again": False}
    assert all("No space left" in said[do]["stop"] for do in ("disk", "shard")), "a full disk meets every record"
    assert said["named so"]["dropped"] == "cannot be used", "a file's name stops nobody"
    assert "no module" in said["package"]["stop"]
    pids = {found[i]["records"][0]["pid"] for i, do in enumerate(does) if do == "fine"}
    assert os.getpid() not in pids and all(map(gone, pids))
    scratch = {found[i]["records"][0]["scratch"] for i, do in enumerate(does) if do == "fine"}
    assert len(scratch) >= 2 and not any(map(os.path.exists, scratch)), "what a killed worker left is cleared up"


def test_after_a_stop_nothing_is_begun_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next call may cost."""
    monkeypatch.setattr("videodit.ingest.engine.Guard", lambda stage: Idle())
    records = [{"do": do, "value": 0} for do in ("fine", "stop", "fine", "fine")]
    Idle.calls = 0
    running = Local(workers=1).run(Naughty(), records, [60.0] * 4, None)
    assert [next(running)[1], next(running)[1]] == [{"records": []}, {"stop": "key=x: is wrong"}]
    time.sleep(0.3)
    assert Idle.calls == 2
    assert len(list(running)) == 2 and Idle.calls == 4


def test_a_guard_keeps_its_process_between_calls() -> None:
    guard = Guard(Naughty())
    pids = {guard({"do": "fine", "value": 0}, 60)["records"][0]["pid"] for _ in range(3)}
    assert len(pids) == 1
    guard.close()
    assert gone(pids.pop())


def test_a_process_that_lost_its_gpu_is_followed_by_another() -> None:
    guard = Guard(Naughty())
    first = guard({"do": "fine", "value": 0}, 60)["records"][0]["pid"]
    assert guard({"do": "lost", "value": 0}, 60)["dropped"] == "the machine failed"
    assert guard({"do": "fine", "value": 0}, 60)["records"][0]["pid"] != first and gone(first)
    guard.close()


class Idle:
    """A guard without a process."""

    calls = 0

    def __call__(self, record: dict, limit: float) -> dict:
        Idle.calls += 1
        return {"stop": "key=x: is wrong"} if record["do"] == "stop" else {"records": []}

    def close(self) -> None:
        """There is nothing to end."""

    end = close


def test_where_the_system_says_nothing_of_a_process_s_cores_all_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: 5)
    assert Local(workers=None).workers == 5


def test_a_gpu_is_shared_by_few_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever in a stage the model is that wants one."""
    seen = []
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(6))
    monkeypatch.setattr("videodit.ingest.engine.Guard", lambda stage: seen.append(stage) or Idle())
    model, plain = SimpleNamespace(device="cuda"), SimpleNamespace(device="cpu")
    stages = [{"embedder": model, "scorers": ()}, {"embedder": plain, "scorers": (plain, model)}, {"cutter": model},
              {"device": "cuda:1"}, {"embedder": plain, "scorers": (plain,)}]  # fmt: skip
    for stage in stages:
        seen.clear()
        records = [{"do": "fine", "value": i} for i in range(6)]
        assert len(list(Local(workers=None).run(SimpleNamespace(**stage), records, [60.0] * 6, None))) == 6
        assert len(seen) == (6 if stage is stages[-1] else 4)
    seen.clear()
    list(Local(workers=5).run(SimpleNamespace(**stages[0]), records, [60.0] * 6, None))
    assert len(seen) == 5, "who says how many has them"


def test_leaving_early_ends_all_workers() -> None:
    records = [{"do": "fine", "value": 0}, *({"do": "sleep", "value": 0} for _ in range(3))]
    running = Local(workers=2).run(Naughty(), records, [600.0] * 4, None)
    pid = next(running)[1]["records"][0]["pid"]
    began = time.monotonic()
    running.close()
    assert time.monotonic() - began < 30 and gone(pid)


def test_workers_are_limited() -> None:
    found = Local(workers=4).run(Naughty(), [{"do": "fine", "value": 0}] * 6, [60.0] * 6, 1)
    assert len({result["records"][0]["pid"] for _, result in found}) == 1
    assert list(Local(workers=None).run(Naughty(), [], [], None)) == []
    with pytest.raises(InputError, match="engine.workers=0"):
        Local(workers=0)


def test_a_journal_forgets_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "scan.jsonl"
    journal = Journal(path)
    values = {"a": {"records": [{"x": "ü\n\u2028"}]}, "b": {"dropped": "dark", "detail": "0.1", "again": False}}
    for key, value in values.items():
        journal.add(key, value)
    journal.close()
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        journal = Journal(path)
        known = dict(journal.known)
        journal.add("c", values["b"])
        journal.close()
        ends = {"a": whole.index(b"\n") + 1, "b": len(whole)}
        assert known == {key: values[key] for key, end in ends.items() if end <= cut}
        assert Journal(path).known == known | {"c": values["b"]}


@pytest.mark.parametrize("line", [b"{", b"[]", b"\xff", b"[" * 100_000, b'{"key": "a"}', b"", b"\0" * 100,
                                  b'{"key": 1, "out": {"records": []}}', b'{"key": "a", "out": {"records": [1]}}',
                                  b'{"key": "a", "out": {"dropped": 3}}',
                                  b'{"key": "a", "out": {"records": [], "x": "\\ud800"}}'])  # fmt: skip
def test_a_damaged_line_is_told_and_left_out(tmp_path: Path, line: bytes, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "scan.jsonl"
    good = {key: {"records": [{"x": key}]} for key in ("b", "c")}
    journal = Journal(path)
    journal.add("b", good["b"])
    journal.close()
    path.write_bytes(path.read_bytes() + line + b"\n")
    journal = Journal(path)
    journal.add("c", good["c"])
    journal.close()
    assert Journal(path).known == good
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and all("1 damaged lines are left out" in one and "line 2" in one for one in told)


def test_a_journal_that_is_no_file_is_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for place in (tmp_path, tmp_path / "fifo"):
        with pytest.raises(InputError, match="not a plain file"):
            Journal(place)
