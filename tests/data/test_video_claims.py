"""Every number that a file says of itself is bounded by what was decoded."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.data.clips import encode, numbered, numbers
from videodit.data import video
from videodit.data.video.frame import FASTEST, LAST, rate_of, until
from videodit.errors import InputError

DAY = 86400.0


def lasting(path: Path, seconds: float, format: str = "matroska") -> None:
    """Ten frames at 25 a second, the last of which is said to be shown for so long."""
    with av.open(str(path), "w", format=format) as file:
        track = file.add_stream("mjpeg", rate=25)
        track.width, track.height, track.pix_fmt, track.time_base = 64, 32, "yuvj420p", Fraction(1, 1000)
        for index, image in enumerate(numbered(10)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = 40 * index, Fraction(1, 1000)
            for packet in track.encode(frame):
                packet.duration = round((seconds if index == 9 else 0.04) / packet.time_base)
                file.mux(packet)


@pytest.mark.parametrize("format", ["matroska", "mp4", "nut"])
@pytest.mark.parametrize("seconds", [DAY, 1.5 * DAY, 0.04])
def test_a_last_frame_is_believed_for_two_seconds(tmp_path: Path, format: str, seconds: float) -> None:
    lasting(tmp_path / "clip", seconds, format)
    most = 9 / 25 + min(LAST, seconds) + 0.05
    for exact in (False, True):
        info = video.probe(tmp_path / "clip", exact=exact)
        assert 9 / 25 < info.seconds <= most and info.frames == 10 and info.fps == pytest.approx(25, rel=0.2)
    assert video.timeline(tmp_path / "clip")[1] <= most
    assert len(list(video.stream(tmp_path / "clip", fps=8, frames=10_000))) <= most * 8 + 1


def test_an_end_lies_after_its_beginning_and_near_it() -> None:
    for end in (-5.0, 0.0, 3.0, 3.04, 4.9, DAY, float("inf")):
        assert 3.0 < until(3.0, end) <= 3.0 + LAST
    assert until(3.0, 3.5) == 3.5


@pytest.mark.parametrize("times", [np.arange(50) / 25, np.zeros(50), np.zeros(1), np.array([0, DAY, 9 * DAY]),
                                   np.concatenate([np.arange(25) / 25, DAY + np.arange(25) / 25])])  # fmt: skip
def test_a_rate_is_one_that_the_frames_can_have(times: np.ndarray) -> None:
    assert 0 < rate_of(90000.0, times) <= FASTEST
    steps = np.diff(times)
    if len(times) > 10 and steps.any():
        assert rate_of(90000.0, times) == pytest.approx(25) and rate_of(24.0, times) == 24.0
        assert rate_of(len(steps) / steps.sum(), times) == len(steps) / steps.sum(), "a true mean is always believed"


def test_a_rate_of_the_clock_is_not_that_of_the_frames(tmp_path: Path) -> None:
    stamps = [3600 * i for i in range(20)]
    for format in ("mp4", "matroska"):
        encode(tmp_path / format, numbered(20), 90000, "libx264", {}, format, stamps=stamps)
        for exact in (False, True):
            assert video.probe(tmp_path / format, exact=exact).fps == pytest.approx(25, rel=0.2)


def test_a_moving_picture_that_stands_for_minutes(tmp_path: Path) -> None:
    images = [Image.fromarray(image) for image in numbered(4)]
    images[0].save(tmp_path / "slow.gif", save_all=True, append_images=images[1:], duration=655_350)
    info, (times, end) = video.probe(tmp_path / "slow.gif"), video.timeline(tmp_path / "slow.gif")
    assert info.frames == 4 and times[3] == pytest.approx(3 * 655.35)
    assert info.seconds == end == times[3] + LAST


def test_frames_of_gigabytes_are_refused(tmp_path: Path) -> None:
    """What the pictures say, is looked at before anything is decoded."""
    with av.open(str(tmp_path / "grown.mkv"), "w") as file:
        track = file.add_stream("mjpeg", rate=25)
        track.width, track.height, track.pix_fmt = 64, 32, "yuvj420p"
        for image in numbered(2):
            for packet in track.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                data = bytearray(bytes(packet))
                start = data.index(b"\xff\xc0") + 5
                data[start : start + 4] = struct.pack(">HH", 60000, 60000)
                other = av.Packet(bytes(data))
                other.pts, other.dts, other.time_base, other.stream = packet.pts, packet.dts, packet.time_base, track
                file.mux(other)
    with pytest.raises(InputError, match=r"grown\.mkv"):
        video.read(tmp_path / "grown.mkv")


def strung(folder: Path, begins: tuple[int, int]) -> Path:
    """Two recordings of 30 numbered frames in one transport stream, whose clocks begin at these frames."""
    for name, part, begin in (("a", numbered(30), begins[0]), ("b", numbered(60)[30:], begins[1])):
        encode(folder / name, part, 25, "libx264", {}, "mpegts", stamps=list(range(begin, begin + 30)))
    (folder / "both.ts").write_bytes((folder / "a").read_bytes() + (folder / "b").read_bytes())
    return folder / "both.ts"


@pytest.mark.parametrize("begins", [(0, 0), (1500, 0), (0, 15), (15, 0)])
def test_by_time_a_clock_that_jumped_back_gives_what_came_first(tmp_path: Path, begins: tuple[int, int]) -> None:
    """By any start and rate: never a frame of the later recording at a time that the earlier one has had."""
    path = strung(tmp_path, begins)
    times = video.times(path)
    expected = [n for n in range(60) if times[n] > max(times[:n], default=-1.0)]
    assert expected[:30] == list(range(30)) and len(times) == 60
    for first in (0, 3, 11, 17, 26, 29, *range(30, len(expected), 4)):
        shown = numbers(np.stack(list(video.stream(path, start=first / 25, frames=4, fps=25))))
        assert shown == expected[first : first + 4]
        assert numbers(video.read(path, start=first / 25, frames=1)[0]) == [expected[first]]
