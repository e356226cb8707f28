"""A contact sheet shows the frames it says it shows."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from videodit.data.sheet import GAP, LABEL, sheet
from videodit.errors import InputError


def greys(frames: int, height: int, width: int) -> np.ndarray:
    """Frame i has grey level 10 i."""
    return np.broadcast_to(np.arange(frames)[:, None, None, None] * 10, (frames, height, width, 3)).astype(np.uint8)


def test_each_row_spreads_its_frames_over_its_time(tmp_path):
    sheet(tmp_path / "deep" / "sheet.png", [greys(17, 20, 30), greys(3, 40, 10)], ["one", "two"], 5)
    page = np.asarray(Image.open(tmp_path / "deep" / "sheet.png"))
    assert page.shape == (GAP + 20 + 40 + 2 * (LABEL + GAP), GAP + 5 * (30 + GAP), 3)
    first, second = GAP + LABEL, GAP + LABEL + 20 + GAP + LABEL
    assert [page[first + 10, GAP + k * (30 + GAP) + 15, 0] for k in range(5)] == [0, 40, 80, 120, 160]
    assert [page[second + 20, GAP + k * (10 + GAP) + 5, 0] for k in range(3)] == [0, 10, 20]
    assert (page[second:-GAP, GAP + 3 * (10 + GAP) :] == 255).all()  # three frames, three pictures
    assert (page[GAP : GAP + LABEL] < 128).any()  # the label


def test_a_long_label_stays_on_the_page(tmp_path):
    sheet(tmp_path / "a.png", [greys(2, 20, 30)], ["word " * 500 + "\nnext — 中"], 2)
    page = np.asarray(Image.open(tmp_path / "a.png"))
    assert page.shape[1] == GAP + 2 * (30 + GAP) and (page[:, -GAP + 1 :] == 255).all()
    sheet(tmp_path / "b.png", [greys(1, 4, 1)], ["too narrow for a letter"], 1)


@pytest.mark.parametrize(("rows", "labels", "columns"), [(0, 0, 4), (1, 2, 4), (1, 1, 0)])
def test_what_makes_no_sheet(tmp_path, rows, labels, columns):
    with pytest.raises(InputError):
        sheet(tmp_path / "a.png", [greys(2, 4, 4)] * rows, ["a"] * labels, columns)
    assert os.listdir(tmp_path) == []


def test_a_folder_is_no_place_for_a_sheet(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        sheet(tmp_path, [greys(2, 4, 4)], ["a"], 2)
