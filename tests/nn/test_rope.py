"""Rotary embedding: scores know positions by their differences alone, norms stay."""

from __future__ import annotations

import math

import pytest
import torch

from tests.compare import assert_equal, distance, noise
from videodit.nn.rope import THETA, axial_rope, rotate

HEADS, HEAD_DIM = 3, 20
POSITIONS = torch.tensor([[0, 0, 0], [1, 2, 3], [4, 0, 7], [2, 9, 1], [30, 17, 5]])


def scores(positions: torch.Tensor) -> torch.Tensor:
    """q·k of every pair of positions, (H,L,L)."""
    table = axial_rope(positions, HEAD_DIM)
    q, k = (rotate(noise(len(positions), HEADS, HEAD_DIM, seed=seed), table) for seed in (1, 2))
    return torch.einsum("qhk,mhk->hqm", q, k)


def test_scores_depend_on_differences() -> None:
    before = scores(POSITIONS)
    for shift in ((1, 0, 0), (0, 5, 0), (0, 0, 11), (20, 3, 40)):
        assert_equal(scores(POSITIONS + torch.tensor(shift)), before)
    for axis in range(3):
        stretched = POSITIONS.clone()
        stretched[:, axis] *= 2
        assert distance(scores(stretched), before) > 1e-2, f"axis {axis} does nothing"


def test_norms_stay_and_the_origin_turns_nothing() -> None:
    x = noise(len(POSITIONS), HEADS, HEAD_DIM)
    turned = rotate(x, axial_rope(POSITIONS, HEAD_DIM))
    assert_equal(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(turned[0], x[0])


@pytest.mark.parametrize(("head_dim", "dims"), [(128, (44, 42, 42)), (20, (8, 6, 6)), (64, (24, 20, 20))])
def test_rows_and_columns_take_a_third_each_and_time_the_rest(head_dim: int, dims: tuple[int, int, int]) -> None:
    table = axial_rope(torch.eye(3, dtype=torch.long), head_dim)
    assert table.shape == (3, 1, head_dim // 2)
    ends = torch.tensor([0, *dims]).cumsum(0) // 2
    for axis, dim in enumerate(dims):
        angles = table[axis, 0].angle()
        own = angles[ends[axis] : ends[axis + 1]]
        assert_equal(own, torch.tensor([THETA ** (-2 * i / dim) for i in range(dim // 2)]))
        assert angles.count_nonzero() == dim // 2, "an axis turns another's pairs"


def test_pairs_are_neighbours() -> None:
    """Values 2i and 2i+1 turn together: (1, 0) at angle a becomes (cos a, sin a)."""
    x = torch.zeros(1, 1, HEAD_DIM)
    x[..., 0] = 1
    turned = rotate(x, axial_rope(torch.tensor([[2, 0, 0]]), HEAD_DIM))[0, 0]
    assert_equal(turned[:2], torch.tensor([math.cos(2), math.sin(2)]))
    assert not turned[2:].any()


def test_a_far_position_is_as_exact_as_a_near_one() -> None:
    """Angles are computed in fp64: in fp32 the angle of position 100,000 would be wrong by 4e-3."""
    table = axial_rope(torch.tensor([[100_000, 0, 0]]), HEAD_DIM)[0, 0]
    expected = [100_000 * THETA ** (-2 * i / 8) for i in range(4)]
    assert_equal(table.real[:4], torch.tensor([math.cos(angle) for angle in expected]), tolerance=1e-6)


def test_the_type_of_x_stays() -> None:
    x = noise(5, HEADS, HEAD_DIM).bfloat16()
    assert rotate(x, axial_rope(POSITIONS, HEAD_DIM)).dtype == torch.bfloat16
