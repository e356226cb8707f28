"""Whatever stands under a name: one line that names it, never a hang, never another exception."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.data.clips import READERS, encode, numbered, numbers
from videodit.data import video
from videodit.data.datasets import VideoFolder
from videodit.data.sample import BadSample
from videodit.errors import InputError

READS = [
    video.probe,
    video.times,
    video.read,
    lambda path: video.read(path, first=0),
    lambda path: video.probe(path, exact=True),
]
ASKED = [*READS, *([lambda path: video.read(path, reader="decord")] if "decord" in READERS else [])]


def said(path: Path) -> set[str]:
    """The errors of every way to read a file, each of which must be one line."""
    lines = set()
    for read in ASKED:
        with pytest.raises(InputError) as caught, warnings.catch_warnings():
            warnings.simplefilter("ignore", video.CorruptPackets)
            read(path)
        assert str(caught.value).isprintable(), caught.value
        lines.add(str(caught.value))
    return lines


def test_what_is_no_file(tmp_path):
    assert said(tmp_path / "nothing") == {f"{tmp_path}/nothing: no such file"}
    (told,) = said(tmp_path)
    assert told.startswith(f"{tmp_path}: no folder of frames: numbered pictures of one kind without gaps")
    assert said(Path("/dev/zero")) == {"/dev/zero: not a plain file"}
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    assert said(tmp_path / "loop.mp4") == {f"{tmp_path}/loop.mp4: cannot be opened: Too many levels of symbolic links"}
    (tmp_path / "dangling.mp4").symlink_to("nowhere")
    assert said(tmp_path / "dangling.mp4") == {f"{tmp_path}/dangling.mp4: no such file"}
    assert said(tmp_path / ("x" * 300)) == {f"{tmp_path}/{'x' * 300}: cannot be opened: File name too long"}
    (tmp_path / "plain").write_bytes(b"")
    assert said(tmp_path / "plain" / "below.mp4") == {f"{tmp_path}/plain/below.mp4: cannot be opened: Not a directory"}
    assert all("cannot be opened: embedded null" in line for line in said(Path(f"{tmp_path}/zero\0byte")))


def test_a_fifo_is_not_even_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    code = (
        "import sys\nfrom videodit.data import video\n"
        "for read in (video.probe, video.read, video.times):\n"
        "    try: read(sys.argv[1])\n    except video.InputError as error: print(error)\n"
    )
    run = [sys.executable, "-c", code, str(tmp_path / "pipe.mp4")]
    done = subprocess.run(run, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == f"{tmp_path}/pipe.mp4: not a plain file\n" * 3


def test_no_permission(tmp_path, monkeypatch):
    video.write(tmp_path / "clip.mp4", numbered(2), 8)
    original = os.open

    def forbidden(path: object, *rest: int) -> int:  # tests may run as root, whom no mode stops
        if str(path).endswith("clip.mp4"):
            raise PermissionError(13, "Permission denied")
        return original(path, *rest)

    monkeypatch.setattr(os, "open", forbidden)
    assert said(tmp_path / "clip.mp4") == {f"{tmp_path}/clip.mp4: cannot be opened: Permission denied"}


PLAYLIST = b"#EXTM3U\n#EXTINF:1,\nclip.mp4\n"


@pytest.mark.parametrize("content", [b"", b"\0", b"x" * 40, bytes(5000), PLAYLIST, b"GIF89a", b"BM"])
def test_what_holds_no_video(tmp_path, content):
    video.write(tmp_path / "clip.mp4", numbered(2), 8)
    (tmp_path / "other.mp4").write_bytes(content)
    for line in said(tmp_path / "other.mp4"):
        assert line.startswith(f"{tmp_path}/other.mp4: ")


def test_sound_alone_even_with_a_cover(tmp_path):
    for cover in (False, True):
        path = tmp_path / f"sound{cover}.mp4"
        with av.open(str(path), "w") as file:
            track = file.add_stream("aac", rate=8000)
            picture = file.add_stream("mjpeg", rate=1) if cover else None
            if picture:
                picture.width, picture.height, picture.pix_fmt = 64, 32, "yuvj420p"
                picture.disposition = 0x400
                for packet in picture.encode(av.VideoFrame.from_ndarray(numbered(1)[0], format="rgb24")):
                    file.mux(packet)
            for index in range(8):
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 8000, index * 1024
                file.mux(track.encode(frame))
            file.mux(track.encode())
        assert all("holds no video" in line for line in said(path)), cover


def test_sound_beside_the_picture_is_ignored(tmp_path):
    with av.open(str(tmp_path / "clip.mp4"), "w") as file:
        track, sound = file.add_stream("libx264", rate=25), file.add_stream("aac", rate=8000)
        track.width, track.height, track.pix_fmt = 64, 32, "yuv420p"
        for index, image in enumerate(numbered(30)):
            file.mux(track.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 8000, index * 1024
            file.mux(sound.encode(frame))
        for stream in (track, sound):
            file.mux(stream.encode())
    assert video.probe(tmp_path / "clip.mp4", exact=True).frames == 30
    assert numbers(video.read(tmp_path / "clip.mp4", first=12, frames=3)[0]) == [12, 13, 14]


NAMES = [
    "two\nlines.mp4",
    "tab\there.mp4",
    "größe 球 🎬.mp4",
    os.fsdecode(b"bytes\xff\xfe.mp4"),
    "http:clip.mp4",
    "-v.mp4",
    "%d.mp4",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_any_name_is_read(tmp_path, name):
    video.write(tmp_path / "clip.mp4", numbered(9), 8)
    path = tmp_path / name
    (tmp_path / "clip.mp4").rename(path)
    assert video.probe(path).frames == len(video.times(path)) == 9
    assert numbers(video.read(path)[0]) == list(range(9))
    for reader in READERS[1:]:
        try:
            assert numbers(video.read(path, reader=reader)[0]) == list(range(9))
        except InputError as error:
            assert str(error).isprintable() and name.startswith("bytes")
    path.write_bytes(b"not a video" * 100)
    assert all(line.startswith(f"{tmp_path}/") for line in said(path))


def test_a_bad_name_is_one_bad_sample(tmp_path):
    (tmp_path / "two\nlines.mp4").write_bytes(b"not a video" * 100)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "two\\nlines.mp4", "caption": "a"}\n')
    data = VideoFolder(
        root=tmp_path, part="all", share=None, frames=1, height=16, width=16, area=None, fps=8.0, fit="crop",
        stride=(1, 1, 1), patch=(1, 1, 1),
    )  # fmt: skip
    with pytest.raises(BadSample) as caught:
        data[0]
    assert caught.value.reason.startswith("not a readable video")


def test_a_count_that_cannot_be_is_not_believed(tmp_path):
    """decord would make room for all of them and abort."""
    encode(tmp_path / "clip.mp4", numbered(20), 25, "libx264", {}, "mp4")
    data = bytearray((tmp_path / "clip.mp4").read_bytes())
    place = data.index(b"stts") + 12  # how many frames last as long as the first: name, flags, entries, then this
    assert int.from_bytes(data[place : place + 4], "big") == 20
    data[place] = 0xF0
    (tmp_path / "clip.mp4").write_bytes(bytes(data))
    assert video.probe(tmp_path / "clip.mp4").frames <= 20
    for reader in READERS[1:]:
        with pytest.raises(InputError, match="use reader=av"):
            video.read(tmp_path / "clip.mp4", reader=reader)


def test_random_damage_is_never_another_exception(tmp_path):
    rng = np.random.default_rng(0)
    for codec, format in (("libx264", "mp4"), ("libx264", "matroska"), ("mpeg2video", "mpeg"), ("libx264", "mpegts")):
        encode(tmp_path / "good", numbered(30), 25, codec, {}, format)
        data = np.frombuffer((tmp_path / "good").read_bytes(), np.uint8)
        for turn in range(12):
            worse = data.copy()
            worse[rng.integers(0, len(data), 20)] = rng.integers(0, 256, 20)
            (tmp_path / "bad").write_bytes(worse[: len(worse) - turn * 50].tobytes())
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", video.CorruptPackets)
                for read in READS:
                    try:
                        read(tmp_path / "bad")
                    except InputError as error:
                        assert str(error).isprintable()


def test_sound_that_begins_later(tmp_path):
    """In a transport stream a track may appear on the way."""
    clip = numbered(60)
    encode(tmp_path / "a.ts", clip[:30], 25, "libx264", {}, "mpegts")
    with av.open(str(tmp_path / "b.ts"), "w") as file:
        track, sound = file.add_stream("libx264", rate=25), file.add_stream("aac", rate=8000)
        track.width, track.height, track.pix_fmt = 64, 32, "yuv420p"
        for index, image in enumerate(clip[30:]):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index + 100, Fraction(1, 25)
            file.mux(track.encode(frame))
            tone = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            tone.sample_rate, tone.pts = 8000, index * 1024 + 32000
            file.mux(sound.encode(tone))
        for stream in (track, sound):
            file.mux(stream.encode())
    path = tmp_path / "both.ts"
    path.write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert numbers(video.read(path)[0]) == list(range(60))
    assert len(video.times(path)) == 60 and numbers(video.read(path, first=40, frames=2)[0]) == [40, 41]
