"""Schedules: falling from 1 to 0, and diffusers' own times to the last bit."""

from __future__ import annotations

import pytest
import torch
from diffusers import UniPCMultistepScheduler

from videodit.errors import InputError
from videodit.flow.schedules import linear


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
@pytest.mark.parametrize("shift", [0.2, 1.0, 3.3, 11.7])
@pytest.mark.parametrize("end", [0.0, 0.001])
def test_falls_from_one_to_zero(steps, shift, end):
    t = linear(steps, shift, end=end)
    assert t.shape == (steps + 1,) and t.dtype == torch.float64
    assert t[0] == 1 and t[-1] == 0 and (t.diff() < 0).all()


def test_even_without_shift():
    torch.testing.assert_close(linear(4, 1.0, end=0), torch.tensor([1, 0.75, 0.5, 0.25, 0], dtype=torch.float64))


@pytest.mark.parametrize("shift", [0.2, 1.0, 3.0, 3.3, 5.0, 8.0, 12.0])
def test_diffusers_times_bit_for_bit(shift):
    """One unit in the last place would turn a whole number 1000·t into the one below it."""
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    for steps in (*range(1, 60), 100, 333, 999, 1000):
        scheduler.set_timesteps(steps)
        t = linear(steps, shift)[:-1].clamp(max=1 - 1e-6)
        assert torch.equal((1000 * t).long(), scheduler.timesteps), steps
        assert torch.equal(t.float(), scheduler.sigmas[:-1]), steps


@pytest.mark.parametrize(("steps", "shift"), [(0, 1.0), (-3, 1.0), (10, 0.0), (10, -1.0), (10, float("nan"))])
def test_bad_input(steps, shift):
    with pytest.raises(InputError):
        linear(steps, shift)
