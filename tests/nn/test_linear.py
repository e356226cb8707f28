"""Linear and FeedForward give what torch's own layers give, by whatever library."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.compare import assert_equal, noise
from videodit.nn.linear import FeedForward, Linear


@pytest.mark.parametrize("shape", [(3, 16), (2, 5, 16), (1, 16), (300, 16)], ids=str)
@pytest.mark.parametrize("gelu", [False, True])
def test_both_ways_agree(shape: tuple[int, ...], gelu: bool) -> None:
    torch.manual_seed(0)
    layer, x = Linear(16, 24), noise(*shape)
    reference = nn.Linear(16, 24)
    reference.load_state_dict(layer.state_dict())
    expected = nn.functional.gelu(reference(x), approximate="tanh") if gelu else reference(x)
    assert_equal(layer(x, gelu=gelu), expected)
    with torch.no_grad():
        assert_equal(layer(x, gelu=gelu), expected)
        assert_equal(layer.double()(x.double(), gelu=gelu).float(), expected)


def test_feed_forward_and_its_gradients() -> None:
    torch.manual_seed(0)
    layer, x = FeedForward(dim=8, hidden=20), noise(7, 8)
    reference = nn.Sequential(nn.Linear(8, 20), nn.GELU(approximate="tanh"), nn.Linear(20, 8))
    reference.load_state_dict(layer.state_dict(), strict=True)
    for model in (layer, reference):
        model(x).square().sum().backward()
    for ours, theirs in zip(layer.parameters(), reference.parameters(), strict=True):
        assert_equal(ours.grad, theirs.grad)
    long = noise(2100, 8)  # more tokens than pass together
    with torch.no_grad():
        assert_equal(layer(x), reference(x))
        assert_equal(layer(long), reference(long))
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        assert layer(x).dtype == torch.bfloat16
