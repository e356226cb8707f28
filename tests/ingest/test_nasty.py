"""A folder of all that can be wrong: nothing stops, each file is kept or reported, and what is left trains."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.ingest import nasty
from tests.ingest.commands import humble, rows, started
from tests.train import tiny
from videodit.cli.main import main
from videodit.data.set import SetClips, training_set
from videodit.track.jsonl import records

LINE = re.compile(r"^(\w+) +(\d+) seen +(\d+) kept +(\d+) dropped", re.MULTILINE)
DROPPED = {
    "noise.mp4": "cannot be read",
    "truncated.mp4": "cannot be read",
    "zero.mp4": "cannot be read",
    "zeros.mp4": "cannot be read",
    "text.mp4": "cannot be read",
    "sound.mp4": "cannot be read",
    "forbidden.mp4": "cannot be read",
    "not-\\udcff\\udcfe-utf8.mp4": "its name is not UTF-8",
    nasty.SLOW: "took too long",
    "good-0.mp4": "the same bytes as another file",
    "one.mp4": "seconds below 0.5",
    "still.png": "seconds below 0.5",
    "turned.jpg": "seconds below 0.5",
    "thin.mkv": "smaller than 16x16",
    "copy.mp4": "a near-duplicate of a better one",
    **dict.fromkeys(
        ("fifo.mp4", "fifo-\\udcff.mp4", "loop", "dangling.mp4", "device.mp4", "locked", "broken.tar"),
        "cannot be looked into",
    ),
    **dict.fromkeys(
        ("good-0.txt", "good-3.txt", "secret.txt", "deep.json", "metadata.jsonl", "folder/metadata.csv"),
        "a caption was lost",
    ),
    "shard.tar!k/1.txt": "a caption was lost",
    **dict.fromkeys(
        ("missing.mp4", "../outside.mp4", "../x.mp4", "/etc/passwd", ".", "a\\x00b.mp4", "\\ud83d.mp4"),
        "named in a table, not there",
    ),
}  # fmt: skip
KEPT = {
    *(f"good-{number}.mp4" for number in range(1, nasty.GOOD)),
    *nasty.NAMES,
    *("cut-off.mkv", "video.jpg", "many.avi", "variable.mp4", "clock.mkv", "odd.mkv", "deep.mp4", "alpha.gif"),
    *("alpha.webp", "alpha.png", "shard.tar!k/1.mp4", "secret.mp4", "folder/tabled.mp4"),
}


class Ran(NamedTuple):
    """A run of the command that is over."""

    out: Path
    vae: Path
    code: int
    told: str
    errors: str


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The command on the folder, by a user who may not read everything."""
    place = tmp_path_factory.mktemp("nasty")
    (place / "videos").mkdir()
    nasty.fill(place / "videos")
    vae, out = tiny.saved_vae(place), place / "set"
    options = ["limit=6", "shape.areas=[1024]", "heldout_share=0.1", f"vae={vae}"]
    process = started(place / "videos", out, *options, preexec_fn=humble)
    told, errors = process.communicate(timeout=300)
    (place / "videos" / "locked").chmod(0o755)
    return Ran(out, vae, process.returncode, told.decode(), errors.decode())


def test_nothing_stops_and_nothing_is_lost(ran: Ran) -> None:
    assert ran.code == 0, ran.errors
    progress = re.compile(r"\w+ +step \d+/\d+( .*)?|.*: still at it after \d+ s|")
    assert [line for line in re.split(r"[\r\n]", ran.errors) if not progress.fullmatch(line)] == []
    dropped = rows(ran.out, "dropped")
    counts = {stage: tuple(map(int, numbers)) for stage, *numbers in LINE.findall(ran.told)}
    assert list(counts) == ["list", "scan", "copies", "cut", "measure", "select", "deduplicate", "caption", "shape",
                            "encode"]  # fmt: skip
    of_stages = Counter(row["stage"] for row in dropped)
    assert all(seen == kept + gone and gone == of_stages[stage] for stage, (seen, kept, gone) in counts.items())
    assert all(row["stage"] and row["reason"] and row["detail"] for row in dropped)
    report = (ran.out / "report.html").read_text(encoding="utf-8")
    assert "Nothing was lost in silence" in report and "&lt;b&gt;&amp;amp;.mp4" in report


def test_each_file_is_kept_or_reported(ran: Ran) -> None:
    reasons = {row["source"]: row["reason"] for row in rows(ran.out, "dropped")}
    kept = {row["source"] for row in rows(ran.out)}
    assert reasons == DROPPED
    assert kept == KEPT
    there = {name.encode("utf-8", "backslashreplace").decode() for name in os.listdir(ran.out.parent / "videos")}
    beside = {"odd.json", *(f"good-{number}.txt" for number in range(nasty.GOOD))}
    assert there - kept - reasons.keys() - beside == {"folder", "shard.tar", "up"}  # "up" is the folder itself
    captions = {row["source"]: row["caption"] for row in rows(ran.out)}
    told = {"good-1.mp4": "ein Hügel", "good-2.mp4": "", "good-5.mp4": "a hill", "odd.mkv": "half a pair ?"}
    told |= {"video.jpg": "no ? pair", "folder/tabled.mp4": "", "shard.tar!k/1.mp4": "", "deep.mp4": ""}
    assert {source: captions[source] for source in told} == told
    starts = [row["start"] for row in rows(ran.out) if row["source"] == "clock.mkv"]
    assert sorted(starts) == [0.0, 10_000_000.0]  # a clock that jumps does not fill the time between


def test_every_clip_can_be_read(ran: Ran) -> None:
    for split in ("train", "heldout"):
        clips: SetClips = training_set(root=ran.out, split=split, captions="raw", sources=None, reader="av")
        for index in range(len(clips)):
            assert clips[index].clip.shape[1] == clips.rows["frames"][clips.places[index][0]].as_py()


@pytest.mark.parametrize("stage", ["dit", "vae"])
def test_what_is_left_trains(ran: Ran, tmp_path: Path, stage: str) -> None:
    command = tiny.VAE_COMMAND if stage == "vae" else tiny.COMMAND
    small = [part for part in command if not part.startswith("data")]
    loop = "loop={steps: 3, save_every: 3, log_every: 1, sample_every: 100}"
    which = [f"vae_from={ran.vae}"] if stage == "dit" else ["crops.pixels=20000", "limit=8"]
    code = main(["train", "data=set", f"data.root={ran.out}", f"stage={stage}", *which, *small, loop, "workers=0",
                 "memory=off", f"run_dir={tmp_path / stage}"])  # fmt: skip
    assert code == 0
    losses = [record for record in records(tmp_path / stage / "metrics.jsonl") if "loss" in record]
    assert [record["step"] for record in losses] == [1, 2, 3]
