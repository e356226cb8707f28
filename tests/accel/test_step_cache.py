"""The step cache: exact where nothing is skipped, and honest about what skipping leaves out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.compare import assert_equal, denoised, noise, shaken
from tests.tiny import DIT
from videodit.accel.step_cache import StepCache, relative, summary
from videodit.models.build import build
from videodit.models.interfaces import run_blocks
from videodit.models.pack import Ragged, patchify


class Blocks:
    """A stack of two blocks; the second counts its calls."""

    def __init__(self) -> None:
        self.ran = 0
        self.stack = [nn.Identity(), nn.Identity()]

    def step(self, _: nn.Module, number: int, x: Tensor) -> Tensor:
        if number == 0:
            return 1.5 * x
        self.ran += 1
        return x + x.square()

    def all(self, x: Tensor) -> Tensor:
        return run_blocks("blocks", self.stack, x, self.step)

    def cached(self, cache: StepCache, x: Tensor) -> Tensor:
        return cache("blocks", self.stack, x, self.step)


def test_a_state_of_two_tensors_and_two_stacks() -> None:
    """Each stack by itself; what its parts add is looked at together."""
    cache, stack, (x, y) = StepCache(threshold=0.1), [nn.Identity()] * 3, (noise(4, 3), noise(2, 3, seed=1))
    ran: list[int] = []

    def step(_: nn.Module, number: int, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        ran.append(number)
        return state[0] + state[1].sum(), state[1] * 2

    for name in ("one", "two"):
        assert all(map(torch.equal, cache(name, stack, (x, y), step), run_blocks(name, stack, (x, y), step)))
    ran.clear()
    near, whole = cache("two", stack, (x, 1.001 * y), step), run_blocks("two", stack, (x, 1.001 * y), step)
    assert ran == [0, 0, 1, 2] and (cache.calls, cache.skipped) == (3, 1)
    assert all(relative([a], [b]) < 0.01 for a, b in zip(near, whole, strict=True))


def test_a_step_like_the_one_before_is_skipped() -> None:
    blocks, cache, x = Blocks(), StepCache(threshold=0.1), noise(4, 3)
    assert_equal(blocks.cached(cache, x), blocks.all(x))
    blocks.ran = 0
    near = blocks.cached(cache, 1.01 * x)
    assert (blocks.ran, cache.calls, cache.skipped) == (0, 2, 1)
    assert_equal(near, 1.5 * 1.01 * x + (1.5 * x).square())
    assert cache.change == 0.0, "nothing is known yet of what was left out"
    far = blocks.cached(cache, 2 * x)
    assert_equal(far, blocks.all(2 * x))
    assert cache.change == pytest.approx(3.0, rel=1e-4), "squares of twice as much"
    assert summary([cache, StepCache(threshold=0.1)]).startswith("step cache: 1 of 3 steps skipped; ")


def test_small_steps_do_not_add_up() -> None:
    """Each is compared with the last one computed, not with the one before it."""
    blocks, cache, x = Blocks(), StepCache(threshold=0.1), noise(4, 3)
    for number in range(7):
        blocks.cached(cache, (1 + 0.04 * number) * x)
    assert blocks.ran == 3, "at 1, 1.12 and 1.24"


def test_in_the_network() -> None:
    dit = shaken(build("dit", **{**DIT, "layers": 4}), std=0.1).eval()
    text = Ragged(noise(5, 16, seed=1), (3, 2))
    one, other = (patchify([noise(4, 2, 4, 4, seed=s), noise(4, 1, 4, 6, seed=s + 1)], dit.patch) for s in (2, 4))
    steps = [(one, torch.tensor([0.9, 0.9])), (one, torch.tensor([0.89, 0.89])), (other, torch.tensor([0.2, 0.2]))]
    with torch.no_grad():
        whole = [denoised(dit, pack, t, text) for pack, t in steps]
        for threshold, skipped in ((1e-6, 0), (0.2, 1)):
            cache = StepCache(threshold=threshold)
            outs = [denoised(dit, pack, t, text, run=cache) for pack, t in steps]
            assert cache.skipped == skipped
            assert_equal(outs[0], whole[0])
            assert_equal(outs[2], whole[2])
            assert (relative(outs[1], whole[1]) > 1e-5) == bool(skipped)
