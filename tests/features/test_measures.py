"""Measures: pictures whose numbers are known, and real clips of which one is worse than the other."""

from __future__ import annotations

import io
import re
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from videodit.data import video
from videodit.errors import InputError
from videodit.features.fingerprint import HASHES
from videodit.features.measures import MEASURES, BlockGrid, Clip, Lettering, Scorer, measure, score

REAL = Path(__file__).parents[3] / "shared" / "clips" / "camera"


def picture(seed: int, height: int, width: int, blur: float = 2.0) -> np.ndarray:
    """Smooth noise over the full range, uint8 (H,W,3)."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(blur))).astype(float)
    low, high = smooth.min(), smooth.max()
    return np.round(255 * (smooth - low) / (high - low)).astype(np.uint8)


def still(value: int, frames: int, height: int = 72, width: int = 128) -> list[np.ndarray]:
    return [np.full((height, width, 3), value, np.uint8)] * frames


def test_the_numbers_are_those_of_the_table() -> None:
    found = measure([picture(0, 90, 160)] * 3, 25.0, edge=64)
    assert list(found) == [one.name for one in MEASURES]
    assert all(type(value) is float and np.isfinite(value) for value in found.values())


def test_black_frames_are_counted() -> None:
    frames = still(0, 3) + still(25, 2) + still(26, 4) + still(255, 1)
    assert measure(frames, 25.0, edge=64)["black"] == 0.5
    dotted = np.zeros((100, 100, 3), np.uint8)
    dotted[:1] = 255
    assert measure([dotted], 25.0, edge=100)["black"] == 1  # 1 % of the pixels is allowed to be bright
    dotted[:3] = 255
    assert measure([dotted], 25.0, edge=100)["black"] == 0


def test_frozen_pairs_are_counted() -> None:
    one, other = picture(0, 72, 128), picture(1, 72, 128)
    assert measure([one, one, one, other, other], 25.0, edge=64)["frozen"] == 0.75
    assert measure([one], 25.0, edge=64)["frozen"] == 0


def test_a_speck_that_moves_over_a_still_is_not_frozen() -> None:
    frames = []
    for t in range(9):
        frames.append(still(90, 1, 256, 256)[0].copy())
        frames[-1][100:104, 10 * t : 10 * t + 4] = 255
    assert measure(frames, 25.0, edge=128)["frozen"] == 0


@pytest.mark.parametrize("size", [(90, 160), (360, 640), (640, 360)])
@pytest.mark.parametrize("shift", [(0, 1), (2, 0), (3, 4)])
def test_motion_is_that_of_a_picture_moved_by_known_pixels(size: tuple[int, int], shift: tuple[int, int]) -> None:
    height, width = size
    scale = min(size) // 90
    down, right = (scale * step for step in shift)
    wide = picture(0, height + 12 * down, width + 12 * right, blur=4.0 * scale)
    frames = [wide[down * t : down * t + height, right * t : right * t + width] for t in range(12)]
    expected = np.hypot(down, right) / width * 24
    assert measure(frames, 24.0, edge=180)["motion"] == pytest.approx(expected, rel=0.15)


def test_motion_is_a_speed_whatever_the_rate() -> None:
    wide = picture(0, 90, 400, blur=4.0)
    frames = [wide[:, 2 * t : 2 * t + 160] for t in range(100)]
    fast, slow = measure(frames, 60.0, edge=90)["motion"], measure(frames[::4], 15.0, edge=90)["motion"]
    assert fast == pytest.approx(2 / 160 * 60, rel=0.15) and slow == pytest.approx(fast, rel=0.15)
    assert measure(frames[:1], 60.0, edge=90)["motion"] == 0


def test_flicker_is_the_distance_of_two_levels_and_steady_change_is_none() -> None:
    levels = [100, 110] * 10
    assert measure([still(v, 1)[0] for v in levels], 25.0, edge=64)["flicker"] == pytest.approx(1000 / 255)
    assert measure([still(100 + 3 * t, 1)[0] for t in range(20)], 25.0, edge=64)["flicker"] == pytest.approx(0)
    assert measure(still(100, 2), 25.0, edge=64)["flicker"] == 0


def test_the_more_blurred_the_less_sharp_at_any_size() -> None:
    base = picture(0, 270, 480, blur=1.0)
    blurred = [np.asarray(Image.fromarray(base).filter(ImageFilter.GaussianBlur(b))) for b in (0, 1, 2, 4)]
    found = [measure([frame], 25.0, edge=270)["sharpness"] for frame in blurred]
    assert found == sorted(found, reverse=True) and found[0] > found[-1] + 1
    large = np.asarray(Image.fromarray(base).resize((960, 540), Image.Resampling.BICUBIC))
    assert measure([large], 25.0, edge=270)["sharpness"] == pytest.approx(found[0], abs=0.2)
    assert measure(still(80, 1), 25.0, edge=64)["sharpness"] == 0


def jpeg(frame: np.ndarray, quality: int) -> np.ndarray:
    held = io.BytesIO()
    Image.fromarray(frame).save(held, "jpeg", quality=quality)
    return np.asarray(Image.open(held))


@pytest.mark.parametrize("offset", [(0, 0), (3, 5)])
def test_the_harder_compressed_the_more_blocks_wherever_the_grid(offset: tuple[int, int]) -> None:
    base = picture(0, 256, 384, blur=1.5)
    down, right = offset
    levels = [base, *(jpeg(base, quality) for quality in (60, 25, 8))]
    found = [measure([frame[down:, right:]], 25.0, edge=64)["compression"] for frame in levels]
    assert found == sorted(found) and found[0] < 0.05 < 0.1 < found[-1] <= 1


def test_blocks_of_flat_colour_are_all_there_is() -> None:
    grid = BlockGrid(Clip(25.0, 64, 0))
    grid.count(np.kron(np.random.default_rng(0).integers(0, 256, (20, 30)), np.ones((8, 8))).astype(np.uint8))
    assert grid.number() > 0.9
    ramp = BlockGrid(Clip(25.0, 64, 0))
    ramp.count(np.tile(np.arange(200, dtype=np.uint8), (100, 1)))
    assert ramp.number() == 0


def written(height: int, width: int, lines: int, background: np.ndarray) -> tuple[np.ndarray, float]:
    """A picture with lines of text at the bottom and the share of it that their boxes cover."""
    image = Image.fromarray(background)
    draw = ImageDraw.Draw(image)
    font, area = ImageFont.load_default(height / 14), 0.0
    for line in range(lines):
        place = (width // 10, height - (line + 1) * height // 9)
        draw.text(place, "Subscribe for more videos", font=font, fill="white", stroke_width=1, stroke_fill="black")
        left, top, right, bottom = draw.textbbox(place, "Subscribe for more videos", font=font)
        area += (right - left) * (bottom - top)
    return np.asarray(image), area / (height * width)


@pytest.mark.parametrize("height", [256, 720])
@pytest.mark.parametrize("lines", [1, 2])
def test_text_covers_about_its_area(height: int, lines: int) -> None:
    width = height * 16 // 9
    frame, expected = written(height, width, lines, np.full((height, width, 3), 90, np.uint8))
    assert 0.6 * expected < measure([frame] * 10, 25.0, edge=256)["text"] < 1.5 * expected


def test_text_over_a_moving_picture_is_found_and_the_picture_alone_is_none() -> None:
    wide = picture(0, 256, 800, blur=2.5)
    frames = [wide[:, 6 * t : 6 * t + 455] for t in range(50)]
    titled = [written(256, 455, 2, frame) for frame in frames]
    expected = titled[0][1]
    assert measure(frames, 25.0, edge=256)["text"] < 0.1 * expected
    assert 0.5 * expected < measure((frame for frame, _ in titled), 25.0, edge=256)["text"] < 1.5 * expected


def test_a_gradient_has_no_text() -> None:
    ramp = np.repeat(np.tile(np.linspace(0, 255, 400).astype(np.uint8), (256, 1))[..., None], 3, axis=2)
    assert measure([ramp] * 10, 25.0, edge=256)["text"] == 0
    lettering = Lettering(Clip(25.0, 256, 0))
    lettering.count(np.kron([[0, 255], [255, 0]], np.ones((128, 128))).astype(np.uint8))  # strong edges, but no lines
    assert lettering.number() == 0


def test_brightness_contrast_and_saturation() -> None:
    grey = measure(still(51, 2), 25.0, edge=64)
    assert (grey["brightness"], grey["contrast"], grey["saturation"]) == pytest.approx((0.2, 0, 0))
    halves = np.zeros((64, 64, 3), np.uint8)
    halves[:, 32:] = 255
    assert measure([halves], 25.0, edge=64)["contrast"] == pytest.approx(0.5)
    halves[..., 1:] = 0
    assert measure([halves], 25.0, edge=64)["saturation"] == pytest.approx(0.5)


@pytest.mark.parametrize("size", [(1, 1), (2, 200), (8, 8), (17, 33), (40, 33)])
@pytest.mark.parametrize("frames", [1, 2, 3])
def test_small_frames_and_short_clips_have_numbers(size: tuple[int, int], frames: int) -> None:
    found = measure([picture(seed, *size) for seed in range(frames)], 25.0, edge=64)
    assert all(np.isfinite(value) for value in found.values())


def test_one_pass_holds_few_frames() -> None:
    wide = picture(0, 480, 1000, blur=4.0)
    tracemalloc.start()
    measure((np.ascontiguousarray(wide[:, t : t + 640]) for t in range(60)), 25.0, edge=128)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 480 * 640 * 3  # of 60; numpy's own arrays for the block grid are a few


def test_bad_arguments_are_named() -> None:
    with pytest.raises(InputError, match="no frames"):
        measure([], 25.0, edge=64)
    with pytest.raises(InputError, match="fps must be above 0"):
        measure(still(0, 1), 0.0, edge=64)
    with pytest.raises(InputError, match="another size"):
        measure(still(0, 1) + still(0, 1, 64, 64), 25.0, edge=64)
    with pytest.raises(InputError, match="must be uint8"):
        measure([np.zeros((64, 64, 3))], 25.0, edge=64)


def test_every_measure_says_what_it_means_and_its_range() -> None:
    names = [one.name for one in [*MEASURES, HASHES]]
    assert len(set(names)) == len(names)
    for one in MEASURES:
        assert re.search(r"\d( \w+)? to |0 none|a second$", one.meaning), one.name


def test_some_measures_alone_are_what_they_are_among_all() -> None:
    wide = picture(0, 90, 260, blur=4.0)
    frames = [wide[:, 3 * t : 3 * t + 160] for t in range(12)]
    every = measure(frames, 24.0, edge=64)
    some = [one for one in MEASURES if one.name in ("motion", "text", "flicker")]
    assert measure(frames, 24.0, edge=64, measures=some) == {one.name: every[one.name] for one in some}
    assert len(measure(frames, 24.0, edge=64, measures=[HASHES])["hashes"]) == 2


@pytest.mark.parametrize(("count", "seen"), [(1, [0]), (6, range(6)), (7, range(0, 7, 2)), (60, range(0, 60, 10))])
def test_a_model_sees_few_frames_evenly_spread(count: int, seen: Sequence[int]) -> None:
    class Blue:
        name, meaning = "blue", "level of blue of each frame"

        def __call__(self, frames: Sequence[np.ndarray]) -> float:
            levels.extend(int(frame[0, 0, 2]) for frame in frames)
            return float(np.mean(levels))

    levels: list[int] = []
    frames = (np.full((8, 8, 3), place, np.uint8) for place in range(count))
    blue = score(Blue())
    assert measure(frames, 25.0, edge=32, measures=[blue], count=count) == {"score_blue": np.mean(seen)}
    assert levels == list(seen) and blue.meaning == Blue.meaning


def test_a_scorer_is_any_function_with_a_name() -> None:
    class Redness:
        name = "redness"

        def __call__(self, frames: list[np.ndarray]) -> float:
            return float(np.mean([frame[..., 0].mean() for frame in frames]))

    scorer: Scorer = Redness()
    assert scorer(still(7, 2)) == 7
    assert measure(still(7, 2), 25.0, edge=64, measures=[score(scorer)]) == {"score_redness": 7}
    assert score(scorer).meaning == "a learned score"


@pytest.mark.skipif(not REAL.is_dir(), reason="the shared clips are not beside this checkout")
def test_a_distorted_clip_is_told_from_its_original() -> None:
    clean, bad = (
        measure(video.stream(REAL / f"carphone_{name}.mp4"), 29.97, edge=144) for name in ("pristine", "distorted")
    )
    assert bad["compression"] > 3 * clean["compression"] and bad["sharpness"] < clean["sharpness"] - 0.2
    assert bad["brightness"] == pytest.approx(clean["brightness"], abs=0.01)
