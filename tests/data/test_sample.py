"""Stored frames to clips and back."""

from __future__ import annotations

import pickle

import numpy as np
import torch

from videodit.data.sample import BadSample, to_clip, to_frames


def test_every_grey_level_survives_the_round_trip():
    frames = np.arange(256 * 3, dtype=np.uint32).astype(np.uint8).reshape(4, 8, 8, 3)
    clip = to_clip(frames)
    assert clip.shape == (3, 4, 8, 8) and clip.dtype == torch.float32
    assert clip.min() == -1 and clip.max() == 1
    assert clip[2, 3, 7, 5] == frames[3, 7, 5, 2] / 127.5 - 1
    assert np.array_equal(to_frames(clip), frames)


def test_frames_are_rounded_and_saturate():
    levels = torch.tensor([-3.0, 99.4 / 127.5 - 1, 99.6 / 127.5 - 1, 3.0]).view(1, 1, 1, 4).expand(3, 1, 1, 4)
    assert to_frames(levels)[0, 0, :, 0].tolist() == [0, 99, 100, 255]


def test_a_bad_sample_survives_the_way_from_a_worker():
    error = pickle.loads(pickle.dumps(BadSample("clips/a.mp4", "no such file")))
    assert (str(error), error.path.name, error.reason) == ("clips/a.mp4: no such file", "a.mp4", "no such file")
