"""Every kernel on a GPU, forward and backward, against the reference in float64."""

from __future__ import annotations

import pytest
import torch

from videodit.nn.kernels import KERNELS, Use, attend

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

PACKS = [
    ((12, 1, 40, 7, 25), (9, 20, 1, 14, 8)),
    ((300, 80, 80, 120, 1), (300, 80, 80, 120, 1)),
    ((80,) * 6, (8, 20, 11, 1, 17, 90)),
    ((128,) * 4, (128,) * 4),
]
# Of the largest absolute value; float32 matmuls may use TF32 inside flex.
TOLERANCE = {torch.float32: 5e-3, torch.bfloat16: 2e-2, torch.float16: 5e-3}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("lengths", PACKS, ids=str)
def test_pack_equals_reference(kernel: str, dtype: torch.dtype, lengths: tuple) -> None:
    torch.compiler.reset()  # flex is compiled anew for every kind of pack, of which torch allows a few
    device = torch.device("cuda")
    sizes = (sum(lengths[0]), sum(lengths[1]), sum(lengths[1]))
    inputs = tuple(torch.randn(n, 4, 64, device=device).to(dtype).requires_grad_() for n in sizes)
    reason = Use(device, dtype, 64, grad=True).refusal(kernel)
    if reason is not None:
        pytest.skip(f"{kernel} {reason}")
    weight = torch.randn(sizes[0], 4, 64, device=device).to(dtype)
    out = attend(*inputs, *lengths, kernel=kernel)
    exact = tuple(x.detach().double().requires_grad_() for x in inputs)
    truth = attend(*exact, *lengths, kernel="reference")
    pairs = zip(
        (out, *torch.autograd.grad(out, inputs, weight)),
        (truth, *torch.autograd.grad(truth, exact, weight.double())),
        strict=True,
    )
    for mine, theirs in pairs:
        assert mine.dtype == dtype
        assert (mine.double() - theirs).abs().max() <= TOLERANCE[dtype] * max(1, theirs.abs().max())
