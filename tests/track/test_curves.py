"""Curves read, smoothed (against closed forms) and thinned; tools/curves.py draws a picture of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from videodit.errors import InputError
from videodit.track.curves import smoothed, thinned
from videodit.track.jsonl import Jsonl


@pytest.fixture(scope="module")
def curves() -> ModuleType:
    spec = importlib.util.spec_from_file_location("curves", Path(__file__).parents[2] / "tools" / "curves.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_smoothing_keeps_constants_and_the_middle_of_lines_and_skips_gaps() -> None:
    values = np.full(200, 3.0)
    values[50:60] = np.nan
    values[70] = np.inf
    assert np.allclose(smoothed(values, 5.0), 3.0)
    line = np.arange(200.0)
    assert np.allclose(smoothed(line, 5.0)[20:-20], line[20:-20])
    noise = np.random.default_rng(0).standard_normal(4000)
    assert smoothed(noise, 10.0).var() == pytest.approx(1 / (2 * np.pi**0.5 * 10), rel=0.2)
    assert np.array_equal(smoothed(np.array([2.0]), 5.0), [2.0])


def test_thinning_keeps_extremes_and_short_curves() -> None:
    steps, values = np.arange(1000), np.sin(np.arange(1000) / 50)
    values[333], values[500:600] = 9.0, np.nan
    few = thinned((steps, values), 40)
    assert len(few[0]) <= 40 and np.all(np.diff(few[0]) > 0) and few[1][few[0] == 333] == 9.0
    assert np.nanmin(few[1]) == np.nanmin(values) and np.isnan(few[1]).any()
    assert np.array_equal(thinned((steps[:40], values[:40]), 40)[1], values[:40])


def test_runs_are_compared_in_one_picture(curves, tmp_path, capsys) -> None:
    for name, steps in (("a", 50), ("b", 80)):
        with Jsonl(path=tmp_path / name / "metrics.jsonl") as tracker:
            tracker.start({}, 0)
            for step in range(1, steps):
                tracker.scalars(step, {"loss": float("nan") if step == 7 else 1 / step, "lr": 1e-3})
            tracker.scalars(steps, {"loss/held_out": 1.0})
    out = tmp_path / "curves.png"
    curves.main([str(tmp_path / "a"), str(tmp_path / "b"), f"out={out}"])
    assert capsys.readouterr().out.strip() == str(out)
    with Image.open(out) as picture:
        assert picture.width > picture.height > 300  # two panels side by side
    with pytest.raises(InputError, match="no run has psnr; names= takes: loss, lr, loss/held_out"):
        curves.main([str(tmp_path / "a"), "names=psnr"])
    with pytest.raises(InputError, match="no metrics.jsonl"):
        curves.main([str(tmp_path)])
