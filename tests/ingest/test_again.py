"""Run again on other files or with other settings, only what is new is done; alone, and on a disk that may be full."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.ingest.commands import contents, folder, here, rows
from tests.ingest.work import Here
from tests.train import tiny
from videodit.checkpoint.latents import LatentCache
from videodit.cli.main import main

SMALL = ["shape.areas=[1024]", "heldout_share=0.3"]


@pytest.fixture(autouse=True)
def calls() -> Iterator[Counter[str]]:
    """Calls of each stage since it was cleared. One thread: more cost such small networks time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    Here.calls.clear()
    yield Here.calls
    Here.calls.clear()
    torch.set_num_threads(threads)


@pytest.fixture
def encode(tmp_path: Path) -> list[str]:
    """What makes latents, two clips a shard."""
    return [*SMALL, f"vae={tiny.saved_vae(tmp_path)}", "encode.bundle=2"]


def without_shards(out: Path) -> list[dict]:
    return [{**row, "shards": len(row["shards"])} for row in rows(out)]


def test_a_grown_folder_costs_what_is_new(tmp_path: Path, encode: list[str], calls: Counter[str]) -> None:
    videos, out, fresh = folder(tmp_path / "videos", 3), tmp_path / "set", tmp_path / "fresh"
    assert here(videos, out, *encode) == 0
    before = {row["id"]: row["shards"] for row in rows(out)}
    files = contents(out)
    calls.clear()
    folder(videos, 5)
    assert here(videos, out, *encode, "report=false") == 0
    assert calls == {"Scan": 2, "Cut": 2, "Measure": 2, "Caption": 1, "Encode": 1}
    after = {row["id"]: row["shards"] for row in rows(out)}
    assert len(before) == 3 and len(after) == 5 and after | before == after
    assert all(contents(out)[name] == files[name] for name in files if name.startswith("cache"))
    assert here(videos, fresh, *encode) == 0
    assert without_shards(fresh) == without_shards(out)  # but shards hold other clips together
    keys = {key for one in (out, fresh) for key in [*LatentCache(one / "cache").known]}
    assert len(keys) == 5

    calls.clear()
    (videos / "1.mp4").unlink(), (videos / "1.txt").unlink()
    assert here(videos, out, *encode, "report=false") == 0
    assert not calls and len(rows(out)) == 4 and "1.mp4" not in {row["source"] for row in rows(out)}
    assert [row["source"] for row in rows(out, "dropped")] == []
    (videos / "0.mp4").rename(videos / "renamed.mp4")
    (videos / "0.txt").rename(videos / "renamed.txt")
    assert here(videos, out, *encode, "report=false") == 0
    assert calls == {"Scan": 1} and "renamed.mp4" in {row["source"] for row in rows(out)}


def test_other_bounds_decode_nothing(tmp_path: Path, encode: list[str], calls: Counter[str]) -> None:
    videos, out = folder(tmp_path / "videos", 3), tmp_path / "set"
    assert here(videos, out, *encode, "report=false") == 0
    whole = contents(out)
    calls.clear()
    assert here(videos, out, *encode, "report=false", "select.seconds=[10,null]") == 2  # nothing is left
    assert not calls and rows(out) == [] and {r["reason"] for r in rows(out, "dropped")} == {"seconds below 10"}
    assert here(videos, out, *encode, "report=false") == 0
    assert not calls and contents(out) == whole


def test_other_captions_encode_nothing(tmp_path: Path, encode: list[str], calls: Counter[str]) -> None:
    videos, out = folder(tmp_path / "videos", 3), tmp_path / "set"
    assert here(videos, out, *encode, "report=false") == 0
    latents = {name: content for name, content in contents(out).items() if name.startswith("cache")}
    ids = [row["id"] for row in rows(out)]
    calls.clear()
    (videos / "2.txt").write_text("another one")
    assert here(videos, out, *encode, "report=false") == 0
    assert calls == {"Caption": 1}
    assert {row["caption_long"] for row in rows(out)} == {"clip number 0", "clip number 1", "another one"}
    assert {n: c for n, c in contents(out).items() if n.startswith("cache")} == latents
    assert [row["id"] for row in rows(out)] == ids


def test_a_dry_run_measures_for_the_real_one(tmp_path: Path, encode: list[str], calls: Counter[str]) -> None:
    videos, out = folder(tmp_path / "videos", 3), tmp_path / "set"
    assert here(videos, out, *encode, "dry_run=true") == 0
    assert sorted(path.name for path in out.iterdir()) == [".ingest", "dry_run.html"]
    assert "dry run" in (out / "dry_run.html").read_text()
    assert calls == {"Scan": 3, "Cut": 3, "Measure": 3, "Thumbnail": 3}
    calls.clear()
    assert here(videos, out, *encode, "report=false") == 0
    assert calls == {"Caption": 1, "Encode": 2} and len(rows(out)) == 3
    whole = contents(out)
    assert here(videos, out, *encode, "dry_run=true", "shape.frames=9") == 0
    assert contents(out) == whole, "a dry run leaves a set alone"


def test_a_longer_limit_tries_again(tmp_path: Path, calls: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    videos, out, dry = folder(tmp_path / "videos", 2), tmp_path / "set", ["dry_run=true", "report=false"]
    late = {"dropped": "took too long", "detail": "more than 5 seconds", "again": False, "limit": 5.0}
    monkeypatch.setattr("tests.ingest.work.outcome", lambda stage, record: late)
    assert here(videos, out, *dry, "limit=5") == 2 and calls == {"Scan": 2}
    monkeypatch.undo()
    assert here(videos, out, *dry, "limit=5") == 2 and calls == {"Scan": 2}
    assert here(videos, out, *dry, "limit=6") == 0 and calls == {"Scan": 4, "Cut": 2, "Measure": 2}


def test_two_runs_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos, out = folder(tmp_path / "videos", 1), tmp_path / "set"
    hold = "import sys, time\nfrom pathlib import Path\nfrom videodit.ingest.writing import alone\n"
    hold += "with alone(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(600)\n"
    first = subprocess.Popen([sys.executable, "-c", hold, str(out)], stdout=subprocess.PIPE)
    try:
        assert first.stdout.readline() == b"held\n"
        began = time.monotonic()
        assert here(videos, out, "vae=") == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and f"out={out}" in told and f"process {first.pid}" in told
        assert time.monotonic() - began < 30 and [path.name for path in out.iterdir()] == [".ingest"]
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert here(videos, out, "vae=", "report=false") == 0
    assert not (out / ".ingest" / "lock").exists()


def test_mistakes_are_told_before_any_work(
    tmp_path: Path, calls: Counter[str], capsys: pytest.CaptureFixture[str]
) -> None:
    videos, out, file = folder(tmp_path / "videos", 1), tmp_path / "set", tmp_path / "file"
    file.touch()
    wrong = [(videos, out, "vae=nowhere", "in nowhere"), (videos, videos, "vae=", f"out={videos}"),
             (videos, file, "vae=", f"out={file}"), (videos, file / "deeper", "vae=", f"out={file / 'deeper'}"),
             (tmp_path / "none", out, "vae=", str(tmp_path / "none"))]  # fmt: skip
    for root, where, vae, told in wrong:
        assert here(root, where, vae) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and told in said, said
    assert not calls


def test_clips_that_cannot_be_encoded_have_their_reason(
    tmp_path: Path, encode: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    videos, out = folder(tmp_path / "videos", 3), tmp_path / "set"
    monkeypatch.setattr("videodit.ingest.encode.fetch", lambda clips, indices: ([], [("0.mp4", "has changed")]))
    assert here(videos, out, *encode, "report=false") == 2 and rows(out) == []
    told = {(row["stage"], row["reason"], row["detail"]) for row in rows(out, "dropped")}
    assert told == {("encode", "cannot be encoded", "has changed")}
    monkeypatch.undo()
    assert here(videos, out, *encode, "report=false") == 0 and len(rows(out)) == 3


def test_nothing_makes_an_empty_set_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "videos").mkdir()
    assert here(tmp_path / "videos", tmp_path / "set", "vae=") == 2
    assert f"videos={tmp_path / 'videos'}: no clip is left of it" in capsys.readouterr().err
    training = ["train", "data=set", f"data.root={tmp_path / 'set'}", "init=toy", f"run_dir={tmp_path / 'run'}"]
    assert main([*training, f"cache={tmp_path / 'cache'}"]) == 2
    assert "there is no clip to train on" in capsys.readouterr().err
    assert rows(tmp_path / "set") == rows(tmp_path / "set", "dropped") == []
    assert "Nothing was lost in silence" in (tmp_path / "set" / "report.html").read_text()


def free(mount: Path) -> int:
    about = os.statvfs(mount)
    return about.f_bavail * about.f_frsize


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", mount], capture_output=True).returncode:
        pytest.skip("only root may mount a disk")
    yield mount
    subprocess.run(["umount", "--lazy", mount], check=True)


@pytest.mark.parametrize(
    ("room", "fails"), [(0, "measure.jsonl"), (4096, "shard-"), (16384, "manifest.parquet"), (40960, "report.html")]
)
def test_a_full_disk_changes_nothing(
    tmp_path: Path, disk: Path, room: int, fails: str, encode: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    videos, out, fresh = folder(tmp_path / "videos", 2), disk / "set", tmp_path / "fresh"
    assert here(videos, out, *encode) == 0
    before, report = contents(out), (out / "report.html").read_bytes()
    folder(videos, 6)
    if not room:
        (out / ".ingest" / "measure.jsonl").unlink()  # the others have room left in their last blocks
    (disk / "ballast").write_bytes(bytes(free(disk) - room))
    capsys.readouterr()
    assert here(videos, out, *encode) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("scan", "cut", "measure",
            "caption", "encode"))]  # fmt: skip
    assert len(told) == 1 and "no space left on device" in told[0].lower()
    assert str(out) in told[0] and fails in told[0]
    assert {name: content for name, content in contents(out).items() if name in before} == before
    assert (out / "report.html").read_bytes() == report
    assert not [path for path in out.rglob("*.part")]
    (disk / "ballast").unlink()
    assert here(videos, out, *encode) == 0
    assert here(videos, fresh, *encode) == 0
    assert without_shards(out) == without_shards(fresh)
