"""The resizer gives exactly what is asked for, keeps proportions where it says so, and never leaves [-1,1]."""

from __future__ import annotations

import itertools

import pytest
import torch

from videodit.data.resize import resize, retime
from videodit.errors import InputError
from videodit.shapes import PRESETS, parse_size

FITS = ("crop", "pad", "stretch")


def noise(frames: int, height: int, width: int) -> torch.Tensor:
    return torch.rand((3, frames, height, width), generator=torch.Generator().manual_seed(0)) * 2 - 1


def disc(height: int, width: int, radius: float) -> torch.Tensor:
    """A white disc in the middle of black."""
    y = torch.arange(height).view(-1, 1) - (height - 1) / 2
    x = torch.arange(width).view(1, -1) - (width - 1) / 2
    return ((y**2 + x**2 < radius**2).float() * 2 - 1).expand(3, 1, height, width)


@pytest.mark.parametrize("fit", FITS)
def test_the_size_is_exact_and_values_stay_in_range(fit):
    sides = (1, 2, 7, 33, 64)
    clip = noise(2, 48, 31).sign()  # the hardest edges there are
    for height, width in itertools.product(sides, sides):
        out = resize(clip, height, width, fit=fit)
        assert out.shape == (3, 2, height, width)
        assert out.min() >= -1 and out.max() <= 1
    for rows, columns in itertools.product(sides, sides):
        assert resize(noise(1, rows, columns), 30, 17, fit=fit).shape == (3, 1, 30, 17)


@pytest.mark.parametrize("fit", FITS)
def test_the_same_size_changes_nothing(fit):
    clip = noise(11, 24, 40)
    assert torch.equal(resize(clip, 24, 40, fit=fit), clip)


@pytest.mark.parametrize("fit", FITS)
def test_frames_do_not_touch_each_other(fit):
    clip = noise(19, 24, 40)
    whole = resize(clip, 30, 30, fit=fit)
    for index in (0, 7, 8, 18):
        assert torch.allclose(whole[:, index : index + 1], resize(clip[:, index : index + 1], 30, 30, fit=fit))


def test_crop_keeps_the_middle_and_the_proportions():
    clip = resize(disc(60, 100, 20), 120, 90, fit="crop")  # twice as large, the sides cut off
    white = clip[0, 0] > 0
    assert white.any(0).sum() == pytest.approx(80, abs=1) and white.any(1).sum() == pytest.approx(80, abs=1)
    assert torch.allclose(clip, clip.flip(-1), atol=1e-5) and torch.allclose(clip, clip.flip(-2), atol=1e-5)
    inside = noise(1, 40, 60)
    assert torch.equal(resize(inside, 40, 40, fit="crop"), inside[..., 10:50])


def test_pad_shows_everything_between_black_bars():
    clip = resize(torch.ones(3, 2, 40, 80), 60, 60, fit="pad")
    assert (clip[:, :, 15:45] > 0.999).all()
    assert (clip[:, :, :15] == -1).all() and (clip[:, :, 45:] == -1).all()
    tall = resize(torch.ones(3, 1, 80, 40), 61, 60, fit="pad")
    columns = (tall[0, 0] > -1).all(0)
    assert columns.sum() in (30, 31) and abs(int(columns[:30].sum()) - int(columns[30:].sum())) <= 1


def test_stretch_changes_the_proportions():
    white = resize(disc(64, 64, 20), 64, 128, fit="stretch")[0, 0] > 0
    assert white.any(0).sum() == pytest.approx(80, abs=1) and white.any(1).sum() == pytest.approx(40, abs=1)


def test_making_smaller_is_antialiased():
    fine = ((torch.arange(64) % 2) * 2.0 - 1).expand(3, 1, 64, 64)  # stripes one pixel wide average to grey
    assert resize(fine, 8, 8, fit="stretch")[..., 1:-1].abs().max() < 0.05


def test_a_plain_colour_stays_itself():
    clip = torch.full((3, 1, 37, 53), 0.3)
    for size in ((16, 16), (90, 200)):
        assert torch.allclose(resize(clip, *size, fit="crop"), torch.tensor(0.3), atol=1e-5)


@pytest.mark.parametrize("arguments", [(0, 64, "crop"), (64, -1, "pad"), (64, 64, "squeeze")])
def test_an_impossible_size_or_fit(arguments):
    height, width, fit = arguments
    with pytest.raises(InputError):
        resize(noise(1, 8, 8), height, width, fit=fit)


# --- time


def test_retime_is_exact_where_the_source_has_frames():
    clip = noise(9, 4, 4)
    assert torch.equal(retime(clip, 8, 8, 9), clip)
    assert torch.equal(retime(clip, 8, 4, 5), clip[:, ::2])
    assert torch.equal(retime(clip, 8, 24, 25)[:, ::3], clip)


@pytest.mark.parametrize(("fps_in", "fps_out", "frames"), [(8, 24, 49), (8, 30, 61), (24, 23.976, 17), (30, 8, 5)])
def test_steady_motion_stays_steady(fps_in, fps_out, frames):
    seconds = torch.arange(18) / fps_in
    clip = (seconds / 4 - 0.5).view(1, -1, 1, 1).expand(3, -1, 2, 2)
    wanted = (torch.arange(frames) / fps_out).clamp(max=17 / fps_in) / 4 - 0.5
    out = retime(clip, fps_in, fps_out, frames)
    assert out.shape == (3, frames, 2, 2)
    assert torch.allclose(out[0, :, 0, 0], wanted, atol=1e-6)


def test_past_the_end_the_last_frame_stands_still():
    clip = noise(3, 4, 4)
    assert torch.equal(retime(clip, 8, 8, 6)[:, 2:], clip[:, 2:].expand(-1, 4, -1, -1))
    assert torch.equal(retime(clip[:, :1], 8, 24, 7), clip[:, :1].expand(-1, 7, -1, -1))


@pytest.mark.parametrize("arguments", [(8, 8, 0), (0, 8, 4), (8, -1, 4), (8, float("nan"), 4)])
def test_an_impossible_time(arguments):
    with pytest.raises(InputError):
        retime(noise(3, 4, 4), *arguments)


# --- words for sizes


def test_sizes_are_width_by_height():
    assert parse_size("96x64") == (64, 96) and parse_size(" 1920X1080 ") == (1080, 1920)


@pytest.mark.parametrize(
    "size", ["0x64", "64x0", "abc", "", "64", "64x", "-4x4", "64x64x3", "6.4x64", "x", "9" * 9 + "x4"]
)
def test_what_is_no_size(size):
    with pytest.raises(InputError, match="WIDTHxHEIGHT"):
        parse_size(size)


def test_presets_lie_the_way_their_screens_do():
    assert {name: width < height for name, (height, width) in PRESETS.items() if height != width} == {
        "phone": True,
        "tablet": True,
        "desktop": False,
    }
    assert PRESETS["square"] == (1080, 1080)
    assert all(side % 2 == 0 for size in PRESETS.values() for side in size)  # yuv420p: plays everywhere
