"""Time reaches each token of its clip, however many the clips and tokens are."""

from __future__ import annotations

import pytest
import torch

from tests.compare import noise, shaken
from videodit.nn.modulation import Modulation, gated, modulate, per_token

DIM = 4


@pytest.mark.parametrize("lengths", [(3,), (2, 2), (3, 1, 2), (1, 1, 1), (1,)], ids=str)
@pytest.mark.parametrize("each", [False, True])
def test_rows(lengths: tuple[int, ...], each: bool) -> None:
    total = sum(lengths)
    values = noise(total if each else len(lengths), 2, DIM)
    owner = range(total) if each else [clip for clip, n in enumerate(lengths) for _ in range(n)]
    rows = per_token(values, values, lengths).rows(values)
    assert len(rows) == 2
    for i, row in enumerate(rows):
        assert torch.equal(row.expand(total, DIM), values[list(owner), i])


@pytest.mark.parametrize(
    ("mode", "parts"), [("adaln_single", 6), ("adaln_zero", 6), ("adaln", 4), ("cross", 0), ("in_context", 0)]
)
def test_what_each_mode_has(mode: str, parts: int) -> None:
    modulation = shaken(Modulation(dim=DIM, mode=mode))
    time = per_token(noise(2, DIM), noise(2, 6, DIM), (3, 1))
    rows = modulation(time)
    assert len(rows) == 6
    assert sum(row is not None for row in rows) == parts
    assert modulation.gates == (parts == 6) and modulation.active == (parts > 0)
    assert (rows[2] is not None) == (rows[5] is not None) == modulation.gates


@pytest.mark.parametrize("mode", ["adaln_single", "adaln_zero", "adaln"])
def test_it_starts_as_nothing(mode: str) -> None:
    modulation = shaken(Modulation(dim=DIM, mode=mode))
    modulation.initialise()
    rows = modulation(per_token(noise(2, DIM), torch.zeros(2, 6, DIM), (3, 1)))
    assert all(row is None or not row.any() for row in rows)


def test_modulate_and_gate() -> None:
    x, branch, shift, scale, gate = (noise(5, DIM, seed=seed) for seed in range(5))
    assert torch.allclose(modulate(x, shift, scale), x * (1 + scale) + shift)
    assert torch.allclose(gated(x, branch, gate), x + gate * branch)
    assert torch.equal(modulate(x, None, None), x)
    assert torch.equal(gated(x, branch, None), x + branch)
