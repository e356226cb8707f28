"""The embedding of the flow's time."""

from __future__ import annotations

import math

import torch

from tests.compare import assert_equal, noise, shaken
from videodit.nn.embed import TimeEmbed, sinusoid


def test_cosines_come_first() -> None:
    assert torch.equal(sinusoid(torch.zeros(1), 8), torch.tensor([[1.0] * 4 + [0.0] * 4]))


def test_closed_form() -> None:
    times = [0.0, 0.001, 0.5, 0.9371, 1.0]
    frequencies = [10000 ** (-i / 4) for i in range(4)]
    expected = [[f(1000 * t * w) for f in (math.cos, math.sin) for w in frequencies] for t in times]
    assert_equal(sinusoid(torch.tensor(times, dtype=torch.float64), 8), torch.tensor(expected), tolerance=1e-6)


def test_fp64_times_stay_apart() -> None:
    """Two times that fp32 cannot tell apart give different rows; the difference is the derivative."""
    near = torch.tensor([0.7, 0.7 + 1e-8], dtype=torch.float64)
    assert near.float().unique().numel() == 1
    rows = sinusoid(near, 16)
    assert not torch.equal(rows[0], rows[1])
    assert abs((rows[1, 8] - rows[0, 8]).item() - 1e-5 * math.cos(700)) < 2e-7


def test_time_embed_is_two_linears_around_a_silu() -> None:
    embed = shaken(TimeEmbed(dim=6, frequency_dim=8))
    t = noise(5).sigmoid().double()
    hidden = sinusoid(t, 8) @ embed.linear1.weight.T + embed.linear1.bias
    expected = (hidden * hidden.sigmoid()) @ embed.linear2.weight.T + embed.linear2.bias
    assert_equal(embed(t), expected)
    assert embed.bfloat16()(t).dtype == torch.bfloat16
