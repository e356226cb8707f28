"""Captions in the run of an ingest: none that was written is lost, whatever the captioner does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from videodit.cli.main import main
from videodit.data import video

COUNT = 5


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Videos of other noise each; the first one has a caption."""
    folder = tmp_path / "videos"
    for number in range(COUNT):
        noise = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        picture = np.kron(noise, np.ones((16, 16, 1), np.uint8))
        moving = np.stack([np.roll(picture, 2 * t, axis=1) for t in range(10)])
        video.write(folder / f"{number}.mp4", moving, 8.0)
    (folder / "0.txt").write_text("given")
    return folder


def ingest(videos: Path, fail: str, *more: str) -> int:
    captioner = {"_target_": "tests.ingest.captioners.Told", "notes": str(videos.parent / "notes"), "fail": fail}
    told = [f"+captioner.{key}={value}" if key != "_target_" else f"captioner._target_={value}"
            for key, value in captioner.items()]  # fmt: skip
    return main(["ingest", str(videos), f"out={videos.parent / 'set'}", "vae=", "report=false", "caption.bundle=1",
                 "engine.workers=1", *told, *more])  # fmt: skip


def captions(videos: Path) -> dict[str, tuple[str, str, str, str]]:
    rows = parquet.read_table(videos.parent / "set" / "manifest.parquet").to_pylist()
    names = ("caption", "caption_short", "caption_long", "captioned_by")
    return {row["source"]: tuple(row[name] for name in names) for row in rows}


def calls(videos: Path) -> int:
    return len((videos.parent / "notes").read_text().split())


def test_all_three_are_kept(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ingest(videos, "", "caption.frames=3") == 0
    used = f"{COUNT} answers, {10 * COUNT} tokens read, 0 written, cost {0.5 * COUNT:g}"
    assert f"captions of this run: {used}\n" in capsys.readouterr().out
    found = captions(videos)
    assert found["0.mp4"] == ("given", "3 frames of 1.2 seconds", "long: 3 frames of 1.2 seconds", "told")
    assert len(found) == COUNT and all(found[f"{i}.mp4"][0] == "" for i in range(1, COUNT))
    assert ingest(videos, "") == 0 and calls(videos) == 2 * COUNT  # of another number of frames: they are others
    assert ingest(videos, "") == 0 and calls(videos) == 2 * COUNT


def test_what_was_written_outlives_a_captioner_that_stops_the_run(
    videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ingest(videos, "stop") == 2
    assert capsys.readouterr().err.splitlines()[-1] == "videodit: error: captioner.key=NAME: it is wrong"
    assert not (videos.parent / "set" / "manifest.parquet").exists() and calls(videos) == 3
    assert ingest(videos, "") == 0
    assert calls(videos) == 3 + COUNT - 2 and len(captions(videos)) == COUNT


def test_a_clip_that_cannot_be_captioned_keeps_its_own(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ingest(videos, "clip") == 0
    assert captions(videos)["0.mp4"] == ("given", "", "", "") and len(captions(videos)) == COUNT
    assert ingest(videos, "clip", "caption.required=true") == 0
    assert set(captions(videos)) == {f"{i}.mp4" for i in range(1, COUNT)}
    assert "1 no caption was written" in capsys.readouterr().out


def test_what_may_pass_is_tried_again_by_the_next_run(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ingest(videos, "again") == 2  # none has a caption, so nothing is left
    assert captions(videos) == {} and f"{COUNT} no caption was written" in capsys.readouterr().out
    assert ingest(videos, "") == 0
    assert len(captions(videos)) == COUNT
