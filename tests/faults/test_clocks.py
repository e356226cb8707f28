"""What files say of themselves, through the stages: no file stops the others, nor fills a set with what it claims."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.clips import encode, psnr
from tests.data.test_video_claims import DAY, lasting
from tests.ingest.commands import here, rows
from tests.ingest.nasty import good, picture
from videodit.data.sample import to_frames
from videodit.data.set import training_set
from videodit.ingest.scan import Scan
from videodit.ingest.stages import GAP, Cut

SIZE = ["shape.areas=[6144]", "vae=", "report=false", "shape.frames=17", "shape.shortest=5"]


class NoCuts:
    """Sees every frame, and no cut."""

    def __call__(self, frames: Iterable[np.ndarray], fps: float) -> list[int]:
        assert 0 < fps <= 1000
        return [] if len(list(frames)) else []


def shots(root: Path, name: str) -> list[dict]:
    """Those of a file, by the stages themselves."""
    about = Scan(root=str(root))({"source": name})[0]
    return Cut(root=str(root), cutter=NoCuts())({"source": name, **about})


def strung(path: Path, starts: tuple[int, int], pictures: tuple[int, int]) -> np.ndarray:
    """A transport stream of two recordings of 30 frames at 8 a second, whose clocks begin at these; the frames."""
    parts = [picture(number, 30) for number in pictures]
    for part, start, name in zip(parts, starts, "ab", strict=True):
        stamps = list(range(start, start + 30))
        encode(path.parent / f".{name}", part, 8, "libx264", {"crf": "10"}, "mpegts", stamps=stamps)
    path.write_bytes(b"".join((path.parent / f".{name}").read_bytes() for name in "ab"))
    return np.concatenate(parts)


def test_a_clock_that_jumps_back_stops_nothing(tmp_path: Path) -> None:
    """What time can address is kept, with the pixels that stand there; the rest is dropped, and says why."""
    videos = tmp_path / "videos"
    videos.mkdir()
    frames = {
        "far.ts": strung(videos / "far.ts", (400, 0), (70, 71)),
        "near.ts": strung(videos / "near.ts", (0, 12), (72, 73)),
    }
    good(videos / "good.mp4", 1)
    assert here(videos, tmp_path / "set", *SIZE, "shape.fps=null") == 0
    gone = rows(tmp_path / "set", "dropped")
    lost = [row for row in gone if row["source"].endswith(".ts") and row["reason"] == "its clock jumped back"]
    assert {row["source"] for row in lost} == set(frames)
    assert all(row["first"] == 30 and "seconds, which have been" in row["detail"] for row in lost)
    seen = set()
    for split in ("train", "heldout"):
        clips = training_set(root=tmp_path / "set", split=split, captions="raw", sources=None, reader="av")
        for index in range(len(clips)):
            row = clips.rows.slice(clips.places[index][0], 1).to_pylist()[0]
            if row["source"] in frames:
                shown, first = to_frames(clips[index].clip), round(row["start"] * 8)
                written = frames[row["source"]]
                like = [psnr(written[k : k + len(shown)], shown) for k in range(61 - len(shown))]
                best = int(np.argmax(like))
                assert like[best] > 30 and (best == first or best > 30)
                seen.add((row["source"], best))
    assert {("far.ts", 0), ("near.ts", 0)} <= seen and not any(name == "far.ts" and k >= 30 for name, k in seen)


def test_a_last_frame_of_a_day_makes_no_clips(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for format in ("matroska", "nut"):
        lasting(tmp_path / "videos" / f"day.{format}", DAY, format)
        (shot,) = shots(tmp_path / "videos", f"day.{format}")
        assert shot["seconds"] <= 9 / 25 + GAP + 0.01 and shot["count"] == 10


def test_pictures_that_stand_for_minutes_are_short_shots(tmp_path: Path) -> None:
    images = [Image.fromarray(image) for image in picture(1, 5)]
    images[0].save(tmp_path / "slow.gif", save_all=True, append_images=images[1:], duration=655_350)
    found = shots(tmp_path, "slow.gif")
    assert len(found) == 5 and all(0 < shot["seconds"] <= GAP for shot in found)


def test_gaps_and_rates_of_a_clock(tmp_path: Path) -> None:
    """Frames at one time, a rate of the clock's, days between frames: shots are as long as their frames allow."""
    cases = {
        "dense.mkv": (1000, [*range(20)]),
        "clock.mp4": (90000, [3600 * k for k in range(20)]),
        "days.mkv": (1000, [k * 86_400_000 for k in range(20)]),
    }
    for name, (rate, stamps) in cases.items():
        format = "mp4" if name.endswith("mp4") else "matroska"
        encode(tmp_path / name, picture(1, 20), rate, "mjpeg", {}, format, pixels="yuvj420p", stamps=stamps)
        found = shots(tmp_path, name)
        assert sum(shot["count"] for shot in found) == 20
        assert all(0 < shot["seconds"] <= GAP * shot["count"] for shot in found)
