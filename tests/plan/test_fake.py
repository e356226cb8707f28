"""Traces on tensors without values: operations give what they give for real ones."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from videodit.nn.causal import conv
from videodit.plan.trace import tracing

FORM = torch.contiguous_format
MATRIX, VOLUME = (6, 8), (2, 8, 3, 6, 4)
OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "broadcast": lambda m, v: v * m[0, :, None, None, None] + 1,
    "transposed": lambda m, v: m.T.exp() - m.T,
    "mixed types": lambda m, v: m.bfloat16() + m,
    "whole numbers": lambda m, v: torch.arange(6, device=m.device)[:, None] * m / 3,
    "compared": lambda m, v: torch.where(m < 0.5, 0.0, -torch.inf),
    "whole, compared": lambda m, v: torch.where(torch.arange(8, device=m.device) < 3, 1.0, 2.0),
    "in place": lambda m, v: m.clone().mul_(2).add_(m),
    "out": lambda m, v: torch.add(m, m, out=torch.empty_like(m)),
    "order": lambda m, v: v.contiguous(memory_format=torch.channels_last_3d) * 2,
    "cat": lambda m, v: torch.cat([v, v[:, :2]], dim=1),
    "cat, channels last": lambda m, v: torch.cat([v.contiguous(memory_format=torch.channels_last_3d)] * 2, dim=2),
    "stack": lambda m, v: torch.stack([m, m], dim=-1),
    "arange": lambda m, v: torch.arange(1, 8, 2, device=m.device) + torch.arange(0.0, 4.0, device=m.device).long(),
    "mean": lambda m, v: v.mean(dim=(1, -1), keepdim=True),
    "sum of all": lambda m, v: m.sum() + m.bool().sum(),
    "vector norm": lambda m, v: torch.linalg.vector_norm(v, dim=1, keepdim=True),
    "layer norm": lambda m, v: F.layer_norm(m, (8,)),
    "rms norm": lambda m, v: F.rms_norm(m, (8,)),
    "softmax": lambda m, v: m.softmax(-1),
    "likes": lambda m, v: torch.zeros_like(v) + torch.ones_like(v, dtype=torch.float64) + torch.full_like(v, 2),
    "formats": lambda m, v: torch.empty_like(v.clone(memory_format=torch.channels_last_3d), memory_format=FORM) * 2,
    "polar": lambda m, v: torch.polar(m, m),
    "complex": lambda m, v: torch.view_as_real(torch.view_as_complex(m.view(6, 4, 2)) * 1j),
    "matmul": lambda m, v: m @ m.T,
    "linear": lambda m, v: F.linear(m, m, m[:, 0]),
    "bmm": lambda m, v: torch.baddbmm(m[:, None, :1], m[None].expand(6, -1, -1), m.T[None].expand(6, -1, -1)),
    "conv2d": lambda m, v: F.conv2d(v[:, :, 0], v[:, :, 0], padding=1, stride=2),
    "conv3d": lambda m, v: F.conv3d(v.contiguous(memory_format=torch.channels_last_3d), v, padding=(0, 3, 2)),
    "conv by oneDNN": lambda m, v: conv(v.contiguous(memory_format=torch.channels_last_3d), v[:1], m[0, :1], (0, 3, 2)),
    "transposed conv": lambda m, v: F.conv_transpose2d(v[:, :, 0], v[:, :, 0].transpose(0, 1)),
    "interpolate": lambda m, v: F.interpolate(v, scale_factor=(1, 2, 2), mode="nearest"),
    "pad": lambda m, v: F.pad(v, (0, 1, 0, 1)),
    "values": lambda m, v: m * torch.tensor([2.0])[0],
    "repeat": lambda m, v: m.repeat_interleave(2, 0)[torch.tensor([0, 3], device=m.device)],
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_shape_type_and_order_are_those_of_the_real_result(name: str) -> None:
    run = OPERATIONS[name]
    with torch.no_grad():
        real = run(torch.rand(MATRIX), torch.rand(VOLUME))
    with torch.no_grad(), tracing("cpu") as (_, at):
        hollow = run(torch.empty(MATRIX, device=at), torch.empty(VOLUME, device=at))
        assert isinstance(hollow, FakeTensor) and hollow.device == real.device
        assert (hollow.shape, hollow.dtype) == (real.shape, real.dtype)
        assert hollow.stride() == real.stride()
    with tracing("cuda") as (_, at):
        on_gpu = run(torch.empty(MATRIX, device=at), torch.empty(VOLUME, device=at))
        assert (on_gpu.shape, on_gpu.dtype) == (real.shape, real.dtype)


def test_what_is_changed_in_place_stays_itself() -> None:
    with tracing("cpu") as (_, at):
        x = torch.empty(3, device=at)
        assert x.add_(1) is x and x.view(3, 1).shape == (3, 1)


def test_gradients_and_autocast() -> None:
    """As for real tensors: products in bfloat16, gradients in the type of the weights."""
    with tracing("cpu", grad=True) as (_, at), torch.autocast("cpu", torch.bfloat16):
        layer = nn.Linear(8, 4, device=at)
        out = layer(torch.empty(2, 8, device=at))
        assert out.dtype == torch.bfloat16
        out.float().mean().backward()
        assert layer.weight.grad.shape == (4, 8) and layer.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_refusal_loads_no_transformers(device: str, tmp_path: Path) -> None:
    """They would take longer than the plan."""
    words = ["plan", "a ball", "model=wan2.1-t2v-1.3b", f"device={device}", "limit=1GiB"]
    assert _loaded(words, ("transformers", "diffusers"), 2, tmp_path) == "[]"


def _loaded(words: list[str], heavy: tuple[str, ...], code: int, folder: Path) -> str:
    """Which of these modules a command has loaded."""
    program = f"import sys; from videodit.cli.main import main; code = main({words!r})\n"
    program += f"assert code == {code}; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=folder)
    return done.stdout.splitlines()[-1]
