"""Counts and times come from the packets; any interval, by time or by number, equals the same part of the whole."""

from __future__ import annotations

import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.data.clips import READERS, REAL, encode, numbered, numbers
from videodit.data import video
from videodit.data.video import by_av
from videodit.errors import InputError

QUIET = "log-level=none"
KINDS = [
    ("clip.mp4", "libx264", {"bf": "3"}, "mp4"),
    ("clip.mov", "libx265", {"x265-params": f"{QUIET}:open-gop=1:keyint=12:bframes=4"}, "mov"),
    ("hevc.mkv", "libx265", {"x265-params": f"{QUIET}:open-gop=1:keyint=12:bframes=4"}, "matroska"),
    ("hevc.ts", "libx265", {"x265-params": f"{QUIET}:open-gop=1:keyint=12:bframes=4"}, "mpegts"),
    ("refresh.mkv", "libx264", {"x264-params": "intra-refresh=1:keyint=12"}, "matroska"),
    ("refresh.ts", "libx264", {"x264-params": "intra-refresh=1:keyint=12"}, "mpegts"),
    ("av1.mp4", "libsvtav1", {"preset": "12", "svtav1-params": "keyint=12"}, "mp4"),
    ("vp8.webm", "libvpx", {"deadline": "realtime", "cpu-used": "8"}, "webm"),
    ("clip.avi", "mpeg4", {"bf": "2"}, "avi"),
    ("h264.avi", "libx264", {"bf": "2"}, "avi"),
    ("clip.flv", "libx264", {}, "flv"),
    ("clip.nut", "ffv1", {}, "nut"),
    ("clip.mpg", "mpeg2video", {"bf": "2"}, "mpeg"),
    ("clip.hevc", "libx265", {"x265-params": QUIET}, "hevc"),
    ("clip.mjpeg.mkv", "mjpeg", {}, "matroska"),
]


def moving(count: int) -> np.ndarray:
    """Numbered frames under noise, so that no frame is free to be equal to another."""
    noise = np.random.default_rng(0).integers(0, 60, (count, 64, 64, 3))
    return (numbered(count, 64, 64) * 0.7 + noise).astype(np.uint8)


@pytest.mark.parametrize(("name", "codec", "options", "format"), KINDS, ids=[row[0] for row in KINDS])
def test_every_frame_by_number_and_by_time(tmp_path, name, codec, options, format):
    path = tmp_path / name
    encode(path, moving(70), 25, codec, options, format, pixels="yuvj420p" if codec == "mjpeg" else "yuv420p")
    whole, _ = video.read(path)
    table = video.times(path)
    assert numbers(whole) == list(range(70))
    assert table.dtype == np.float64 and table == pytest.approx(np.arange(70) / 25, abs=1e-3)
    for exact in (True, False):
        info = video.probe(path, exact=exact)
        assert (info.frames, info.variable) == (70, False) and info.seconds == pytest.approx(70 / 25, abs=0.05)
    # decord does not know that after a seek a file without whole keyframes (intra refresh) takes a while to be right.
    readers = READERS if name in ("clip.mp4", "clip.mov", "hevc.mkv", "vp8.webm") else ["av"]
    for reader in readers:
        for first in (0, 1, 11, 12, 13, 36, 47, 69):
            part = list(video.stream(path, first=first, frames=5, reader=reader, table=table))
            assert np.array_equal(part, whole[first : first + 5]), (reader, first)
            part, _ = video.read(path, start=float(table[first]), frames=2, reader=reader)
            assert np.array_equal(part, whole[first : first + 2]), (reader, first)


@pytest.mark.parametrize("reader", READERS)
def test_numbers_whatever_the_frame_rate_does(tmp_path, reader):
    rng = np.random.default_rng(1)
    stamps = np.cumsum(rng.integers(1, 40, 60)).tolist()  # milliseconds
    for format in ("matroska", "mp4"):
        path = tmp_path / format
        encode(path, numbered(60), 1000, "libx264", {"bf": "2"}, format, stamps=stamps)
        assert video.times(path) == pytest.approx((np.array(stamps) - stamps[0]) / 1000, abs=1e-3)
        assert video.probe(path).variable and video.probe(path, exact=True).variable
        assert numbers(np.stack(list(video.stream(path, first=30, frames=46, reader=reader)))) == list(range(30, 60))
        assert numbers(video.read(path, first=17, frames=3, reader=reader)[0]) == [17, 18, 19]
        assert video.probe(path, exact=True).frames == 60


def test_a_number_with_a_rate_begins_at_its_time(tmp_path):
    encode(tmp_path / "clip.mp4", numbered(60), 25, "libx264", {}, "mp4")
    assert numbers(video.read(tmp_path / "clip.mp4", first=20, frames=4, fps=5)[0]) == [20, 25, 30, 35]


@pytest.mark.parametrize("request_", [{"first": -1}, {"first": 4}, {"first": 1, "start": 1.0}, {"threads": 0}])
def test_an_impossible_request_is_an_input_error(tmp_path, request_):
    video.write(tmp_path / "clip.mp4", numbered(4), 8)
    with pytest.raises(InputError):
        video.read(tmp_path / "clip.mp4", **request_)


def test_only_what_is_asked_for_by_number_is_decoded(tmp_path, monkeypatch):
    encode(tmp_path / "clip.mp4", numbered(240), 24, "libx264", {}, "mp4")
    table = video.times(tmp_path / "clip.mp4")
    decoded = []
    original = by_av._images
    monkeypatch.setattr(by_av, "_images", lambda *a: (decoded.append(1) or image for image in original(*a)))
    assert numbers(video.read(tmp_path / "clip.mp4", first=200, frames=5, table=table)[0]) == list(range(200, 205))
    assert sum(decoded) <= 1 + 12 + 5  # the first frame of the file, then from the keyframe before


def test_a_list_that_says_more_than_the_file_holds(tmp_path):
    """What was cut off at the end of an mp4 whose list of frames stands in front."""
    video.write(tmp_path / "clip.mp4", moving(60), 25)
    data = (tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    with pytest.warns(video.CorruptPackets):
        whole, _ = video.read(tmp_path / "cut.mp4")
    info = video.probe(tmp_path / "cut.mp4", exact=True)
    assert video.probe(tmp_path / "cut.mp4").frames == 60
    assert 10 < len(whole) < 50 and info.frames - len(whole) in (0, 1)  # the last packet may be half a frame


def test_a_fragmented_mp4_is_counted_whole(tmp_path):
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w", container_options={"movflags": "frag_keyframe+empty_moov"}) as file:
        track = file.add_stream("libx264", rate=25)
        track.height, track.width, track.pix_fmt, track.codec_context.gop_size = 32, 64, "yuv420p", 12
        for image in numbered(60):
            file.mux(track.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(track.encode())
    assert video.probe(path).frames == len(video.times(path)) == 60
    assert numbers(video.read(path, first=31, frames=2)[0]) == [31, 32]


def like(packet: av.Packet, content: bytes, track: Any) -> av.Packet:
    """Another packet in the same place."""
    other = av.Packet(content)
    other.pts, other.dts, other.time_base, other.stream = packet.pts, packet.dts, packet.time_base, track
    other.is_keyframe = packet.is_keyframe
    return other


def broken(path: Path, bad: set[int], rate: int = 10, count: int = 10) -> None:
    """An mjpeg file of which some packets hold nothing."""
    with av.open(str(path), "w") as file:
        track = file.add_stream("mjpeg", rate=rate)
        track.width, track.height, track.pix_fmt = 64, 32, "yuvj420p"
        for index, image in enumerate(numbered(count)):
            for packet in track.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                if index in bad:
                    packet = like(packet, b"this is no picture", track)
                file.mux(packet)


def test_a_corrupt_packet_keeps_its_number(tmp_path):
    broken(tmp_path / "clip.mkv", {3, 7})
    with pytest.warns(video.CorruptPackets) as caught:
        assert [number for number, _ in video.numbered(tmp_path / "clip.mkv")] == [0, 1, 2, 4, 5, 6, 8, 9]
    assert [warning.message.count for warning in caught] == [2]
    assert pickle.loads(pickle.dumps(caught[0].message)).count == 2
    with pytest.warns(video.CorruptPackets):
        found = list(video.numbered(tmp_path / "clip.mkv", first=2, frames=4))
    assert [number for number, _ in found] == numbers(np.stack([image for _, image in found])) == [2, 4, 5]
    assert len(video.times(tmp_path / "clip.mkv")) == video.probe(tmp_path / "clip.mkv").frames == 10


def test_time_begins_at_the_first_frame_that_can_be_decoded(tmp_path):
    broken(tmp_path / "clip.mkv", {0, 1})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", video.CorruptPackets)
        assert video.times(tmp_path / "clip.mkv") == pytest.approx(np.arange(8) / 10)
        assert numbers(video.read(tmp_path / "clip.mkv", first=3, frames=2)[0]) == [5, 6]
        assert numbers(video.read(tmp_path / "clip.mkv", start=0.3, frames=2)[0]) == [5, 6]


def test_a_transport_stream_that_begins_anywhere(tmp_path):
    encode(tmp_path / "clip.ts", moving(60), 25, "libx264", {}, "mpegts")
    data = (tmp_path / "clip.ts").read_bytes()
    (tmp_path / "cut.ts").write_bytes(data[len(data) // 188 // 3 * 188 :])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", video.CorruptPackets)
        whole, _ = video.read(tmp_path / "cut.ts")
        assert len(video.times(tmp_path / "cut.ts")) == len(whole) > 20
        for first in (0, 5, len(whole) - 3):
            assert np.array_equal(video.read(tmp_path / "cut.ts", first=first, frames=3)[0], whole[first : first + 3])


@pytest.mark.parametrize("later", [0, 300])
def test_recordings_strung_together(tmp_path, later):
    """The clock of a transport stream may begin anew, or earlier than it began."""
    clip = numbered(50)
    for name, part, begin in (("a.ts", clip[:30], later), ("b.ts", clip[30:], 0)):
        stamps = list(range(begin, begin + len(part)))
        encode(tmp_path / name, part, 25, "libx264", {}, "mpegts", stamps=stamps)
    (tmp_path / "both.ts").write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    whole, _ = video.read(tmp_path / "both.ts")
    assert numbers(whole) == list(range(50))
    assert len(video.times(tmp_path / "both.ts")) == video.probe(tmp_path / "both.ts").frames == 50
    for first in (0, 13, 28, 35, 47):
        assert np.array_equal(video.read(tmp_path / "both.ts", first=first, frames=3)[0], whole[first : first + 3])


def test_an_invisible_picture_is_no_frame(tmp_path):
    """VP8 keeps some pictures only to refer to them; here one is hidden by clearing its flag."""
    encode(tmp_path / "clip.webm", numbered(30), 25, "libvpx", {"deadline": "realtime"}, "webm")
    with av.open(str(tmp_path / "clip.webm")) as source, av.open(str(tmp_path / "hidden.webm"), "w") as target:
        track = target.add_stream_from_template(source.streams.video[0])
        for index, packet in enumerate(source.demux(video=0)):
            if packet.size:
                data = bytearray(bytes(packet))
                data[0] &= 0xFF if index != 5 else ~0x10
                target.mux(like(packet, bytes(data), track))
    whole, _ = video.read(tmp_path / "hidden.webm")
    assert numbers(whole) == [n for n in range(30) if n != 5]
    assert len(video.times(tmp_path / "hidden.webm")) == 29
    assert numbers(video.read(tmp_path / "hidden.webm", first=10, frames=2)[0]) == [11, 12]


@pytest.mark.parametrize("codec", ["libx264", "libsvtav1", "libvpx-vp9"])
@pytest.mark.parametrize("threads", [1, 3])
def test_decoding_starts_no_threads_unless_asked(tmp_path, codec, threads):
    options = {"libsvtav1": {"preset": "12"}, "libvpx-vp9": {"deadline": "realtime"}}.get(codec, {})
    encode(tmp_path / "clip", moving(40), 25, codec, options, "matroska")
    before = len(os.listdir("/proc/self/task"))
    frames = video.stream(tmp_path / "clip", start=0.4, threads=threads)
    shown = [next(frames)]
    started = len(os.listdir("/proc/self/task")) - before
    assert (started > 0) == (threads > 1)
    assert numbers(np.stack([*shown, *frames])) == list(range(10, 40))


@pytest.mark.skipif(not REAL.is_dir(), reason="the shared clips are not beside this checkout")
@pytest.mark.parametrize("name", ["ocean.ogv", "cityCC0.mpg", "park.mp4", "shot_change.mp4", "bikes.mp4"])
def test_real_clips_by_number(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", video.CorruptPackets)
        table = video.times(REAL / name)
        shown = list(video.numbered(REAL / name, table=table))
        assert [number for number, _ in shown] == list(range(len(table)))
        assert video.probe(REAL / name, exact=True).frames == len(table)
        for first in (0, 1, len(table) // 2, len(table) - 4):
            part, _ = video.read(REAL / name, first=first, frames=4)
            assert np.array_equal(part, [image for _, image in shown[first : first + 4]]), first
