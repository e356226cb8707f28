"""Odd sizes in mp4: even frames and a flag that says which part of them is seen, ours and other programs'."""

from __future__ import annotations

import struct

import av
import numpy as np
import pytest

from tests.data.clips import READERS, psnr, smooth
from videodit.data import video
from videodit.data.video.aperture import aperture
from videodit.errors import InputError


@pytest.mark.parametrize("size", [(47, 34), (48, 33), (47, 33), (1, 1)])
def test_an_odd_size_is_a_flag_and_plays_everywhere(tmp_path, size):
    """Stored are even frames in yuv420p, whose last row and column are copies; the box says which part is seen."""
    path, frames = tmp_path / "clip.mp4", smooth(9, *size)
    video.write(path, frames, 8, metadata={"comment": "x" * 5000})
    with av.open(str(path)) as file:
        [track], stored = file.streams.video, tuple(edge + edge % 2 for edge in size)
        assert (track.height, track.width, track.pix_fmt) == (*stored, "yuv420p") and track.profile == "High"
        whole = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    assert whole.shape == (9, *stored, 3)
    if min(size) > 1:
        padded = np.pad(frames, [(0, 0), (0, stored[0] - size[0]), (0, stored[1] - size[1]), (0, 0)], mode="edge")
        assert psnr(whole, padded) > 30
    content = path.read_bytes()
    place = content.index(b"clap")
    box = struct.unpack(">4I4i", content[place + 4 : place + 36])
    assert box == (size[1], 1, size[0], 1, size[1] - stored[1], 2, size[0] - stored[0], 2)  # ISO 14496-12, 12.1.4
    info, back = video.probe(path), video.read(path)[0]
    assert (info.height, info.width, info.comment) == (*size, "x" * 5000) and back.shape == frames.shape
    assert np.array_equal(back, whole[:, : size[0], : size[1]])
    assert np.array_equal(video.read(path, first=5, frames=2)[0], back[5:7])
    if "decord" in READERS and min(size) > 2:
        with pytest.raises(InputError, match="shows what is not to be seen; use reader=av"):
            video.read(path, reader="decord")


@pytest.mark.parametrize(
    ("box", "seen"),
    [
        ((20, 1, 10, 1, 0, 1, 0, 1), (11, 6, 10, 20)),  # in the middle
        ((40, 2, 10, 1, 12, 2, -22, 2), (0, 12, 10, 20)),  # in the corner on top, right
        ((32, 1, 32, 1, 0, 1, 0, 1), None),
        ((40, 1, 10, 1, 0, 1, 0, 1), None),
        ((20, 1, 10, 1, 100, 1, 0, 1), None),
        ((20, 0, 10, 1, 0, 1, 0, 1), None),
        ((0, 1, 10, 1, 0, 1, 0, 1), None),
        ((2**32 - 1, 1, 10, 1, -(2**31), 1, 0, 1), None),
    ],
)
def test_another_programs_aperture(tmp_path, box, seen):
    """One that cannot be is left alone."""
    path = tmp_path / "clip.mp4"
    video.write(path, smooth(3, 31, 32), 8)  # stored as 32x32
    content = path.read_bytes()
    place = content.index(b"clap") + 4
    path.write_bytes(content[:place] + struct.pack(">4I4i", *box) + content[place + 32 :])
    back = video.read(path)[0]
    with av.open(str(path)) as file:
        whole = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    top, left, height, width = seen or (0, 0, 32, 32)
    assert np.abs(back.astype(int) - whole[:, top : top + height, left : left + width]).max() == 0
    assert (video.probe(path).height, video.probe(path).width) == (height, width)


@pytest.mark.parametrize("seed", range(40))
def test_damaged_boxes_are_no_error_of_ours(tmp_path, seed):
    video.write(tmp_path / "clip.mp4", smooth(3, 31, 33), 8)
    content, rng = bytearray((tmp_path / "clip.mp4").read_bytes()), np.random.default_rng(seed)
    moov = content.index(b"moov")
    for place in rng.integers(moov - 4, content.index(b"mdat"), 6):
        content[place] = rng.integers(256)
    (tmp_path / "clip.mp4").write_bytes(content)
    try:
        aperture(tmp_path / "clip.mp4", 32, 34)
        video.read(tmp_path / "clip.mp4")
    except InputError as error:
        assert "\n" not in str(error)
