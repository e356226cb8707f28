"""Guidance: the formula, its function-of-t form, and no unconditional half where it would change nothing."""

from __future__ import annotations

import torch

from videodit.flow.guidance import classifier_free
from videodit.flow.samplers import euler
from videodit.flow.schedules import linear

X = [torch.linspace(-1, 1, 8).double().view(4, 2), torch.linspace(2, 0, 12).double().view(4, 3)]
T = torch.tensor([0.9, 0.3], dtype=torch.float64)


class Network:
    """Counts which half is asked for."""

    def __init__(self) -> None:
        self.singles = self.pairs = 0

    def conditional(self, x, t):
        self.singles += 1
        return [xi + ti for xi, ti in zip(x, t, strict=True)]

    def paired(self, x, t):
        self.pairs += 1
        return [xi + ti for xi, ti in zip(x, t, strict=True)], [-xi for xi in x]


def guide(scale):
    network = Network()
    return network, classifier_free(network.conditional, network.paired, scale)


def test_formula():
    network, velocity = guide(3.0)
    for out, x, t in zip(velocity(X, T), X, T, strict=True):
        torch.testing.assert_close(out, -x + 3 * (x + t + x))
    assert (network.singles, network.pairs) == (0, 1)


def test_scale_one_is_the_conditional_and_runs_nothing_else():
    for scale in (1.0, 1, lambda t: torch.ones_like(t)):
        network, velocity = guide(scale)
        assert all(torch.equal(a, b) for a, b in zip(velocity(X, T), Network().conditional(X, T), strict=True))
        assert (network.singles, network.pairs) == (1, 0)


def test_scale_zero_is_the_unconditional():
    _, velocity = guide(0.0)
    assert all(torch.equal(out, -x) for out, x in zip(velocity(X, T), X, strict=True))


def test_function_of_t_is_read_clip_by_clip():
    _, velocity = guide(lambda t: torch.where(t > 0.5, 4.0, 1.0))
    high, low = velocity(X, T)
    assert torch.equal(high, guide(4.0)[1](X, T)[0])
    assert torch.equal(low, guide(1.0)[1](X, T)[1])


def test_interval_costs_pairs_only_inside_it():
    network, velocity = guide(lambda t: torch.where((t > 0.35) & (t < 0.85), 4.0, 1.0))
    euler(velocity, [X[0]], [linear(10, 1.0, end=0)])
    assert (network.singles, network.pairs) == (5, 5)  # 0.8, 0.7, 0.6, 0.5, 0.4 lie inside
