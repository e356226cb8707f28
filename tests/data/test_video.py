"""Reading gives exactly the frames asked for, whatever the container; writing gives back exactly what was written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from fractions import Fraction

import av
import numpy as np
import pytest

from tests.data.clips import READERS, REAL, encode, numbered, numbers, psnr, smooth
from videodit.data import video
from videodit.data.video import by_av
from videodit.errors import InputError

# --- writing


@pytest.mark.parametrize("size", [(64, 64), (33, 65), (64, 31), (1, 1), (2, 2), (270, 480)])
@pytest.mark.parametrize("fps", [8, 24000 / 1001, 0.5])
def test_what_is_written_is_read_back(tmp_path, size, fps):
    frames = smooth(5, *size)
    video.write(tmp_path / "clip.mp4", frames, fps)
    info = video.probe(tmp_path / "clip.mp4")
    assert (info.frames, info.height, info.width, info.codec) == (5, *size, "h264")
    assert info.fps == pytest.approx(fps, rel=1e-9) and info.seconds == pytest.approx(5 / fps, abs=1e-3)
    even = size[0] % 2 == size[1] % 2 == 0
    for reader in READERS if min(size) > 2 and even else ["av"]:
        back, rate = video.read(tmp_path / "clip.mp4", reader=reader)
        assert back.shape == frames.shape and rate == info.fps
        assert psnr(back, frames) > 30


def test_one_frame_is_a_video(tmp_path):
    video.write(tmp_path / "image.mp4", smooth(1, 64, 64), 8)
    assert video.probe(tmp_path / "image.mp4").frames == 1
    assert video.read(tmp_path / "image.mp4")[0].shape == (1, 64, 64, 3)


@pytest.mark.parametrize("reader", READERS)
def test_colours_come_back(tmp_path, reader):
    edge = 64
    colours = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (250, 240, 10), (128, 128, 128), (0, 0, 0), (255,) * 3])
    frames = np.broadcast_to(colours[:, None, None], (len(colours), edge, edge, 3)).astype(np.uint8)
    video.write(tmp_path / "clip.mp4", frames, 8)
    back, _ = video.read(tmp_path / "clip.mp4", reader=reader)
    assert np.abs(back.astype(int) - frames).max() <= 4


def test_metadata_round_trip(tmp_path):
    record = json.dumps({"prompt": 'a "red" ball;\n=rolls\\ — größer 球' * 200, "seed": 1}, ensure_ascii=False)
    assert len(record) > 4000
    video.write(tmp_path / "clip.mp4", smooth(2, 16, 16), 8, metadata={"comment": record, "videodit": "x"})
    metadata = video.probe(tmp_path / "clip.mp4").metadata
    assert metadata["comment"] == record and metadata["videodit"] == "x"


def test_writing_is_deterministic(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        video.write(tmp_path / name, smooth(9, 64, 96), 8)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_missing_folders_are_made_and_an_old_file_is_replaced(tmp_path):
    path = tmp_path / "new" / "deeper" / "clip.mp4"
    for count in (2, 3):
        video.write(path, smooth(count, 16, 16), 8)
        assert video.probe(path).frames == count
    assert os.listdir(path.parent) == ["clip.mp4"]


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    path = tmp_path / "clip.mp4"
    video.write(path, smooth(2, 16, 16), 8)
    before = path.read_bytes()
    script = (
        "import resource, sys, numpy as np\n"
        "from videodit.data import video\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "noise = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), dtype=np.uint8)\n"
        "try:\n    video.write(sys.argv[1], noise, 8)\n"
        "except video.InputError as error:\n    print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert run.stdout == f"{path}: cannot be written: File too large\n"
    assert os.listdir(tmp_path) == ["clip.mp4"] and path.read_bytes() == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("bug")])
def test_an_interruption_leaves_nothing_and_is_not_disguised(tmp_path, error):
    with pytest.raises(type(error)), video.replacing(tmp_path / "clip.mp4") as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "its place holds what is no video's frames"),
        ("clip.avi", "must end in .mp4"),
        ("clip.png", "a .png holds one frame, not 2"),
        ("clip.gif", "at most 50 frames a second, not 60"),
        ("file.txt/clip.mp4", "cannot be written"),
        ("x" * 300 + ".mp4", "cannot be written"),
    ],
)
def test_a_place_that_cannot_be_written(tmp_path, name, says):
    (tmp_path / "file.txt").write_text("not a folder")
    with pytest.raises(InputError, match=says) as caught:
        video.write(tmp_path / name, smooth(2, 16, 16), 60)
    assert "\n" not in str(caught.value) and os.listdir(tmp_path) == ["file.txt"]


def test_a_device_is_never_replaced():
    with pytest.raises(InputError, match="not a plain file"), video.replacing("/dev/null"):
        pass


@pytest.mark.parametrize(
    ("frames", "fps"),
    [
        (np.zeros((2, 16, 16, 3), np.float32), 8),
        (np.zeros((2, 3, 16, 16), np.uint8), 8),
        (np.zeros((0, 16, 16, 3), np.uint8), 8),
        (np.zeros((1, 1, 20000, 3), np.uint8), 8),
        (np.zeros((2, 16, 16, 3), np.uint8), 0),
        (np.zeros((2, 16, 16, 3), np.uint8), float("nan")),
    ],
)
def test_what_is_no_video_is_not_written(tmp_path, frames, fps):
    with pytest.raises(InputError):
        video.write(tmp_path / "clip.mp4", frames, fps)
    assert os.listdir(tmp_path) == []


# --- reading

CONTAINERS = [
    ("clip.mp4", "libx264", {"bf": "3"}, "mp4"),
    ("clip.mkv", "libx264", {"bf": "2", "x264-params": "open-gop=1"}, "matroska"),
    ("clip.ts", "libx264", {}, "mpegts"),
    ("clip.mpg", "mpeg2video", {"bf": "2"}, "mpeg"),
    ("clip.avi", "mpeg4", {}, "avi"),
    ("clip.webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}, "webm"),
    ("clip.h264", "libx264", {}, "h264"),
]


@pytest.mark.parametrize(("name", "codec", "options", "format"), CONTAINERS, ids=[row[0] for row in CONTAINERS])
def test_an_interval_equals_the_same_part_of_the_whole(tmp_path, name, codec, options, format):
    path = tmp_path / name
    noise = np.random.default_rng(0).integers(0, 60, (200, 32, 64, 3))
    encode(path, (numbered(200) * 0.7 + noise).astype(np.uint8), 25, codec, options, format)
    whole, fps = video.read(path)
    info = video.probe(path)
    assert numbers(whole) == list(range(200)) and fps == 25
    assert info.frames == 200 and info.seconds == pytest.approx(8, abs=0.05)
    readers = READERS if path.suffix in (".mp4", ".mkv", ".webm") else ["av"]
    for reader in readers:
        for index in (0, 1, 11, 12, 13, 97, 133, 198, 199):
            part, _ = video.read(path, start=index / 25, frames=3, reader=reader)
            assert np.array_equal(part, whole[index : index + 3]), (reader, index)


@pytest.mark.parametrize(
    ("options", "divided"),
    [
        ({"bf": "0"}, True),
        ({"bf": "3"}, True),
        ({"x264-params": "open-gop=1:bframes=2"}, False),
        ({"x264-params": "intra-refresh=1"}, False),
    ],
)
def test_keyframes_divide_a_file_whose_groups_are_closed(tmp_path, options, divided):
    encode(tmp_path / "clip.mp4", numbered(60), 25, "libx264", options, "mp4")
    assert by_av.divided(tmp_path / "clip.mp4", 60) == divided
    assert not by_av.divided(tmp_path / "clip.mp4", 61)


@pytest.mark.skipif("decord" not in READERS, reason="decord is not installed")
@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"bf": "0"}),
        ("libx264", {"bf": "3"}),
        ("libx264", {"x264-params": "open-gop=1:bframes=2"}),
        ("mpeg4", {"bf": "0"}),
        ("mpeg4", {"bf": "2"}),
    ],
)
def test_decord_finds_every_frame_of_every_group(tmp_path, codec, options):
    encode(tmp_path / "clip.mp4", numbered(60), 25, codec, options, "mp4")
    for index in range(60):
        part, _ = video.read(tmp_path / "clip.mp4", start=index / 25, frames=20, reader="decord")
        assert numbers(part) == list(range(index, min(60, index + 20)))


@pytest.mark.skipif("decord" not in READERS, reason="decord is not installed")
def test_decord_sees_that_a_file_was_replaced(tmp_path):
    for size in (32, 64):
        video.write(tmp_path / "clip.mp4", smooth(9, size, size), 8)
        assert video.read(tmp_path / "clip.mp4", reader="decord")[0].shape == (9, size, size, 3)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("fps", [5, 10, 15, 24, 25, 60])
@pytest.mark.parametrize("start", [0.0, 0.62, 2.1])
def test_each_output_time_gets_the_nearest_source_frame(tmp_path, reader, fps, start):
    encode(tmp_path / "clip.mp4", numbered(100), 25, "libx264", {}, "mp4")
    frames, rate = video.read(tmp_path / "clip.mp4", start=start, fps=fps, reader=reader)
    # Exact arithmetic; a tie goes to the earlier frame. The last frame is shown until second 4.
    times = [Fraction(start).limit_denominator(100) + Fraction(k, fps) for k in range(1000)]
    nearest = [min(range(100), key=lambda i, t=t: (abs(Fraction(i, 25) - t), i)) for t in times if t < 4]
    assert numbers(frames) == nearest and rate == fps
    some, _ = video.read(tmp_path / "clip.mp4", start=start, fps=fps, frames=4, reader=reader)
    assert numbers(some) == nearest[:4]


def test_uneven_times_are_respected(tmp_path):
    stamps = [0, 1, 2, 10, 11, 30]  # tenths of a second
    with av.open(str(tmp_path / "clip.mkv"), "w") as file:
        track = file.add_stream("libx264", rate=10)
        track.width, track.height, track.pix_fmt = 64, 32, "yuv420p"
        for stamp, image in zip(stamps, numbered(6), strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = stamp, Fraction(1, 10)
            file.mux(track.encode(frame))
        file.mux(track.encode())
    for reader in READERS:
        frames, _ = video.read(tmp_path / "clip.mkv", fps=2, frames=7, reader=reader)
        assert numbers(frames) == [0, 2, 3, 4, 4, 5, 5], reader  # 0, 0.5, … 3 seconds


def test_only_the_interval_is_decoded_and_nothing_is_hoarded(tmp_path, monkeypatch):
    encode(tmp_path / "clip.mp4", numbered(240), 24, "libx264", {}, "mp4")
    decoded = []
    original = by_av._images
    monkeypatch.setattr(by_av, "_images", lambda *a: (decoded.append(1) or image for image in original(*a)))
    video.read(tmp_path / "clip.mp4", start=200 / 24, frames=5)
    assert 5 <= sum(decoded) <= 12 + 5 + 2  # from the keyframe before, to the frame after
    decoded.clear()
    frames = video.stream(tmp_path / "clip.mp4")
    assert numbers(next(frames)[None]) == [0] and sum(decoded) < 30


def test_a_file_that_ends_early_gives_what_it_has(tmp_path):
    encode(tmp_path / "clip.mkv", numbered(100), 25, "libx264", {}, "matroska")
    assert len(video.read(tmp_path / "clip.mkv", start=3.8, frames=17)[0]) == 5
    data = (tmp_path / "clip.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    frames, _ = video.read(tmp_path / "cut.mkv")
    assert 10 < len(frames) < 90 and numbers(frames[:10]) == list(range(10))


def test_corrupt_packets_are_skipped_and_counted(tmp_path):
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as file:
        track = file.add_stream("mjpeg", rate=10)
        track.width, track.height, track.pix_fmt = 64, 32, "yuvj420p"
        for index, image in enumerate(numbered(10)):
            for packet in track.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                if index in (3, 7):
                    broken = av.Packet(b"this is no picture")
                    broken.pts, broken.dts, broken.time_base = packet.pts, packet.dts, packet.time_base
                    broken.stream = track
                    packet = broken
                file.mux(packet)
    with pytest.warns(video.CorruptPackets, match="clip.mkv: skipped 2 corrupt packets"):
        assert numbers(video.read(path)[0]) == [0, 1, 2, 4, 5, 6, 8, 9]
    with pytest.warns(video.CorruptPackets):
        assert numbers(video.read(path, fps=10)[0]) == [0, 1, 2, 2, 4, 5, 6, 6, 8, 9]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert numbers(video.read(path, start=0.4, frames=2)[0]) == [4, 5]


@pytest.mark.parametrize("content", [None, b"", b"not a video" * 1000, "cut", "no packet"])
@pytest.mark.parametrize("reader", READERS)
def test_an_unreadable_file_is_named_in_one_line(tmp_path, content, reader):
    path = tmp_path / "clip.mp4"
    video.write(tmp_path / "good.mp4", smooth(9, 64, 64), 8)
    data = (tmp_path / "good.mp4").read_bytes()
    if content == "cut":
        content = data[:900]
    if content == "no packet":
        content = data[: data.rindex(b"mdat") + 4] + bytes(len(data) - data.rindex(b"mdat") - 4)
    if content is not None:
        path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", video.CorruptPackets)
        with pytest.raises(InputError, match="clip.mp4") as caught:
            video.read(path, reader=reader)
    assert "\n" not in str(caught.value)


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "sound.wav"), "w") as file:
        track = file.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        file.mux(track.encode(frame))
    with pytest.raises(InputError, match="holds no video"):
        video.probe(tmp_path / "sound.wav")


@pytest.mark.parametrize("request_", [{"start": -1.0}, {"start": 99.0}, {"frames": 0}, {"fps": 0.0}, {"reader": "cv2"}])
def test_an_impossible_request_is_an_input_error(tmp_path, request_):
    video.write(tmp_path / "clip.mp4", smooth(4, 16, 16), 8)
    with pytest.raises(InputError):
        video.read(tmp_path / "clip.mp4", **request_)


@pytest.mark.skipif("decord" not in READERS, reason="decord is not installed")
def test_decord_refuses_what_it_would_get_wrong(tmp_path):
    encode(tmp_path / "clip.mpg", numbered(50), 25, "mpeg2video", {}, "mpeg")
    with pytest.raises(InputError, match="use reader=av"):
        video.read(tmp_path / "clip.mpg", reader="decord")
    video.write(tmp_path / "speck.mp4", smooth(2, 2, 2), 8)
    with pytest.raises(InputError, match="use reader=av"):
        video.read(tmp_path / "speck.mp4", reader="decord")


REAL_FRAMES = {"ocean.ogv": 249, "cityCC0.mpg": 190, "park.mp4": 17, "carphone_distorted.mp4": 120}


@pytest.mark.skipif(not REAL.is_dir(), reason="the shared clips are not beside this checkout")
@pytest.mark.parametrize(("name", "count"), REAL_FRAMES.items())
def test_real_clips_with_quirks(name, count):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        whole, fps = video.read(REAL / name)
    skipped = ["skipped 1 corrupt packets"] if name == "ocean.ogv" else []
    assert [str(w.message).split(": ")[1] for w in caught] == skipped
    assert len(whole) == count == video.probe(REAL / name).frames
    part, _ = video.read(REAL / name, start=(count - 8) / fps, frames=4)
    lost = 1 if skipped else 0  # the place of the lost packet stays empty: frames after it have one number less
    assert np.array_equal(part, whole[count - 8 - lost : count - 4 - lost])
