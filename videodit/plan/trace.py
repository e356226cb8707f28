"""Memory and work of a computation, found by running it on tensors without values.

A pass of a network of any size on hollow tensors takes no memory and a fraction of a second. Every operation is seen:
which storages are alive, what it multiplies, what it reads and writes.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from videodit.nn import winograd
from videodit.plan.hollow import CPU, META, on_cpu, on_meta, tensors

Run = Callable[[Any, tuple, dict], Any]
aten = torch.ops.aten


class Trace(TorchDispatchMode):
    """Counts what passes below it.

    peak: most bytes alive at once. work: floating-point operations by kind ("matmul", "conv", "attention") and
    "bytes", what all other operations read and write. calls: number of operations that are not views. `run` carries
    operations out where the tensors are without values.
    """

    def __init__(self, run: Run | None = None) -> None:
        super().__init__()
        self.run = run
        self.alive = self.peak = self.calls = 0
        self.work: Counter[str] = Counter()
        self._seen: dict[int, weakref.ref] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False: torch need not load its compiler in order to keep it away from here."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is torch.ops.prim.device.default:  # asked by torch itself
            return args[0].device
        kwargs = kwargs or {}
        out = self.run(func, args, kwargs) if self.run else func(*args, **kwargs)
        inputs, outputs = list(tensors(args, *kwargs.values())), list(tensors(out))
        fresh = [x for x in outputs if self._is_new(x)]
        self._count(func, args, kwargs, out, inputs, outputs, fresh)
        return out

    def restart(self) -> None:
        """Count from here: what is alive now, and no work."""
        self.peak, self.work, self.calls = self.alive, Counter(), 0

    def _is_new(self, tensor: Tensor) -> bool:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._seen and self._seen[key]() is not None:
            return False
        size = storage.nbytes()
        self.alive += size
        self.peak = max(self.peak, self.alive)
        self._seen[key] = weakref.ref(storage, self._gone(size))
        return True

    def _gone(self, size: int) -> Callable[[Any], None]:
        def forget(_: Any) -> None:
            self.alive -= size

        return forget

    def _count(
        self,
        func: Any,
        args: tuple,
        kwargs: dict,
        out: Any,
        inputs: list[Tensor],
        outputs: list[Tensor],
        fresh: list[Tensor],
    ) -> None:
        packet = func.overloadpacket
        if packet is torch.ops.videodit.winograd:
            self.calls += 1
            self.work["winograd"] += winograd.flops(out, args[2])
            self._scratch(winograd.scratch(out, args[2]))
        elif packet is torch.ops.mkldnn._linear_pointwise:
            self.calls += 1
            self.work["matmul"] += 2 * outputs[0].numel() * args[1].shape[1]
        elif packet in (aten.convolution, aten.mkldnn_convolution):
            self.calls += 1
            self.work["conv"] += 2 * outputs[0].numel() * prod(args[1].shape[1:])
            self._scratch(_conv_scratch(*inputs[:2], outputs[0]))
        elif packet in flop_registry:
            self.calls += 1
            self.work["matmul"] += flop_registry[packet](*args, **kwargs, out_val=out)
        elif fresh or func._schema.is_mutable:
            self.calls += 1
            written = fresh or outputs
            self.work["bytes"] += sum(x.numel() * x.element_size() for x in [*inputs, *written])

    def _scratch(self, size: int) -> None:
        """Memory that an operation needs inside itself."""
        self.peak = max(self.peak, self.alive + size)


def _conv_scratch(x: Tensor, weight: Tensor, out: Tensor) -> int:
    """oneDNN brings weights into its own order, and tensors that are not channels-last as well."""
    if x.device.type != "cpu":
        return 0
    size = weight.numel() * weight.element_size()
    ordered = torch.channels_last_3d if x.dim() == 5 else torch.channels_last
    if not x.is_contiguous(memory_format=ordered):
        size += (x.numel() + out.numel()) * x.element_size()
    return size


class _Fused(torch.autograd.Function):
    """Shapes and work of fused attention, forward and backward (2.5 times as much: the scores are computed again)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, trace: Trace) -> Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, out)
        ctx.trace, ctx.flops = trace, 2 * q[..., 0].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1])
        trace.work["attention"] += ctx.flops
        trace.calls += 1
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        ctx.trace.work["attention"] += 2.5 * ctx.flops
        ctx.trace.calls += 1
        return *(torch.empty_like(x) for x in ctx.saved_tensors[:3]), None


@contextmanager
def tracing(device: str, *, grad: bool = False) -> Iterator[tuple[Trace, torch.device]]:
    """A Trace, and the device on which to make tensors so that they have no values: it stands for the one named."""
    at, run = (CPU, on_cpu) if device == "cpu" else (META, on_meta)
    trace = Trace(run)
    with trace, _fused(trace), torch.set_grad_enabled(grad):
        yield trace, at


@contextmanager
def _fused(trace: Trace) -> Iterator[None]:
    """Fused attention as what it is on any device: no matrix of scores in memory.

    Not by a mode for functions, which a backward pass is not in when it computes again what was forgotten.
    """
    before = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = lambda q, k, v, *_, **__: _Fused.apply(q, k, v, trace)
    try:
        yield
    finally:
        F.scaled_dot_product_attention = before
