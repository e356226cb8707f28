"""Context parallelism: the processes of a group share the tokens of one pack (Ulysses, arXiv:2309.14509).

    L tokens of the pack, l of them here, P processes, H heads, K channels of a head

The plan, applied from outside to a DiT whose forward stays as it is:

| where | what happens | backward |
|---|---|---|
| before the DiT | the pack is cut into P runs of tokens; a run is itself a pack, of what it holds of each clip | - |
| self-attention in | (l, H, K) -> (L, H/P, K): all tokens of some heads | the way out |
| self-attention out | (L, H/P, K) -> (l, H, K) | the way in |
| after the DiT | the runs are put together again, on every process | each takes its own run's gradient |

All else is a token's own business, cross-attention too: a run's queries see the texts of the clips that they are of.
Every process of the group computes the same loss from the whole output, and its weights' gradients are those of its
run, so gradients summed over the group are the pack's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from videodit.errors import InputError
from videodit.parallel.mesh import Mesh

Lengths = tuple[int, ...]


def share_tokens(dit: nn.Module, mesh: Mesh) -> None:
    """Have a DiT's forward share the tokens of its pack among the processes of the mesh's context axis.

    Raises InputError where the heads cannot be shared equally, or where a token depends on more than attention.
    A text encoder, which runs whole on every process, is left as it is.
    """
    if not hasattr(dit, "patch"):
        return
    if dit.time_mode == "in_context":
        raise InputError("parallel.context: time=in_context adds a token to every clip, which cannot be shared")
    blocks = dit.get_submodule(dit.BLOCKS)
    runs = Runs(mesh)
    for block in blocks:
        if block.attention.heads % mesh.context:
            raise InputError(f"parallel.context={mesh.context}: must divide the {block.attention.heads} heads")
        block.attention.attend = runs.attention(block.attention.attend)
    dit.register_forward_pre_hook(runs.split, with_kwargs=True)
    dit.register_forward_hook(runs.gather)


class Runs:
    """How the present pack is cut."""

    def __init__(self, mesh: Mesh) -> None:
        assert mesh.devices is not None
        self.group = mesh.devices["context"].get_group()
        self.count, self.rank = mesh.context, mesh.devices["context"].get_local_rank()
        self.lengths: Lengths = ()  # of the whole pack's clips
        self.sizes: list[int] = []  # tokens of each run

    def split(self, dit: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """The DiT's (pack, t, text) -> those of this process's run."""
        pack, t, text = args
        total = len(pack.tokens)
        if total < self.count:
            raise InputError(f"parallel.context={self.count}: a pack of {total} tokens cannot be shared among as many")
        self.lengths = pack.lengths
        self.sizes = run_sizes(total, self.count)
        start = sum(self.sizes[: self.rank])
        mine = slice(start, start + self.sizes[self.rank])
        lengths = overlaps(pack.lengths, mine.start, mine.stop)
        here = [clip for clip, length in enumerate(lengths) if length]
        pack = type(pack)(pack.tokens[mine], pack.positions[mine], tuple(lengths[clip] for clip in here))
        t = t[here] if len(t) == len(lengths) else t[mine]
        states = text.states.split(text.lengths)
        text = type(text)(torch.cat([states[clip] for clip in here]), tuple(text.lengths[clip] for clip in here))
        return (pack, t, text), kwargs

    def gather(self, dit: nn.Module, args: tuple, out: Tensor) -> Tensor:
        """The output of this run (l,D) -> that of the whole pack (L,D)."""
        return _Gather.apply(out, self.sizes, self.rank, self.group)

    def attention(self, attend: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Attention among all tokens of the pack, of these heads."""

        def shared(q: Tensor, k: Tensor, v: Tensor, lengths: Any, **how: Any) -> Tensor:
            heads, channels = q.shape[1:]
            mine, each = self.sizes[self.rank], heads // self.count
            x = torch.stack((q, k, v), dim=2).view(mine, self.count, each, 3, channels)
            x = x.transpose(0, 1).reshape(self.count * mine, each, 3, channels)
            x = _AllToAll.apply(x, [mine] * self.count, self.sizes, self.group)  # (L, H/P, 3, K)
            out = attend(*x.unbind(2), type(lengths)(self.lengths, self.lengths), **how)
            out = _AllToAll.apply(out, self.sizes, [mine] * self.count, self.group)  # (P*l, H/P, K)
            return out.view(self.count, mine, each, channels).transpose(0, 1).reshape(mine, heads, channels)

        return shared


def run_sizes(total: int, count: int) -> list[int]:
    """Tokens of each of `count` runs, as equal as they get."""
    return [total // count + (rank < total % count) for rank in range(count)]


def overlaps(lengths: Lengths, start: int, stop: int) -> list[int]:
    """How many tokens of each clip lie in start ... stop-1 of the pack."""
    found, begin = [], 0
    for length in lengths:
        found.append(max(0, min(stop, begin + length) - max(start, begin)))
        begin += length
    return found


class _AllToAll(torch.autograd.Function):
    """Rows for each process, in order -> rows from each process, in order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, send: list[int], receive: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.send, ctx.receive, ctx.group = send, receive, group
        out = x.new_empty(sum(receive), *x.shape[1:])
        dist.all_to_all_single(out, x.contiguous(), receive, send, group=group)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _AllToAll.apply(grad, ctx.receive, ctx.send, ctx.group), None, None, None


class _Gather(torch.autograd.Function):
    """The runs of all processes, one after the other."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int], rank: int, group: dist.ProcessGroup) -> Tensor:
        ctx.sizes, ctx.rank = sizes, rank
        most = max(sizes)
        padded = x.new_zeros(most, *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded, group=group)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return grad.split(ctx.sizes)[ctx.rank], None, None, None
