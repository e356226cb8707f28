"""Memory and work of a computation, found by running it on tensors without values.

For a CPU these are torch's fake tensors, for a GPU that may not be here those of the meta device. A pass of a network
of any size takes no memory and a fraction of a second. Every operation is seen: which storages are alive, what it
multiplies, what it reads and writes.
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
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from videodit.nn import winograd

CPU, META = torch.device("cpu"), torch.device("meta")
aten = torch.ops.aten


class Trace(TorchDispatchMode):
    """Counts what passes below it.

    peak: most bytes alive at once. work: floating-point operations by kind ("matmul", "conv", "attention") and
    "bytes", what all other operations read and write. calls: number of operations that are not views.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = self.calls = 0
        self.work: Counter[str] = Counter()
        self._seen: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        out = _convolution(*args) if func is aten.mkldnn_convolution.default else func(*args, **kwargs)
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
        elif packet is aten._scaled_dot_product_flash_attention_for_cpu:
            self.calls += 1
            self.work["attention"] += attention_flops(*args[:3])
        elif packet is aten._scaled_dot_product_flash_attention_for_cpu_backward:
            self.calls += 1
            self.work["attention"] += 2.5 * attention_flops(*args[1:4])  # the scores are computed again
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


def _convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, padding: Any, stride: Any, dilation: Any, groups: int
) -> Tensor:
    """oneDNN's convolution, which torch has no rule for, as the common one."""
    return aten.convolution(x, weight, bias, stride, padding, dilation, False, [0] * len(stride), groups)


def _conv_scratch(x: Tensor, weight: Tensor, out: Tensor) -> int:
    """oneDNN brings weights into its own order, and tensors that are not channels-last as well."""
    if x.device.type != "cpu":
        return 0
    size = weight.numel() * weight.element_size()
    ordered = torch.channels_last_3d if x.dim() == 5 else torch.channels_last
    if not x.is_contiguous(memory_format=ordered):
        size += (x.numel() + out.numel()) * x.element_size()
    return size


class _Fusing(TorchFunctionMode):
    """Attention on a device that is not there, for which torch would choose no fused kernel, as what it is on any: no
    matrix of scores in memory. On a CPU torch's own kernel is traced.

    Only this thread computes so: others that denoise meanwhile have torch's attention.
    """

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        q, k, v = args[:3]
        self.trace.calls += 1
        self.trace.work["attention"] += attention_flops(q, k, v)
        return q.new_empty(*q.shape[:-1], v.shape[-1])


def attention_flops(q: Tensor, k: Tensor, v: Tensor) -> int:
    """Floating-point operations of attention of q (…,l,K) to k and v (…,m,K)."""
    return 2 * prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1])


@contextmanager
def tracing(device: str, *, grad: bool = False) -> Iterator[tuple[Trace, torch.device]]:
    """A Trace, and the device on which to make tensors so that they have no values: it stands for the one named.

    Passes backward are traced on a CPU only.
    """
    assert device == "cpu" or not grad, f"a backward pass is traced on a CPU, not on {device}"
    trace = Trace()
    with FakeTensorMode(allow_non_fake_inputs=True) if device == "cpu" else _Fusing(trace):
        with trace, torch.set_grad_enabled(grad):
            yield trace, CPU if device == "cpu" else META


def tensors(*values: Any) -> Iterator[Tensor]:
    """Those in what an operation takes or gives, which is in lists and tuples."""
    for value in values:  # torch's own functions for this know every container, and take longer
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors(*value)
