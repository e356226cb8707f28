"""Several processes do what one does: the same losses and gradients, over packs of mixed shapes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.parallel.cases import CASES, together

FOUR = [name for name, case in CASES.items() if 2 in case.sizes]
ODD = ["context, time as a state", "context, time as a token"]
MORE = ["fsdp, recompute cheap", "context, recompute", *ODD]  # of two, in `make test-all` only
TWO = [name for name in CASES if name not in (*FOUR, *MORE)]
LOSS = 1e-5
Outcome = tuple[dict[str, list[float]], dict[str, torch.Tensor]]


def _outcomes(folder: Path, ranks: int, names: list[str]) -> dict[str, Outcome]:
    return {name: (numbers, tensors) for name, numbers, tensors in together(folder, ranks, names)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("together")


@pytest.fixture(scope="module")
def one(folder: Path) -> dict[str, Outcome]:
    return _outcomes(folder, 1, ["fsdp", *ODD, "fsdp, an adapter", "muon"])


@pytest.fixture(scope="module")
def two(folder: Path, one: dict[str, Outcome]) -> dict[str, Outcome]:
    return _outcomes(folder, 2, TWO)


@pytest.fixture(scope="module")
def more(folder: Path, one: dict[str, Outcome]) -> dict[str, Outcome]:
    return _outcomes(folder, 2, MORE)


@pytest.fixture(scope="module")
def four(folder: Path, one: dict[str, Outcome]) -> dict[str, Outcome]:
    return _outcomes(folder, 4, FOUR)


def _far(ours: Outcome, theirs: Outcome) -> tuple[float, float]:
    """The largest differences: of a loss over ten steps, and of a gradient of the first step."""
    (numbers, tensors), (same, expected) = ours, theirs
    assert numbers.keys() == same.keys() and len(numbers["loss"]) == len(same["loss"]) == 10
    names = [name for name in expected if name.startswith("grad/")]
    assert len(names) == len([n for n in tensors if n.startswith("grad/")]) > 40
    losses = max(abs(a - b) for name in numbers for a, b in zip(numbers[name], same[name], strict=True))
    return losses, max((tensors[name] - expected[name]).abs().max().item() for name in names)


def _same_as_one(name: str, several: dict[str, Outcome], one: dict[str, Outcome]) -> None:
    alone = one.get(name, one["fsdp"])
    losses, gradients = _far(several[name], alone)
    assert losses < LOSS and gradients < LOSS
    for key, value in alone[1].items():  # weights and averages after ten steps as well
        torch.testing.assert_close(several[name][1][key], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in TWO if not name.startswith("muon") and name != "a wrong split"])
def test_two_are_as_one(name: str, one: dict[str, Outcome], two: dict[str, Outcome]) -> None:
    _same_as_one(name, two, one)


def test_a_wrong_split_is_caught(one: dict[str, Outcome], two: dict[str, Outcome]) -> None:
    losses, gradients = _far(two["a wrong split"], one["fsdp"])
    assert losses > 10 * LOSS and gradients > 10 * LOSS


@pytest.mark.parametrize("name", [name for name in TWO if name.startswith("muon")])
def test_sharded_muon_is_muon_to_the_bit(name: str, one: dict[str, Outcome], two: dict[str, Outcome]) -> None:
    """Given the same gradients: its products are in bfloat16, where a last bit of the input decides much."""
    _same_bits(two[name], one["muon"])


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_two_are_as_one_in_other_ways(name: str, one: dict[str, Outcome], more: dict[str, Outcome]) -> None:
    _same_as_one(name, more, one)


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUR)
def test_four_are_as_one(name: str, one: dict[str, Outcome], four: dict[str, Outcome]) -> None:
    if name.startswith("muon"):
        _same_bits(four[name], one["muon"])
    else:
        _same_as_one(name, four, one)


def _same_bits(ours: Outcome, theirs: Outcome) -> None:
    assert ours[1].keys() == theirs[1].keys() and any("momentum_buffer" in name for name in ours[1])
    assert all(torch.equal(value, theirs[1][name]) for name, value in ours[1].items())
