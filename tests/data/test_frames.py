"""A folder of frames is a video: read as the file that it could be, listed as one, and refused where it is none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.clips import numbered, numbers
from videodit.data import video
from videodit.data.datasets import VideoFolder
from videodit.data.files import Root
from videodit.errors import InputError

SHAPE = {
    "frames": 5,
    "height": None,
    "width": None,
    "area": 4096,
    "fps": 8,
    "fit": "crop",
    "stride": (4, 8, 8),
    "patch": (1, 2, 2),
}
RECORD = json.dumps({"prompt": "a ball", "fps": 12.5, "weights": {}})


def made(folder: Path, name: str = "{:05d}.png", *, count: int = 20, first: int = 0) -> Path:
    folder.mkdir(parents=True)
    for number, image in enumerate(numbered(count)):
        Image.fromarray(image).save(folder / name.format(first + number))
    return folder


@pytest.mark.parametrize(
    ("name", "first"), [("{:05d}.png", 0), ("{}.png", 95), ("frame_{:03d}.JPG", 1), ("a 2-{}.bmp", 8)]
)
def test_it_is_read_in_the_order_of_its_numbers(tmp_path: Path, name: str, first: int) -> None:
    folder = made(tmp_path / "in", name, first=first)
    info = video.probe(folder)
    assert (info.frames, info.fps, info.seconds) == (20, 25, 0.8) and not info.variable
    assert numbers(video.read(folder)[0]) == list(range(20))
    assert numbers(video.read(folder, first=7, frames=3)[0]) == [7, 8, 9]
    assert numbers(video.read(folder, start=0.4, fps=12.5, frames=3)[0]) == [10, 12, 14]
    assert [number for number, _ in video.numbered(folder, first=18)] == [18, 19]
    assert np.allclose(video.times(folder), np.arange(20) / 25)


def test_what_we_write_keeps_its_rate_and_its_record(tmp_path: Path) -> None:
    """And is the same as the video of the same frames."""
    video.write(f"{tmp_path}/in/", numbered(10), 12.5, metadata={"comment": RECORD})
    video.write(tmp_path / "in.mp4", numbered(10), 12.5, metadata={"comment": RECORD})
    folder, file = video.probe(tmp_path / "in"), video.probe(tmp_path / "in.mp4")
    assert (folder.frames, folder.fps, folder.seconds) == (file.frames, file.fps, file.seconds) == (10, 12.5, 0.8)
    assert json.loads(folder.comment) == json.loads(file.comment)
    times = [numbers(video.read(tmp_path / name, start=0.1, fps=5)[0]) for name in ("in", "in.mp4")]
    assert times[0] == times[1]


def test_a_hash_is_of_frames_and_rate(tmp_path: Path) -> None:
    folder = made(tmp_path / "in")
    before = video.digest(folder)
    shutil.copytree(folder, tmp_path / "other")
    assert video.digest(tmp_path / "other") == before
    (folder / video.RECORD).write_text(RECORD)
    assert video.digest(folder) != before
    (tmp_path / "other" / "00003.png").write_bytes((folder / "00004.png").read_bytes())
    assert video.digest(tmp_path / "other") != before


@pytest.mark.parametrize("fault", ["a gap", "another kind", "another name", "the same number", "empty"])
def test_another_folder_is_none(tmp_path: Path, fault: str) -> None:
    folder = made(tmp_path / "in")
    if fault == "a gap":
        (folder / "00007.png").unlink()
    elif fault == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    else:
        name = {"another kind": "00020.jpg", "another name": "b20.png", "the same number": "7.png"}[fault]
        shutil.copy(folder / "00007.png", folder / name)
    with pytest.raises(InputError, match="in: no folder of frames: numbered pictures of one kind without gaps"):
        video.probe(folder)


def test_a_frame_of_another_size_is_named(tmp_path: Path) -> None:
    folder = made(tmp_path / "in")
    Image.new("RGB", (8, 8)).save(folder / "00007.png")
    with pytest.raises(InputError, match=r"00007.png: it is 8x8, the first frame"):
        video.read(folder)


def test_a_folder_is_listed_as_a_video_where_something_says_so(tmp_path: Path) -> None:
    """A caption beside it, a record in it, or a table; photos that are numbered stay pictures."""
    for name in ("beside", "ours", "photos"):
        made(tmp_path / "in" / name, count=6)
    (tmp_path / "in" / "beside.txt").write_text("a caption")
    (tmp_path / "in" / "ours" / video.RECORD).write_text(RECORD)
    listed = Root(str(tmp_path / "in")).list(without=tmp_path / "set")
    found = {file.path: file.caption for file in listed.files}
    assert found == {"beside": "a caption", "ours": "a ball", **{f"photos/{number:05d}.png": "" for number in range(6)}}
    assert not listed.faults and set(listed.beside) == {"beside.txt", "ours/record.json"}
    (tmp_path / "in" / "photos" / "00002.png").touch()
    before = {file.path: file.stamp for file in listed.files}
    Image.new("RGB", (16, 16)).save(tmp_path / "in" / "beside" / "00003.png")
    after = {file.path: file.stamp for file in Root(str(tmp_path / "in")).list(without=tmp_path / "set").files}
    assert after["beside"] != before["beside"] and after["ours"] == before["ours"]


@pytest.mark.parametrize("table", [True, False])
def test_a_training_takes_it_for_a_clip(tmp_path: Path, table: bool) -> None:
    made(tmp_path / "in" / "frames", count=30)
    if table:
        lines = [{"file_name": "frames/", "caption": "a number"}]
        (tmp_path / "in" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    else:
        (tmp_path / "in" / "frames.txt").write_text("a number")
    clips = VideoFolder(root=tmp_path / "in", part="all", share=None, **SHAPE)
    assert len(clips) == 1 and clips[0].caption == "a number" and clips[0].clip.shape[1] == 5
    before = clips.fingerprint(0)
    Image.new("RGB", Image.open(tmp_path / "in" / "frames" / "00003.png").size).save(
        tmp_path / "in" / "frames" / "00003.png"
    )
    assert clips.fingerprint(0) != before
