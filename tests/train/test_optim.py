"""Optimizers: who updates what, the lr curve, and state that survives a round trip to the bit."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from tests.train import tiny
from videodit import parallel
from videodit.errors import InputError
from videodit.models.interfaces import Denoiser
from videodit.parallel.muon import newton_schulz
from videodit.train.optim import Optimizer, adamw, muon, warmup_decay

ADAMW = partial(adamw, lr=1e-3, text_lr=2e-4, betas=(0.9, 0.95), weight_decay=0.1, curve=lambda step: 1.0)
MUON = partial(muon, lr=1e-3, text_lr=2e-4, muon_lr=2e-3, betas=(0.9, 0.95), weight_decay=0.1, curve=lambda step: 1.0)


def _networks() -> nn.ModuleDict:
    """The DiT and its text encoder, as they are trained."""
    return nn.ModuleDict({"dit": tiny.dit(), "text": tiny.text()})


def _names(optimizer: Optimizer, kind: type) -> set[str]:
    return {
        optimizer.names[id(parameter)]
        for each in optimizer.optimizers
        if isinstance(each, kind)
        for group in each.param_groups
        for parameter in group["params"]
    }


def _gradients(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def _load(optimizer: Optimizer, saved: dict[str, torch.Tensor]) -> None:
    for name, blank in optimizer.blank({name: tuple(value.shape) for name, value in saved.items()}).items():
        blank.copy_(saved[name])


def test_muon_takes_the_matrices_of_blocks_and_adamw_the_rest() -> None:
    module = _networks()
    optimizer = MUON(module)
    chosen = _names(optimizer, torch.optim.Muon)
    linears = {f"{name}.weight" for name, part in module.named_modules() if isinstance(part, nn.Linear)}
    assert chosen == {name for name in linears if name.startswith("dit.blocks.")}
    assert "dit.blocks.1.ffn.2.weight" in chosen and "dit.blocks.0.attention.q.weight" in chosen
    outside = {"dit.embed.weight", "dit.head.weight", "dit.text_embed.0.weight", "dit.time_embed.linear1.weight"}
    rest = _names(optimizer, torch.optim.AdamW)
    assert outside <= rest and any("relative_attention_bias" in name for name in rest)
    assert any("embed_tokens" in name for name in rest) and any("modulation" in name for name in rest)
    assert chosen | rest == {name for name, _ in module.named_parameters()} and not chosen & rest
    assert len(optimizer.parameters) == len(list(module.parameters()))


def test_a_table_of_many_heads_is_still_no_matrix() -> None:
    """A relative position bias (buckets, heads) is an embedding, however large."""

    class Two(Denoiser):
        STACKS = {"layers": "count"}

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Embedding(32, 64), nn.Linear(16, 16)])

    assert _names(MUON(Two()), torch.optim.Muon) == {"layers.1.weight"}


def test_muon_of_a_network_without_matrices_is_adamw() -> None:
    optimizer = MUON(tiny.vae())
    assert [type(each) for each in optimizer.optimizers] == [torch.optim.AdamW]


def test_vectors_do_not_decay() -> None:
    module = _networks()
    for group in ADAMW(module).optimizers[0].param_groups:
        assert all((parameter.dim() >= 2) == (group["weight_decay"] > 0) for parameter in group["params"])


def test_frozen_parameters_are_left_alone() -> None:
    module = _networks()
    module["text"].requires_grad_(False)
    wanted = {name for name, _ in module.named_parameters() if name.startswith("dit.")}
    for make in (ADAMW, MUON):
        assert set(make(module).parameters) == wanted


@pytest.mark.parametrize(("dtype", "apart"), [(torch.bfloat16, 1e-7), (torch.float32, 1e-4)])
def test_an_update_is_torchs_own(dtype: torch.dtype, apart: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps by hand, with torch.optim's classes, give the same weights; their size is AdamW's (match_rms_adamw).

    torch's Muon multiplies in bfloat16; ours in float32 differs by a small part of its updates.
    """
    monkeypatch.setattr(parallel.muon, "product_type", lambda device: dtype)
    module, same = _networks(), _networks()
    optimizer = MUON(module, curve=lambda step: 0.5)
    chosen = _names(optimizer, torch.optim.Muon)
    named = dict(same.named_parameters())
    matrices = [named[name] for name in named if name in chosen]
    by_hand = [
        torch.optim.Muon(matrices, lr=1e-3, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        *(
            torch.optim.AdamW(
                [
                    {"params": [named[name] for name in names if named[name].dim() >= 2], "weight_decay": 0.1},
                    {"params": [named[name] for name in names if named[name].dim() < 2], "weight_decay": 0.0},
                ],
                lr=lr,
                betas=(0.9, 0.95),
            )
            for part, lr in (("dit.", 5e-4), ("text.", 1e-4))
            for names in [[name for name in named if name not in chosen and name.startswith(part)]]
        ),
    ]
    for step in range(3):
        for each in (module, same):
            _gradients(each, step)
        assert optimizer.step(step) == {"lr/muon": 1e-3, "lr/adamw": 5e-4, "lr/text": 1e-4}
        for each in by_hand:
            each.step()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter, named[name], rtol=1e-5, atol=apart)


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (32, 32)])
def test_newton_schulz_levels_the_singular_values(shape: tuple[int, int]) -> None:
    """And keeps the singular vectors."""
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = newton_schulz(x, (3.4445, -4.775, 2.0315), 5, 1e-7, torch.float64)
    left, _, right = torch.linalg.svd(x, full_matrices=False)
    within = left.T @ y @ right.T
    assert (within - within.diagonal().diag()).abs().max() < 1e-9
    assert 0.3 < within.diagonal().min() and within.diagonal().max() < 1.3


@pytest.mark.parametrize("make", [ADAMW, MUON])
def test_state_goes_round_to_the_bit(make: Any) -> None:
    """As named tensors, into a second optimizer that then makes the same updates; the tensors are its own."""
    module, copy = _networks(), _networks()
    optimizer = make(module, curve=lambda step: 1 / (1 + step))
    for step in range(3):
        _gradients(module, step)
        optimizer.step(step)
    copy.load_state_dict(module.state_dict())
    resumed = make(copy, curve=lambda step: 1 / (1 + step))
    saved = {name: tensor.clone() for name, tensor in optimizer.state().items()}
    _load(resumed, saved)
    assert resumed.state().keys() == saved.keys()
    for step in range(3, 5):
        for each, of in ((module, optimizer), (copy, resumed)):
            _gradients(each, step)
            of.step(step)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), copy.parameters(), strict=True))
    ours, theirs = optimizer.state(), resumed.state()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert any(not torch.equal(value, saved[name]) for name, value in ours.items())


def test_adamw_is_fused() -> None:
    assert all(group["fused"] for group in ADAMW(_networks()).optimizers[0].param_groups)


@pytest.mark.parametrize(("saved", "loaded", "named"), [(MUON, ADAMW, "AdamW"), (ADAMW, MUON, "Muon")])
def test_state_of_another_optimizer_is_an_input_error(saved: Any, loaded: Any, named: str) -> None:
    module = _networks()
    optimizer = saved(module)
    _gradients(module, 0)
    optimizer.step(0)
    with pytest.raises(InputError, match=f"is not {named} .*resume with the optim="):
        _load(loaded(_networks()), optimizer.state())


def test_gradients_are_forgotten() -> None:
    module = _networks()
    optimizer = MUON(module)
    _gradients(module, 0)
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in module.parameters())


def test_the_lr_curve_rises_stays_and_falls() -> None:
    curve = warmup_decay(warmup=10, steps=100, decay=40, floor=0.1)
    values = [curve(step) for step in range(100)]
    assert values[0] == pytest.approx(0.1) and values[4] == pytest.approx(0.5)
    assert values[9:60] == [pytest.approx(1.0)] * 51
    assert all(a > b for a, b in zip(values[60:], values[61:], strict=False))
    assert values[80] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 0.5)))
    assert curve(100) == pytest.approx(0.1) and curve(1000) == pytest.approx(0.1)


def test_without_decay_it_stays_at_the_peak() -> None:
    curve = warmup_decay(warmup=0, steps=50, decay=0, floor=0.0)
    assert [curve(step) for step in range(50)] == [1.0] * 50


def test_the_curve_scales_every_group() -> None:
    module = _networks()
    optimizer = MUON(module, curve=lambda step: 0.25 if step == 3 else 1.0)
    _gradients(module, 0)
    optimizer.step(3)
    rates = {group["lr"] for each in optimizer.optimizers for group in each.param_groups}
    assert rates == {2e-3 / 4, 1e-3 / 4, 2e-4 / 4}
    optimizer.step(4)  # the factor is on the peak, not on what is left of it
    assert {group["lr"] for each in optimizer.optimizers for group in each.param_groups} == {2e-3, 1e-3, 2e-4}
