"""What is cut from a shot: legal shapes, all of its time, nothing squeezed; and which shots are selected."""

from __future__ import annotations

from typing import Any

import pytest

from videodit.errors import InputError
from videodit.ingest.record import Dropped
from videodit.ingest.run import components
from videodit.ingest.select import check_bounds, fault
from videodit.ingest.shape import Shape
from videodit.shapes import Sizes, VideoShape

HOW = {"fps": 8.0, "frames": 17, "shortest": 5, "areas": (4096,), "sizes": Sizes((4, 8, 8), (1, 2, 2))}


def shot(seconds: float = 2.0, height: int = 120, width: int = 200, **more: Any) -> dict[str, Any]:
    return {"shot": "s", "count": 1 + round(seconds * 25), "first": 10, "last": 10 + round(seconds * 25),
            "shot_start": 0.4, "seconds": seconds, "height": height, "width": width, "source_fps": 25.0,
            **more}  # fmt: skip


@pytest.mark.parametrize("seconds", [0.52, 1.0, 2.1, 2.15, 4.3, 9.99])
@pytest.mark.parametrize("fps", [8.0, 24.0, None])
def test_clips_follow_one_another_and_are_legal(seconds: float, fps: float | None) -> None:
    clips = Shape(**{**HOW, "fps": fps})(shot(seconds))
    rate = fps or 25.0
    for before, after in zip(clips[:-1], clips[1:], strict=True):
        assert after["start"] == pytest.approx(before["start"] + before["frames"] / rate) and before["frames"] == 17
    assert clips[0]["start"] == 0.4 and all(clip["fps"] == rate for clip in clips)
    for clip in clips:
        for height, width in clip["sizes"]:
            VideoShape(clip["frames"], height, width).latent((4, 8, 8)).grid((1, 2, 2))  # raises where it is not legal
    end = clips[-1]["start"] + (clips[-1]["frames"] - 1) / rate
    assert end < 0.4 + seconds and seconds - (end - 0.4) < (5 + 4) / rate  # less than one more clip is left over
    assert len({clip["id"] for clip in clips}) == len(clips)


def test_sizes_keep_proportions_and_never_enlarge() -> None:
    for height, width in ((120, 200), (200, 120), (720, 1280), (64, 64), (50, 400)):
        areas = (1024, 4096, 16384)
        ideal = [VideoShape(1, height, width).within(area) for area in areas]
        for size in Shape(**{**HOW, "areas": areas})(shot(1.0, height, width))[0]["sizes"]:
            assert size[0] <= height and size[1] <= width and not size[0] % 16 and not size[1] % 16
            assert any(abs(size[0] - one.height) <= 8 and abs(size[1] - one.width) <= 8 for one in ideal)
    with pytest.raises(Dropped, match="smaller than 16x16"):
        Shape(**HOW)(shot(1.0, 12, 300))


def test_a_picture_is_a_clip_of_one_frame() -> None:
    picture = shot(0.04) | {"last": 10}
    assert [clip["frames"] for clip in Shape(**{**HOW, "shortest": 1})(picture)] == [1]
    with pytest.raises(Dropped, match="shorter than 5 frames"):
        Shape(**HOW)(picture)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("frames", 16),
        ("shortest", 0),
        ("shortest", 18),
        ("areas", ()),
        ("areas", (0,)),
        ("areas", (255,)),
        ("fps", 0.0),
    ],
)
def test_what_cannot_be_is_refused(key: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"shape.{key}="):
        Shape(**{**HOW, key: value})


def test_bounds() -> None:
    bounds = {"black": (None, 0.5), "seconds": (1.0, 60.0)}
    assert fault({"black": 0.5, "seconds": 1.0}, bounds) is None
    assert fault({"black": 0.75, "seconds": 0.1}, bounds) == ("black above 0.5", "0.75")
    assert fault({"black": 0.0, "seconds": 0.1}, bounds) == ("seconds below 1", "0.1")
    assert fault({"black": float("nan"), "seconds": 2.0}, bounds)[0] == "black unknown"
    for wrong in ({"blakc": (0, 1)}, {"black": 0.5}, {"black": (0, 1, 2)}, {"black": ("a", 1)}):
        with pytest.raises(InputError, match="select.bla"):
            check_bounds(wrong, ["black"])
    check_bounds({"score_beauty": (0, None)}, ["black", "score_beauty"])


def test_groups_are_what_is_connected() -> None:
    names = components([["a", "a"], ["c", "d"], ["b", "c"], ["e", "e"], ["d", "a"]])
    assert names == {"a": "a", "b": "a", "c": "a", "d": "a", "e": "e"}
