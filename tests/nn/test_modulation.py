"""Time reaches each token of its clip, however many the clips and tokens are."""

from __future__ import annotations

import pytest
import torch

from tests.compare import noise, shaken
from videodit.nn.modulation import Modulation, TokenTimes, gated, modulate, rows_of_runs, rows_of_tokens

DIM = 4
CPU = torch.device("cpu")


LENGTHS = [(3,), (2, 2), (3, 1, 2), (3, 3, 1, 2, 2), (1, 1, 1), (1,)]


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("how", ["clips", "tokens"])
@pytest.mark.parametrize("compiled", [False, True])
def test_every_token_takes_its_row(
    lengths: tuple[int, ...], how: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiled)  # the other of the two ways
    total, count = sum(lengths), 3
    if how == "clips":
        runs = [clip * 2 % count for clip in range(len(lengths))]
        owner = torch.tensor(runs).repeat_interleave(torch.tensor(lengths))
        rows = rows_of_runs(runs, lengths, CPU)
    else:
        owner = torch.arange(total) // 2 % count
        rows = rows_of_tokens(owner, CPU)
    x, branch, shift, scale, gate = (noise(n, DIM, seed=i) for i, n in enumerate([total, total, count, count, count]))
    assert torch.equal(modulate(x, shift, scale, rows), torch.addcmul(shift[owner], x, 1 + scale[owner]))
    assert torch.equal(gated(x, branch, gate, rows), torch.addcmul(x, branch, gate[owner]))


@pytest.mark.parametrize("lengths", [(40, 40), (16, 24, 24, 16)], ids=str)
def test_no_values_of_every_token_are_kept_for_the_backward_pass(lengths: tuple[int, ...]) -> None:
    """With different times in a pack no more than with one time: x and the branch."""
    total, count = sum(lengths), len(lengths)
    x, branch = noise(total, DIM).bfloat16().requires_grad_(), noise(total, DIM, seed=1).bfloat16().requires_grad_()
    shift, scale, gate = (noise(count, DIM, seed=i).requires_grad_() for i in (2, 3, 4))
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    rows = rows_of_runs(range(count), lengths, CPU)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        (modulate(x, shift, scale, rows) + gated(x, branch, gate, rows)).sum()
    large = [one for one in kept.values() if one.untyped_storage().nbytes() >= 2 * total * DIM]
    assert len(large) == 2 and all(one.dtype == torch.bfloat16 for one in large)


@pytest.mark.parametrize(
    ("mode", "parts"), [("adaln_single", 6), ("adaln_zero", 6), ("adaln", 4), ("cross", 0), ("in_context", 0)]
)
def test_what_each_mode_has(mode: str, parts: int) -> None:
    modulation = shaken(Modulation(dim=DIM, mode=mode))
    time = TokenTimes(noise(2, DIM), noise(2, 6, DIM), None)
    rows = modulation(time)
    assert len(rows) == 6
    assert sum(row is not None for row in rows) == parts
    assert modulation.gates == (parts == 6) and modulation.active == (parts > 0)
    assert (rows[2] is not None) == (rows[5] is not None) == modulation.gates


@pytest.mark.parametrize("mode", ["adaln_single", "adaln_zero", "adaln"])
def test_it_starts_as_nothing(mode: str) -> None:
    modulation = shaken(Modulation(dim=DIM, mode=mode))
    modulation.initialise()
    rows = modulation(TokenTimes(noise(2, DIM), torch.zeros(2, 6, DIM), None))
    assert all(row is None or not row.any() for row in rows)


def test_modulate_and_gate() -> None:
    x, branch, shift, scale, gate = (noise(5, DIM, seed=seed) for seed in range(5))
    assert torch.allclose(modulate(x, shift, scale, None), x * (1 + scale) + shift)
    assert torch.allclose(gated(x, branch, gate, None), x + gate * branch)
    assert torch.equal(modulate(x, None, None, None), x)
    assert torch.equal(gated(x, branch, None, None), x + branch)
