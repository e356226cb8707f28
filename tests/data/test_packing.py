"""Filling steps and dealing them out: budgets, equal work, nothing lost."""

from __future__ import annotations

import random

import pytest

from videodit.data.packing import Work, balanced, deal, fill


@pytest.mark.parametrize("budget", [50, 333, 10**6])
def test_packs_are_consecutive_within_the_budget_and_about_equal(budget: int) -> None:
    sizes = [random.Random(seed).randint(1, 40) for seed in range(500)]
    packs = fill(sizes, budget)
    assert [i for pack in packs for i in pack] == list(range(500))
    used = [sum(sizes[i] for i in pack) for pack in packs]
    assert max(used) <= budget
    assert max(used) - min(used) <= 2 * max(sizes)


def test_larger_clips_than_the_budget_go_alone() -> None:
    packs = fill([5, 100, 5, 5, 200, 200, 5], 20)
    assert [list(pack) for pack in packs if 100 in [[5, 100, 5, 5, 200, 200, 5][i] for i in pack]] == [[1]]
    assert all(len(pack) == 1 for pack in packs for i in pack if i in (1, 4, 5))
    assert fill([], 10) == []


def test_shares_are_as_equal_as_the_best_of_all() -> None:
    """Against every way there is, for small sets: never more than 2 % behind on average, 10 % at most."""
    ratios = []
    for seed in range(40):
        work = [random.Random(seed * 100 + i).random() for i in range(9)]
        dealt = balanced(work, 2)
        assert sorted(i for share in dealt for i in share) == list(range(9))
        ours = max(sum(work[i] for i in share) for share in dealt)
        ways = ([i for i in range(9) if bits >> i & 1] for bits in range(2**9))
        best = min(max(part := sum(work[i] for i in way), sum(work) - part) for way in ways)
        ratios.append(ours / best)
    assert max(ratios) < 1.1 and sum(ratios) / len(ratios) < 1.02


def test_the_heaviest_share_comes_first_and_turns_about() -> None:
    sizes = [9, 5, 3]
    first, second = (deal(sizes, Work(), place=place, ranks=2, most=None) for place in (0, 1))
    assert first == [[[0]], [[1, 2]]] and second == first[::-1]


def test_work_grows_with_the_square() -> None:
    """One clip of 20 tokens is as much as many small ones."""
    dealt = deal([20, *[1] * 40], Work(1.0, 1.0), place=0, ranks=2, most=None)
    work = sorted(sum(Work(1.0, 1.0)([20, *[1] * 40][i]) for i in share[0]) for share in dealt)
    assert work == [80.0, 420.0]
    dealt = deal([20, *[1] * 40], Work(1.0, 0.05), place=0, ranks=2, most=None)  # 40 beside 40 times 1.05
    assert sorted(len(share[0]) for share in dealt) == [2, 39]


def test_too_few_clips_leave_empty_packs_but_as_many() -> None:
    dealt = deal([7], Work(), place=0, ranks=3, most=None)
    assert sorted(dealt) == [[[]], [[]], [[0]]]
    dealt = deal([7, 7, 7, 2], Work(), place=0, ranks=2, most=7)
    assert {len(packs) for packs in dealt} == {2} and sum(len(pack) for packs in dealt for pack in packs) == 4


def test_packs_of_a_share_hold_like_sizes() -> None:
    """As many sizes in all packs together as in the step, but for three where packs meet; about equally full."""
    dice = random.Random(0)
    sizes = [dice.choice((16, 24, 36, 48, 72, 108, 144, 216, 324)) for _ in range(200)]
    for most in (1500, 4000):
        (packs,) = deal(sizes, Work(), place=0, ranks=1, most=most)
        assert sorted(i for pack in packs for i in pack) == list(range(200))
        used = [sum(sizes[i] for i in pack) for pack in packs]
        assert len(packs) == -(-sum(sizes) // most) and used == sorted(used, reverse=True)
        assert max(used) <= most and max(used) - min(used) <= 36
        assert sum(len({sizes[i] for i in pack}) for pack in packs) <= 9 + 3 * (len(packs) - 1)
