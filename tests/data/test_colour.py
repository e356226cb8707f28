"""The mathematics of HDR, against closed forms and the standards' own numbers."""

from __future__ import annotations

import numpy as np
import pytest

from videodit.data.colour import (
    GAMMA,
    PEAK,
    TO_BT2020,
    WHITE,
    hlg_to_light,
    light_to_pq,
    pq_to_light,
    to_sdr,
    tone,
)

DEEP = 65535


def sdr_in_pq(image: np.ndarray, white: float = WHITE) -> np.ndarray:
    """An SDR picture, uint8 (H,W,3), as BT.2408 puts it into a PQ signal: uint16."""
    light = white * (image / 255) ** GAMMA @ TO_BT2020.T
    return np.rint(light_to_pq(light) * DEEP).astype(np.uint16)


def test_pq_is_the_standards():
    """BT.2408-7 table 1 and BT.2100: signal against light."""
    signal = light_to_pq(np.array([0.0, 0.1, 100, 203, 1000, 4000, 10000]))
    assert signal == pytest.approx([0, 0.0623, 0.5081, 0.5807, 0.7518, 0.9026, 1], abs=1e-4)
    ramp = np.linspace(0, 1, 1001)
    assert light_to_pq(pq_to_light(ramp)) == pytest.approx(ramp, abs=1e-6)


def test_hlg_is_the_standards():
    """BT.2408-7: 75 % HLG is 203 cd/m2, 38 % (an 18 % grey card) 26; the ends are 0 and the peak."""
    grey = np.repeat(np.array([0, 0.38, 0.75, 1.0])[:, None], 3, axis=1)
    light = hlg_to_light(grey)
    assert light[:, 0] == pytest.approx([0, 26, 203, PEAK], rel=0.02, abs=1e-3)
    assert np.ptp(light, axis=1).max() < 1e-9


def test_the_tone_curve():
    light = np.concatenate([[0.0], np.geomspace(1e-3, 10000, 5000)])
    out = tone(light)
    assert out[0] == pytest.approx(0, abs=1e-9) and out[-1] == pytest.approx(WHITE)
    assert (np.diff(out) >= -1e-9).all() and (np.diff(out[light < PEAK]) > 0).all()
    assert (out <= light + 1e-6).all(), "it only ever darkens"
    knee = light < 85
    assert out[knee] == pytest.approx(light[knee], rel=1e-6)
    step = tone(np.array([PEAK - 1, PEAK, PEAK + 1]))
    assert np.ptp(step) < 0.01, "it arrives with slope 0"


@pytest.mark.parametrize("transfer", ["pq", "hlg", None])
@pytest.mark.parametrize("wide", [True, False])
def test_black_white_neutral_and_monotone(transfer, wide):
    ramp = np.repeat(np.arange(0, DEEP + 1, 13, dtype=np.uint16)[None, :, None], 3, axis=2)
    out = to_sdr(ramp, transfer=transfer, wide=wide)[0].astype(int)
    assert out.shape[1] == 3 and np.ptp(out, axis=1).max() == 0
    assert out[0, 0] == 0 and out[-1, 0] == 255
    assert (np.diff(out[:, 0]) >= 0).all()
    assert np.diff(out[:, 0]).max() <= (2 if transfer else 1), "no bands"


def test_white_of_an_sdr_picture_leaves_room_for_highlights():
    """BT.2390 at 203 cd/m2, by hand: 159 of 203 cd/m2, which is 90 % of the signal."""
    white = np.full((1, 1, 3), round(float(light_to_pq(np.array(WHITE))) * DEEP), np.uint16)
    assert to_sdr(white, transfer="pq", wide=True)[0, 0].tolist() == pytest.approx([230] * 3, abs=2)


def test_an_sdr_picture_in_pq_comes_back():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 175, (64, 64, 3)).astype(np.uint8)  # below the knee: exact, up to rounding
    back = to_sdr(sdr_in_pq(image), transfer="pq", wide=True)
    assert np.abs(back.astype(int) - image).max() <= 2 and np.abs(back.astype(int) - image).mean() < 0.1
    bright = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    back = to_sdr(sdr_in_pq(bright), transfer="pq", wide=True)
    assert np.abs(back.astype(int) - bright).mean() < 10
    assert (back.max(axis=-1) <= bright.max(axis=-1).astype(int) + 1).all()


def test_a_brighter_picture_keeps_its_hues():
    orange = np.array([[[250, 140, 40]]], np.uint8)
    out = [to_sdr(sdr_in_pq(orange, white), transfer="pq", wide=True)[0, 0] / 255 for white in (100, 203, 500)]
    shares = [(rgb**GAMMA) / (rgb**GAMMA).sum() for rgb in out]
    assert out[0].sum() < out[1].sum() < out[2].sum()
    assert shares[0] == pytest.approx(shares[1], abs=0.01) and shares[1] == pytest.approx(shares[2], abs=0.01)


def test_wide_primaries():
    """A colour of BT.709 is the same after a trip through BT.2020; one that BT.709 lacks is clipped, not wrapped."""
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    signal = np.rint(((image / 255) ** GAMMA @ TO_BT2020.T) ** (1 / GAMMA) * DEEP).astype(np.uint16)
    assert np.abs(to_sdr(signal, transfer=None, wide=True).astype(int) - image).max() <= 1
    green = np.array([[[0, DEEP, 0]]], np.uint16)
    assert to_sdr(green, transfer=None, wide=True)[0, 0].tolist() == [0, 255, 0]
    assert np.abs(to_sdr(image.astype(np.uint16) * 257, transfer=None, wide=False).astype(int) - image).max() == 0
