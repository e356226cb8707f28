"""Training times: quantiles of the logit-normal, and the algebra of the shift."""

from __future__ import annotations

import pytest
import torch

from videodit.errors import InputError
from videodit.flow.times import logit_normal, shift, shift_for_tokens, uniform

T = torch.linspace(0, 1, 1001, dtype=torch.float64)


def test_uniform_stays_inside():
    t = uniform(torch.tensor([0.0, 0.25, 1.0]))
    assert t.dtype == torch.float64 and 0 < t[0] < 1e-5 and t[1] == 0.25 and 1 - 1e-5 < t[2] < 1


def test_logit_normal_is_the_distribution():
    probability = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)
    normal = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    for mean, std in [(0.0, 1.0), (0.5, 0.6)]:
        t = logit_normal(normal, mean=mean, std=std)
        exact = torch.sigmoid(mean + std * torch.special.ndtri(probability))
        torch.testing.assert_close(torch.quantile(t, probability), exact, rtol=0, atol=5e-3)
        logits = torch.logit(t)
        assert abs(logits.mean() - mean) < 5e-3 and abs(logits.std() - std) < 5e-3
    assert abs(logit_normal(normal, mean=0.0, std=1.0).mean() - 0.5) < 2e-3


def test_logit_normal_never_reaches_the_ends():
    t = logit_normal(torch.tensor([-30.0, 30.0]), mean=0.0, std=1.0)
    assert t.min() > 0 and t.max() < 1


def test_shift_keeps_ends_and_order():
    for s in (0.2, 1.0, 3.0, 12.0):
        moved = shift(T, s)
        assert moved[0] == 0 and moved[-1] == pytest.approx(1, abs=1e-15) and (moved.diff() > 0).all()
    torch.testing.assert_close(shift(T, 1.0), T)


def test_shift_composes_by_multiplication():
    torch.testing.assert_close(shift(shift(T, 3.0), 2.5), shift(T, 7.5), rtol=0, atol=1e-14)
    assert shift(shift(0.3, 4.0), 0.25) == pytest.approx(0.3)


def test_shift_per_clip():
    t, s = torch.tensor([0.5, 0.5]).double(), torch.tensor([1.0, 3.0]).double()
    assert shift(t, s).tolist() == [0.5, 0.75]


def test_shift_grows_with_the_square_root_of_tokens():
    assert shift_for_tokens(400, base_tokens=400, base_shift=1.5) == 1.5
    assert shift_for_tokens(1600, base_tokens=400, base_shift=1.5) == 3.0
    with pytest.raises(InputError):
        shift_for_tokens(0, base_tokens=400, base_shift=1.0)
