"""The moving average against its closed form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.train.runs import alone
from videodit.train.ema import EMA


class Module(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_it_is_the_weighted_sum_of_all_weights(decay: float) -> None:
    """average_n = sum_k (1 - d_k) prod_{j>k} d_j w_k + prod_j d_j w_start, with d_k = min(decay, (1+k)/(10+k))."""
    module = Module()
    nn.init.constant_(module.w, 2.0)
    ema = EMA(module=module, decay=decay)
    values = [float(step * step % 7) for step in range(40)]
    for step, value in enumerate(values):
        nn.init.constant_(module.w, value)
        ema.update(step)
    decays = [min(decay, (1 + step) / (10 + step)) for step in range(40)]
    expected, rest = 0.0, 1.0
    for value, d in zip(reversed(values), reversed(decays), strict=True):
        expected += rest * (1 - d) * value
        rest *= d
    torch.testing.assert_close(ema.averages["w"], torch.full((3,), expected + rest * 2.0))
    assert min(decays) < decay  # the beginning, where the average is shorter


def test_it_starts_as_a_copy_and_stays_with_constant_weights() -> None:
    module = Module()
    nn.init.constant_(module.w, 1.5)
    ema = EMA(module=module, decay=0.9)
    for step in range(20):
        ema.update(step)
    assert torch.equal(ema.averages["w"], torch.full((3,), 1.5))
    nn.init.constant_(module.w, 0.0)
    assert ema.averages["w"][0] == 1.5  # not a view of the weights


def test_buffers_are_copied_not_averaged() -> None:
    module = Module()
    ema = EMA(module=module, decay=0.9)
    module.seen += 7
    ema.update(0)
    assert ema.averages["seen"] == 7 and ema.averages["seen"].dtype == torch.int64


def test_swapping_exchanges_and_twice_is_nothing() -> None:
    module = Module()
    ema = EMA(module=module, decay=0.9)
    nn.init.constant_(module.w, 3.0)
    parameter = module.w
    ema.swap()
    assert module.w is parameter and torch.equal(module.w, torch.zeros(3))
    assert torch.equal(ema.averages["w"], torch.full((3,), 3.0))
    ema.swap()
    assert torch.equal(module.w, torch.full((3,), 3.0)) and torch.equal(ema.averages["w"], torch.zeros(3))


def test_what_is_frozen_has_no_copy() -> None:
    module = Module()
    module.still = nn.Parameter(torch.ones(2), requires_grad=False)
    assert EMA(module=module, decay=0.9).averages.keys() == {"w", "seen"}


def test_the_distance_is_a_share_of_the_weights() -> None:
    module = Module()
    nn.init.constant_(module.w, 2.0)
    ema = EMA(module=module, decay=0.9)
    assert ema.distance(alone()) == 0
    ema.averages["w"] -= 0.5
    assert ema.distance(alone()) == pytest.approx(0.25)
