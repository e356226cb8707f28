"""Every kind of file that a video is written as: frames, rate and text come back, and equal frames are one file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.clips import numbered, numbers, psnr, smooth
from videodit.data import video
from videodit.errors import InputError

TEXT = json.dumps({"prompt": 'a "red" bäll ☃\n' * 50, "weights": {}}, ensure_ascii=False)
MOVING = [ending for ending, kind in video.KINDS.items() if kind.moving and ending]
STILL = [ending for ending, kind in video.KINDS.items() if not kind.moving]


@pytest.mark.parametrize("size", [(64, 96), (47, 33), (7, 9)], ids=str)
@pytest.mark.parametrize("ending", MOVING)
def test_a_moving_kind_gives_back_its_frames(tmp_path: Path, ending: str, size: tuple[int, int]) -> None:
    path, frames = tmp_path / f"clip{ending}", smooth(7, *size)
    video.write(path, frames, 12.5, metadata={"comment": TEXT})
    info, (back, _) = video.probe(path), video.read(path)
    assert (info.frames, info.height, info.width, info.comment) == (7, *size, TEXT)
    assert info.fps == pytest.approx(12.5, rel=1e-9) and np.allclose(video.times(path), np.arange(7) / 12.5, atol=1e-3)
    assert back.shape == frames.shape and psnr(back, frames) > 28


@pytest.mark.parametrize("ending", MOVING)
def test_frames_that_are_equal_are_shown_as_long(tmp_path: Path, ending: str) -> None:
    """As one or as many: a GIF and a WebP keep one."""
    frames = np.repeat(numbered(2), 4, axis=0)
    video.write(tmp_path / f"a{ending}", frames, 10)
    times, end = video.timeline(tmp_path / f"a{ending}")
    kept = numbers(video.read(tmp_path / f"a{ending}")[0])
    assert end == pytest.approx(0.8, abs=1e-3) and times[kept.index(1)] == pytest.approx(0.4, abs=1e-3)
    assert kept in ([0, 1], [0] * 4 + [1] * 4)


def test_a_rate_that_a_clock_does_not_divide_never_drifts(tmp_path: Path) -> None:
    """A GIF counts hundredths: each frame begins at the one nearest to its time."""
    video.write(tmp_path / "clip.gif", numbered(30), 24)
    assert np.abs(video.times(tmp_path / "clip.gif") - np.arange(30) / 24).max() <= 0.005 + 1e-9


@pytest.mark.parametrize("ending", [".gif", ".webp"])
def test_no_frame_is_shorter_than_browsers_believe(tmp_path: Path, ending: str) -> None:
    """They show one of 10 ms or less for 100 ms."""
    rate = video.KINDS[ending].rate
    video.write(tmp_path / f"a{ending}", numbered(30), rate)
    assert np.diff(video.times(tmp_path / f"a{ending}")).min() > 0.0105
    with pytest.raises(InputError, match=f"at most {rate:g} frames a second, not {rate + 1:g}"):
        video.check_kind(tmp_path / f"a{ending}", 2, 8, 8, rate + 1)


@pytest.mark.parametrize("ending", [*STILL, *MOVING])
def test_one_frame_is_a_picture(tmp_path: Path, ending: str) -> None:
    path, frames = tmp_path / f"clip{ending}", smooth(1, 40, 56)
    video.write(path, frames, 8, metadata={"comment": TEXT})
    back, _ = video.read(path)
    assert back.shape == frames.shape and psnr(back, frames) > 30 and video.probe(path).comment == TEXT
    if ending == ".png":
        assert np.array_equal(back, frames)


def test_text_that_a_jpeg_has_no_room_for_is_left_out(tmp_path: Path) -> None:
    video.write(tmp_path / "a.jpg", smooth(1, 8, 8), 8, metadata={"comment": "x" * 70_000})
    assert video.probe(tmp_path / "a.jpg").comment == ""


def test_a_folder_of_frames(tmp_path: Path) -> None:
    frames = smooth(11, 9, 7)
    for count in (11, 4):  # of another video of ours nothing is left
        video.write(f"{tmp_path / 'new' / 'frames'}/", frames[:count], 8, metadata={"comment": TEXT})
        names = sorted(os.listdir(tmp_path / "new" / "frames"))
        assert names == [*(f"{number:05d}.png" for number in range(count)), "record.json"]
        for name, image in zip(names[:-1], frames, strict=False):
            assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "frames" / name)), image)
    assert json.loads((tmp_path / "new" / "frames" / "record.json").read_text()) == json.loads(TEXT)
    assert os.listdir(tmp_path / "new") == ["frames"]


@pytest.mark.parametrize("name", ["holiday.png", "record.json", "00000.png", "00007.png"])
def test_a_folder_that_is_not_ours_is_not_replaced(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    video.write(folder, smooth(2, 4, 4), 8)  # an empty one is
    if name == "record.json":
        (folder / name).unlink()
    else:
        (folder / "00000.png").unlink()
        (folder / "record.json").unlink()
        (folder / name).write_text("mine")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(InputError, match="no video's frames"):
        video.write(folder, smooth(3, 4, 4), 8)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(InputError, match="no video's frames"):
        video.write(f"{tmp_path}/link/", smooth(3, 4, 4), 8)


def test_an_interrupted_folder_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        video.write(f"{tmp_path}/frames/", smooth(3, 4, 4), 8)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("ending", STILL)
def test_a_still_kind_names_what_holds_more_frames(tmp_path: Path, ending: str) -> None:
    with pytest.raises(
        InputError, match=f"a {ending} holds one frame, not 2: ask for frames=1, or for a folder of them"
    ):
        video.write(tmp_path / f"a{ending}", smooth(2, 4, 4), 8)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            "clip.avi",
            "must end in .mp4, .webm, .gif, .webp, .png, .jpg, .jpeg, or without one in / for",
        ),
        ("clip", "must end in"),
        ("clip.mp4/", "must end in|is a folder"),
        ("", "^path: it is empty: "),
        ("/", "is a folder|name a video"),
        ("..", "is a folder"),
    ],
)
def test_what_is_no_place_for_a_video(given: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        video.target(given)


WRITE = """
import hashlib, sys
from pathlib import Path
import numpy as np
from videodit.data.video import KINDS, write
folder, clips, hashes = Path(sys.argv[1]), np.random.default_rng(0), []
memory = np.random.default_rng(int(sys.argv[2]))
for height, width in ((33, 47), (90, 160)):
    tiles = np.kron(clips.normal(128, 40, (40, 60, 3)), np.ones((8, 8, 1)))
    frames = np.stack([np.roll(tiles, (2 * t, 3 * t), (0, 1))[:height, :width] for t in range(13)])
    frames = frames.clip(0, 255).astype(np.uint8)
    for ending, kind in KINDS.items():
        held = [memory.integers(0, 255, memory.integers(1, 2**18), dtype=np.uint8) for _ in range(20)][::2]
        path = folder / f"a{ending}"
        write(path, frames if kind.moving else frames[:1], 8.0, metadata={"comment": "x" * 3000})
        found = sorted(path.iterdir()) if path.is_dir() else [path]
        hashes.append(hashlib.sha256(b"".join(one.read_bytes() for one in found)).hexdigest())
print(*hashes)
"""


def test_equal_frames_are_one_file_in_any_process(tmp_path: Path) -> None:
    def hashes(seed: int) -> str:
        command = [sys.executable, "-c", WRITE, str(tmp_path), str(seed)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    found = {hashes(seed) for seed in range(4)}
    assert len(found) == 1 and len(found.pop().split()) == 2 * len(video.KINDS)
