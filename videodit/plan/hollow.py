"""Tensors that have a shape, a type and a device but no values, and what operations make of them.

torch has both: its fake tensors and the rules of its meta device. But the first of either loads torch's compiler, which
takes longer than all that a plan computes, so the rules of the commonest operations are here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from itertools import zip_longest
from math import ceil
from typing import Any

import torch
from torch import Tensor

CPU, META = torch.device("cpu"), torch.device("meta")
YES_OR_NO = frozenset("eq ne lt le gt ge isnan isinf logical_not logical_and logical_or".split())
aten = torch.ops.aten


class Hollow(Tensor):
    """A tensor that says it is on the CPU, to whoever asks and to torch's dispatcher. Its values are on no device."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    inner: Tensor
    device = property(lambda self: CPU)

    @staticmethod
    def __new__(cls, inner: Tensor) -> Hollow:
        """Share the storage, which has a size but no memory, of a tensor on the meta device."""
        self = Tensor._make_subclass(cls, inner, dispatch_device=True, device_for_backend_keys=CPU)
        self.inner = inner
        return self

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is torch.ops.prim.device.default:
            return CPU
        raise RuntimeError(f"{func} of tensors without values, outside of their trace")


def on_meta(func: Any, args: tuple, kwargs: dict) -> Any:
    """What an operation gives for tensors of the meta device."""
    rule = RULES.get(func.overloadpacket)
    if rule is None and torch.Tag.pointwise in func.tags:
        rule = _in_place if func._schema.is_mutable else _pointwise
    out = NotImplemented if rule is None else rule(func, *args, **kwargs)
    return func(*args, **kwargs) if out is NotImplemented else out


def on_cpu(func: Any, args: tuple, kwargs: dict) -> Any:
    """What an operation gives for hollow tensors; tensors with values lose them."""
    given = {id(x.inner): x for x in tensors(args, *kwargs.values()) if isinstance(x, Hollow)}
    args, kwargs = _each(_bare, args), {name: _each(_bare, value) for name, value in kwargs.items()}
    if next(tensors(args, *kwargs.values()), None) is None and any(a.name == "device" for a in func._schema.arguments):
        kwargs["device"] = META

    def covered(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        return given[id(x)] if id(x) in given else Hollow(x)  # what was changed in place is the same tensor as before

    return _each(covered, on_meta(func, args, kwargs))


def tensors(*values: Any) -> Iterator[Tensor]:
    """Those in what an operation takes or gives, which is in lists and tuples."""
    for value in values:  # torch's own functions for this know every container, and take longer
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors(*value)


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)([_each(change, x) for x in value])
    return change(value)


def _bare(x: Any) -> Any:
    if isinstance(x, Hollow):
        return x.inner
    if isinstance(x, torch.device):
        return META
    return _ordered(x.shape, x.dtype, x) if isinstance(x, Tensor) and x.device != META else x


def _in_place(func: Any, *args: Any, out: Tensor | None = None, **kwargs: Any) -> Tensor:
    return args[0] if out is None else out


def _pointwise(func: Any, *args: Any, **kwargs: Any) -> Tensor:
    tensors = [x for x in args if isinstance(x, Tensor)]
    dtype = reduce(torch.promote_types, [x.dtype for x in tensors if x.dim()] or [x.dtype for x in tensors])
    if not _is_real(dtype):  # numbers count only where they are of a higher kind, as 0.5 beside integers is
        dtype = reduce(torch.promote_types, [x.dtype for x in tensors])
    if func.overloadpacket.__name__ in YES_OR_NO:
        dtype = torch.bool
    elif not _is_real(dtype):
        return NotImplemented  # whole numbers, of which some operations make real ones
    shape = _broadcast([x.shape for x in tensors])
    like = next((x for x in tensors if x.shape == shape), None)
    if like is None:
        return torch.empty(shape, dtype=dtype, device=META)
    return _ordered(shape, dtype, like, kwargs.get("memory_format"))


def _broadcast(shapes: Sequence[Sequence[int]]) -> tuple[int, ...]:
    columns = zip_longest(*map(reversed, shapes), fillvalue=1)  # torch's own function loads sympy
    return tuple(next((n for n in column if n != 1), 1) for column in columns)[::-1]


def _is_real(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex


def _cat(func: Any, tensors: list[Tensor], dim: int = 0) -> Tensor:
    first = next((x for x in tensors if x.shape != (0,)), tensors[0])
    shape = list(first.shape)
    shape[dim] = sum(x.shape[dim] for x in tensors if x.shape != (0,) or x.dim() == first.dim())
    dtype = reduce(torch.promote_types, [x.dtype for x in tensors])
    return _ordered(shape, dtype, first)


def _stack(func: Any, tensors: list[Tensor], dim: int = 0) -> Tensor:
    return _cat(func, [x.unsqueeze(dim) for x in tensors], dim)


def _arange(func: Any, *limits: float, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    start, stop, step = (0, *limits, 1) if len(limits) == 1 else (*limits, 1)[:3]
    whole = all(isinstance(x, int) for x in limits)
    kind = dtype or (torch.int64 if whole else torch.get_default_dtype())
    return torch.empty(ceil((stop - start) / step), dtype=kind, device=META)


def _over(
    func: Any, x: Tensor, dim: list[int] | None = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Tensor:
    if dtype is None and not x.dtype.is_floating_point:
        return NotImplemented
    axes = [d % x.dim() for d in dim or range(x.dim())]
    return x.new_empty([1 if d in axes else n for d, n in enumerate(x.shape) if keepdim or d not in axes], dtype=dtype)


def _norm(func: Any, x: Tensor, order: float, *axes: Any, **kwargs: Any) -> Tensor:
    return _over(func, x, *axes, **kwargs)


def _layer_norm(func: Any, x: Tensor, shape: list[int], *parameters: Any) -> tuple[Tensor, Tensor, Tensor]:
    statistics = x.new_empty([*x.shape[: x.dim() - len(shape)], *[1] * len(shape)])
    return x.new_empty(x.shape), statistics, statistics.new_empty(statistics.shape)


def _like(
    func: Any, x: Tensor, *value: Any, dtype: torch.dtype | None = None, memory_format: Any = None, **_: Any
) -> Tensor:
    return _ordered(x.shape, dtype or x.dtype, x, memory_format)


def _polar(func: Any, length: Tensor, angle: Tensor) -> Tensor:
    return _ordered(length.shape, length.dtype.to_complex(), length)


def _convolution(
    func: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, *other: Any
) -> Tensor:
    if other[0]:
        return NotImplemented  # transposed
    sizes = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    shape = [(n + 2 * around - apart * (taps - 1) - 1) // step + 1 for n, taps, step, around, apart in sizes]
    return _ordered([x.shape[0], weight.shape[0], *shape], x.dtype, x)


def _onednn_convolution(
    func: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: Any, stride: Any, dilation: Any, groups: int
) -> Tensor:
    return _convolution(func, x, weight, bias, stride, padding, dilation, False)


def _product(func: Any, a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(*a.shape[:-1], b.shape[-1])


def _biased(func: Any, bias: Tensor, a: Tensor, b: Tensor, **scales: float) -> Tensor:
    return _product(func, a, b)


def _attention(func: Any, q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    n, heads, length = q.shape[:3]
    out = q.new_empty(n, length, heads, v.shape[-1]).transpose(1, 2)
    return out, q.new_empty(n, length, heads, dtype=torch.promote_types(q.dtype, torch.float32)).transpose(1, 2)


def _attention_backward(func: Any, grad: Tensor, *inputs: Any, **_: Any) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (x.transpose(1, 2).new_empty(x.transpose(1, 2).shape).transpose(1, 2) for x in inputs[:3])
    return q, k, v


def _larger(func: Any, x: Tensor, size: Sequence[int], *scales: float | None) -> Tensor:
    return _ordered([*x.shape[:2], *size], x.dtype, x)


def _ordered(shape: Sequence[int], dtype: torch.dtype, like: Tensor, form: torch.memory_format | None = None) -> Tensor:
    """A tensor whose axes lie in memory in the order of those of `like`, or as `form` says."""
    if form not in (None, torch.preserve_format):
        return torch.empty(shape, dtype=dtype, device=META, memory_format=form)
    strides, size = [0] * len(shape), 1
    for axis in sorted(range(len(shape)), key=lambda axis: (like.stride(axis), -axis)):
        strides[axis], size = size, size * max(1, shape[axis])
    return torch.empty_strided(shape, strides, dtype=dtype, device=META)


RULES: dict[Any, Callable[..., Any]] = {
    **{op: _like for op in (aten.empty_like, aten.ones_like, aten.zeros_like, aten.full_like, aten._softmax)},
    **{op: _product for op in (aten.mm, aten.bmm)},
    **{op: _biased for op in (aten.addmm, aten.baddbmm)},
    **{op: _larger for op in (aten.upsample_nearest2d, aten.upsample_nearest3d)},
    **{op: _over for op in (aten.mean, aten.sum, aten.amax)},
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    aten.arange: _arange,
    aten.cat: _cat,
    aten.convolution: _convolution,
    aten.linalg_vector_norm: _norm,
    aten.mkldnn_convolution: _onednn_convolution,
    aten.native_layer_norm: _layer_norm,
    aten.polar: _polar,
    aten.stack: _stack,
}
