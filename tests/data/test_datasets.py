"""A folder of videos with captions: mistakes are named at once, every clip is legal, a bad file is one bad sample."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from videodit.data import video
from videodit.data.datasets import VideoFolder, read_entries
from videodit.data.sample import BadSample
from videodit.errors import InputError

REAL = Path(__file__).parents[3] / "shared" / "clips" / "captioned"
SHAPES = {"wide.mp4": (40, 48, 96), "tall.mp4": (12, 90, 50), "short.mp4": (3, 64, 64)}  # T, H, W at 10 fps


def clock(frames: int, height: int, width: int) -> np.ndarray:
    """Frames whose brightness tells their index: 6 levels a frame."""
    return np.broadcast_to(np.arange(frames)[:, None, None, None] * 6, (frames, height, width, 3)).astype(np.uint8)


def told(clip: torch.Tensor) -> list[int]:
    """The indices that `clock` wrote."""
    return (((clip.mean(dim=(0, 2, 3)) + 1) * 127.5) / 6).round().int().tolist()


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for name, shape in SHAPES.items():
        video.write(folder / name, clock(*shape), 10)
    return folder


@pytest.fixture
def folder(tmp_path, videos):
    shutil.copytree(videos, tmp_path, dirs_exist_ok=True)
    rows = [{"file_name": name, "caption": f"a {name[:-4]} clip"} for name in SHAPES]
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    return tmp_path


def open_(folder: Path, **changes) -> VideoFolder:
    arguments = {"frames": 9, "height": 32, "width": 32, "area": None, "fps": 10.0, "fit": "crop"}
    arguments |= {"part": "all", "share": None}
    return VideoFolder(root=folder, **(arguments | {"stride": (4, 8, 8), "patch": (1, 2, 2)} | changes))


def test_samples_are_clips_with_captions(folder):
    data = open_(folder)
    assert len(data) == 3
    sample = data[0]
    assert sample.clip.shape == (3, 9, 32, 32) and sample.clip.dtype == torch.float32
    assert sample.clip.min() >= -1 and sample.clip.max() <= 1
    assert (sample.caption, sample.fps, sample.key) == ("a wide clip", 10.0, "wide.mp4@0.000")
    assert told(sample.clip) == list(range(9))


@pytest.mark.parametrize(("frames", "lengths"), [(1, [1, 1, 1]), (9, [9, 9, 1]), (17, [17, 9, 1]), (49, [37, 9, 1])])
def test_a_short_video_gives_the_longest_legal_clip(folder, frames, lengths):
    data = open_(folder, frames=frames)
    assert [data[i].clip.shape[1] for i in range(3)] == lengths
    assert told(data[2].clip) == [0]


def test_the_draw_places_the_clip_and_nothing_else_does(folder):
    data = open_(folder)
    starts = [told(data.at(0, draw).clip)[0] for draw in (0.0, 0.25, 0.5, 0.75, 0.999)]
    assert starts == [0, 8, 15, 23, 31]  # 31 frames of room; a tie goes to the earlier frame
    assert torch.equal(data.at(0, 0.3).clip, open_(folder).at(0, 0.3).clip)
    assert data.at(0, 0.3).key != data.at(0, 0.4).key
    assert told(data.at(0, 0.999).clip) == list(range(31, 40))


def test_the_rate_is_the_one_asked_for(folder):
    assert told(open_(folder, fps=5.0)[0].clip) == list(range(0, 18, 2))
    own = open_(folder, fps=None)[1]
    assert own.fps == 10 and told(own.clip) == list(range(9))


@pytest.mark.parametrize("area", [1024, 48 * 96, 10**6])
def test_an_area_keeps_the_proportions(folder, area):
    data = open_(folder, height=None, width=None, area=area)
    for index, (_, rows, columns) in enumerate(SHAPES.values()):
        height, width = data[index].clip.shape[-2:]
        scale = min(1, (area / (rows * columns)) ** 0.5)
        assert height % 16 == width % 16 == 0
        assert abs(height - rows * scale) <= 16 and abs(width - columns * scale) <= 16


def test_readers_agree(folder):
    pytest.importorskip("decord")
    for draw in (0.0, 0.4):
        one, other = (open_(folder, reader=reader).at(0, draw) for reader in ("av", "decord"))
        assert torch.equal(one.clip, other.clip)


def test_an_unreadable_video_is_one_bad_sample(folder):
    (folder / "tall.mp4").write_bytes(b"not a video")
    (folder / "short.mp4").unlink()
    data = open_(folder)
    for index, reason in ((1, "not a readable video"), (2, "no such file")):
        with pytest.raises(BadSample, match=reason) as caught:
            data[index]
        assert caught.value.path == folder / list(SHAPES)[index]
        assert str(folder) not in caught.value.reason
    assert data[0].clip.shape[1] == 9


def test_a_file_that_holds_less_than_it_says_gives_a_legal_clip(folder, monkeypatch):
    original = video.stream
    monkeypatch.setattr(video, "stream", lambda *a, **k: (image for image, _ in zip(original(*a, **k), range(7))))  # noqa: B905
    assert open_(folder)[0].clip.shape[1] == 5
    monkeypatch.setattr(video, "stream", lambda *a, **k: iter(()))
    with pytest.raises(BadSample, match="too few"):
        open_(folder)[0]


def test_it_can_be_loaded_by_workers(folder):
    loader = DataLoader(open_(folder), batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert [sample.clip.shape[1] for sample in loader] == [9, 9, 1]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{not json", "line 2: not valid JSON"),
        ("[1, 2]", "line 2: should be a JSON object"),
        ('{"caption": "a"}', "line 2: lacks file_name; it has 'caption'"),
        ('{"file_name": "a.mp4"}', "line 2: lacks caption; it has 'file_name'"),
        ('{"file_name": "a.mp4", "caption": 3}', "line 2: caption should be a string"),
        ('{"file_name": "a.mp4", "caption": "a", "source": 3}', "line 2: source should be a string, got 3"),
        ('{"file_name": "../a.mp4", "caption": "a"}', "line 2: file_name '../a.mp4' should name a file inside"),
        ('{"file_name": "b/../../a.mp4", "caption": "a"}', "inside the folder"),
        ('{"file_name": "/etc/passwd", "caption": "a"}', "inside the folder"),
        ('{"file_name": "", "caption": "a"}', "inside the folder"),
    ],
)
def test_a_mistake_in_the_list_names_file_and_line(folder, line, says):
    good = '{"file_name": "wide.mp4", "caption": "a"}'
    (folder / "metadata.jsonl").write_text(f"{good}\n{line}\n{good}\n")
    with pytest.raises(InputError, match="metadata.jsonl") as caught:
        open_(folder)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_folder_or_list(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        open_(tmp_path / "nowhere")
    with pytest.raises(InputError, match="metadata.jsonl: no such file"):
        open_(tmp_path)
    (tmp_path / "metadata.jsonl").write_text("\n")
    with pytest.raises(InputError, match="lists no clip"):
        open_(tmp_path)
    (tmp_path / "metadata.jsonl").write_bytes(b"\xff\xfd")
    with pytest.raises(InputError, match="UTF-8"):
        open_(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"frames": 8},
        {"frames": 0},
        {"height": 40},
        {"width": None},
        {"area": 1024},
        {"height": None, "width": None},
        {"height": None, "width": None, "area": 0},
        {"fps": 0.0},
        {"fit": "squeeze"},
        {"reader": "cv2"},
    ],
)
def test_a_request_that_cannot_be_met(folder, changes):
    with pytest.raises(InputError):
        open_(folder, **changes)


def test_captions_may_hold_any_character(folder):
    caption = 'line\u2028separator "quoted" — 中文'
    row = json.dumps({"file_name": "sub/../wide.mp4", "caption": caption}, ensure_ascii=False)
    (folder / "metadata.jsonl").write_text(row, encoding="utf-8")
    assert read_entries(folder)[0].caption == caption


@pytest.mark.skipif(not REAL.is_dir(), reason="the shared clips are not beside this checkout")
def test_real_captioned_clips():
    data = VideoFolder(
        root=REAL,
        part="all",
        share=None,
        frames=17,
        height=None,
        width=None,
        area=64 * 64,
        fps=8.0,
        fit="crop",
        stride=(4, 8, 8),
        patch=(1, 2, 2),
    )
    assert len(data) == 18
    for index in range(0, 18, 6):
        sample = data.at(index, 0.5)
        assert sample.clip.shape == (3, 17, 64, 64) and sample.caption
        assert sample.clip.std() > 0.05
