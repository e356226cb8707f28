"""What a trace counts, against closed forms and against what memory really does."""

from __future__ import annotations

import threading

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from videodit.nn.causal import conv
from videodit.nn.kernels import attend
from videodit.plan.trace import tracing

MIB = 2**20


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_peak_and_work(device: str) -> None:
    """A chain of two products: the input of the first is gone when the second runs."""
    with tracing(device) as (trace, at):
        x = torch.empty(256, 512, device=at)
        w, v = torch.empty(512, 1024, device=at), torch.empty(1024, 128, device=at)
        held = 4 * (x.numel() + w.numel() + v.numel())
        assert trace.alive == held
        h = x @ w
        del x
        y = h @ v
        assert trace.peak == held + 4 * 256 * 1024
        assert trace.alive == 4 * (w.numel() + v.numel() + h.numel() + y.numel())
        assert trace.work["matmul"] == 2 * 256 * 1024 * (512 + 128)
        assert trace.calls >= 2 and not trace.work["conv"]


def test_views_and_changes_in_place_take_no_memory() -> None:
    with tracing("cpu") as (trace, at):
        x = torch.empty(MIB, device=at)
        before = trace.peak
        y = x.view(1024, 1024).T[3:]
        y += 1
        assert trace.peak == before and trace.work["bytes"] >= y.numel() * 4 * 2


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_attention_has_no_matrix_of_scores(device: str) -> None:
    with tracing(device) as (trace, at):
        q, k = torch.empty(2, 4, 1000, 16, device=at), torch.empty(2, 4, 3000, 16, device=at)
        held = trace.alive
        out = F.scaled_dot_product_attention(q, k, k)
        assert out.shape == q.shape
        statistics = q[..., 0].numel() * 4 * (device == "cpu")  # of the scores, for a backward pass
        assert trace.peak - held == q.numel() * 4 + statistics
        assert trace.work["attention"] == 4 * 2 * 4 * 1000 * 3000 * 16


def test_attention_that_is_computed_again_in_the_backward_pass() -> None:
    """Recomputation too has no matrix of scores: forward twice, and two and a half times as much backward."""
    with tracing("cpu", grad=True) as (trace, at):
        q = torch.empty(1, 2, 500, 16, device=at).requires_grad_()
        out = checkpoint(lambda x: F.scaled_dot_product_attention(x, x, x), q, use_reentrant=False)
        out.mean().backward()
        once = 4 * 2 * 500 * 500 * 16
        assert trace.work["attention"] == 4.5 * once and not trace.work["matmul"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_another_thread_computes_meanwhile(device: str) -> None:
    """A plan changes nothing of torch's for those who denoise while it is made."""
    q = torch.randn(1, 2, 600, 16, generator=torch.Generator().manual_seed(1))
    wanted, inside, done = F.scaled_dot_product_attention(q, q, q), threading.Event(), threading.Event()

    def plan() -> None:
        with tracing(device) as (_, at):
            x = torch.empty(1, 2, 600, 16, device=at)
            F.scaled_dot_product_attention(x, x, x)
            inside.set()
            done.wait(60)

    thread = threading.Thread(target=plan)
    thread.start()
    try:
        assert inside.wait(60)
        assert torch.equal(F.scaled_dot_product_attention(q, q, q), wanted)
        assert torch.equal(attend(*[q[0].transpose(0, 1)] * 3, (600,), (600,)), wanted[0].transpose(0, 1))
    finally:
        done.set()
        thread.join()


def test_convolutions() -> None:
    with tracing("cpu") as (trace, at):
        x, w = torch.empty(1, 8, 3, 16, 16, device=at), torch.empty(4, 8, 3, 3, 3, device=at)
        for convolve in (F.conv3d, conv):
            trace.restart()
            convolve(x, w, None, padding=(1, 1, 1))
            assert trace.work["conv"] == 2 * 27 * 8 * 4 * 3 * 16 * 16 and trace.calls == 1


def test_nothing_is_allocated() -> None:
    with tracing("cpu") as (trace, at):
        torch.empty(2**40, device=at).add(1)
        assert trace.peak == 2 * 4 * 2**40
