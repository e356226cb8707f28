"""Half precision as CUDA's autocast does it, emulated on a CPU, whose own leaves norms, sums and powers as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from tests.compare import denoised, noise, shaken
from tests.tiny import DIT
from tests.train import tiny
from tests.train.test_vae_step import OBJECTIVE
from videodit.data.batches import ClipBatch
from videodit.models.build import build
from videodit.models.dit import NORMS, QK_NORMS, TIME_MODES
from videodit.models.pack import Ragged, patchify
from videodit.models.text import SmallT5

# Of torch/include/ATen/autocast_mode.h, what CUDA computes in float32 and so gives as float32, by the last name.
WIDE = {
    "layer_norm", "rms_norm", "group_norm", "softmax", "log_softmax", "sum", "prod", "cumsum", "cumprod", "exp", "log",
    "expm1", "log2", "log10", "log1p", "reciprocal", "rsqrt", "pow", "__pow__", "norm", "vector_norm", "dist", "cdist",
    "l1_loss", "smooth_l1_loss", "mse_loss", "cosine_similarity", "logsumexp", "softplus", "interpolate", "acos",
    "asin", "cosh", "erfinv", "sinh", "tan",
}  # fmt: skip


class LikeCUDA(TorchFunctionMode):
    """Within it, where autocast is on, those functions take and give float32."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in WIDE and torch.is_autocast_enabled("cpu"):
            args, kwargs = tree_map(_wide, (args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def _wide(x: Any) -> Any:
    return x.float() if isinstance(x, Tensor) and x.dtype in (torch.bfloat16, torch.float16) else x


def _half() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


def test_the_emulation_emulates() -> None:
    x = noise(3, 8).bfloat16()
    with LikeCUDA():
        assert F.rms_norm(x, (8,)).dtype == x.softmax(-1).dtype == torch.bfloat16
        with _half():
            assert F.rms_norm(x, (8,)).dtype == F.layer_norm(x, (8,)).dtype == (x**2).dtype == torch.float32
            assert (x @ x.mT).dtype == torch.bfloat16


@pytest.mark.parametrize("time", TIME_MODES)
@pytest.mark.parametrize(("norm", "qk_norm"), list(zip(NORMS, QK_NORMS, strict=True)))
def test_a_dit_is_the_same(monkeypatch: pytest.MonkeyPatch, time: str, norm: str, qk_norm: str) -> None:
    """Bit for bit, forward and backward: its norms do not change their type with the device."""
    monkeypatch.setattr("videodit.nn.kernels.SHORT_KEYS_BF16", 0)  # what only a CPU does
    dit = shaken(build("dit", **{**DIT, "time": time, "norm": norm, "qk_norm": qk_norm}), std=0.1)
    pack = patchify([noise(4, 2, 4, 4), noise(4, 1, 4, 6, seed=2)], dit.patch)
    text, t = Ragged(noise(5, 16, seed=1), (3, 2)), torch.tensor([0.7, 0.3])

    def grads() -> list[Tensor]:
        with _half():
            out = denoised(dit, pack, t, text)
            assert out.dtype == torch.bfloat16
        return [out, *torch.autograd.grad(out.float().square().mean(), list(dit.parameters()), allow_unused=True)]

    mine = grads()
    with LikeCUDA():
        theirs = grads()
    for a, b in zip(mine, theirs, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def test_a_vae_and_a_text_encoder_work() -> None:
    """And give what they do, within bfloat16's rounding."""
    clips = [noise(3, 5, 32, 32, seed=i).clamp(-1, 1) for i in range(2)]
    objective = OBJECTIVE(vae=tiny.vae(), clips=clips, absolute=0.2, structure=0.2)
    text: SmallT5 = tiny.text()  # type: ignore[assignment]

    def found() -> tuple[Tensor, Tensor]:
        objective.vae.zero_grad()
        with _half():
            loss = objective.loss(ClipBatch(torch.stack(clips), [0, 1]), 0)[0]
            states = text(torch.arange(7), (3, 4)).states
        loss.backward()
        return loss.detach(), states.float().detach()

    mine = found()
    with LikeCUDA():
        theirs = found()
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.05)
