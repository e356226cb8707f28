"""Interlaced video comes out as whole frames, the same from wherever reading begins; other video as it is."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.data.clips import READERS, encode
from videodit.data import video
from videodit.data.datasets import VideoFolder
from videodit.data.sample import INTERLACED
from videodit.errors import InputError

HEIGHT, WIDTH, STATIC = 64, 96, 16


def scene(moment: float) -> np.ndarray:
    """A ball on its way to the right, and in the last rows a fine pattern that stays: (H,W,3)."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    image[(rows - 24) ** 2 + (columns - 20 - 2 * moment) ** 2 < 15**2] = (230, 220, 200)
    image[-STATIC::2] = 200
    return image


def woven(count: int, top_first: bool = True) -> np.ndarray:
    """Frames of two moments each, in alternate lines."""
    frames = np.stack([scene(2 * number) for number in range(count)])
    later = np.stack([scene(2 * number + 1) for number in range(count)])
    frames[:, 1 if top_first else 0 :: 2] = later[:, 1 if top_first else 0 :: 2]
    return frames


KINDS = {  # codec, its options, container, the first field
    "top.mp4": ("libx264", {"crf": "8", "flags": "+ildct", "g": "5"}, "mp4", "tff"),
    "bottom.mkv": ("libx264", {"crf": "8", "flags": "+ildct", "g": "5"}, "matroska", "bff"),
    "mpeg2.ts": ("mpeg2video", {"qmin": "2", "qmax": "3", "flags": "+ildct+ilme", "g": "5"}, "mpegts", "tff"),
}


def made(folder: Path, name: str, count: int = 17) -> Path:
    codec, options, container, order = KINDS[name]
    with av.open(str(folder / name), "w", format=container) as file:
        track = file.add_stream(codec, rate=25, options=options)
        track.width, track.height, track.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        track.codec_context.thread_count = 1
        graph, format = av.filter.Graph(), av.VideoFormat("yuv420p")
        source = graph.add_buffer(width=WIDTH, height=HEIGHT, format=format, time_base=Fraction(1, 25))
        marked, sink = graph.add("setfield", order), graph.add("buffersink")
        source.link_to(marked)
        marked.link_to(sink)
        graph.configure()
        for number, image in enumerate(woven(count, order == "tff")):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            graph.push(frame)
            file.mux(track.encode(graph.pull()))
        file.mux(track.encode())
    return folder / name


def combed(frames: np.ndarray) -> float:
    """How much lines differ from both neighbours, where things move."""
    moving = frames[:, :-STATIC].astype(int)
    middle, above, below = moving[:, 1:-1], moving[:, :-2], moving[:, 2:]
    return float(np.maximum(np.minimum(abs(middle - above), abs(middle - below)) - 8, 0).mean())


def places(frames: np.ndarray) -> np.ndarray:
    """The column of the ball's middle in each frame (T,)."""
    light = (frames[:, :-STATIC].mean(axis=3) > 150).sum(axis=1)
    return (light * np.arange(WIDTH)).sum(axis=1) / light.sum(axis=1)


@pytest.mark.parametrize("name", KINDS)
def test_frames_come_out_whole(tmp_path: Path, name: str) -> None:
    path = made(tmp_path, name)
    frames = video.read(path)[0]
    expected = np.stack([scene(2 * number) for number in range(len(frames))])
    assert len(frames) == 17 == video.probe(path, exact=True).frames
    middle = slice(1, -1)  # the first and the last have one neighbour only
    assert combed(frames[middle]) < combed(woven(17)) / 2
    assert abs(places(frames) - places(expected))[middle].max() < 0.6, "as at the moment of the first field"
    assert abs(frames[middle, -STATIC + 2 : -2].astype(int) - expected[middle, -STATIC + 2 : -2]).mean() < 12


@pytest.mark.skipif("decord" not in READERS, reason="decord is not installed")
def test_decord_leaves_such_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="decord does not deinterlace; use reader=av"):
        video.read(made(tmp_path, "top.mp4"), reader="decord")


@pytest.mark.parametrize("name", KINDS)
def test_a_frame_is_the_same_from_wherever_reading_begins(tmp_path: Path, name: str) -> None:
    path = made(tmp_path, name)
    whole = video.read(path)[0]
    for first in range(len(whole)):
        assert np.array_equal(video.read(path, first=first, frames=3)[0], whole[first : first + 3]), first
    assert [number for number, _ in video.numbered(path)] == list(range(17))
    assert np.allclose(np.diff(video.times(path)), 1 / 25, atol=1e-3)


@pytest.mark.parametrize("name", KINDS)
def test_it_is_told(tmp_path: Path, name: str) -> None:
    """By a file's description, and by the clips of a folder."""
    path = made(tmp_path, name)
    path.with_suffix(".txt").write_text("a ball")
    encode(tmp_path / "plain.mp4", woven(5), 25, "libx264", {"crf": "8"}, "mp4")
    (tmp_path / "plain.txt").write_text("another")
    assert video.probe(path).interlaced and not video.probe(tmp_path / "plain.mp4").interlaced
    clips = VideoFolder(
        root=tmp_path, part="all", share=None, frames=5, height=None, width=None, area=4096, fps=8, fit="crop",
        stride=(4, 8, 8), patch=(1, 2, 2),
    )  # fmt: skip
    told = {entry.file_name: clips.made_up(number) for number, entry in enumerate(clips.entries)}
    assert told == {name: (INTERLACED,), "plain.mp4": ()}
    assert all(clips[number].made_up == told[entry.file_name] for number, entry in enumerate(clips.entries))


def test_what_is_not_interlaced_stays_as_it_is(tmp_path: Path) -> None:
    """Whatever it looks like."""
    encode(tmp_path / "a.mp4", woven(5), 25, "libx264", {"crf": "8"}, "mp4")
    assert combed(video.read(tmp_path / "a.mp4")[0]) > combed(woven(5)) / 2
