"""Context parallelism: the processes of a group share the tokens of one pack (Ulysses, arXiv:2309.14509).

    L tokens of the pack, l of them here, P processes, H heads, K channels of a head

The plan, which a denoiser's forward follows through its session's `Span`:

| where | what happens | backward |
|---|---|---|
| before the blocks | the tokens are cut into P runs, each a pack of what it holds of the clips | zeros elsewhere |
| self-attention in | (l, H, K) -> (L, H/P, K): all tokens of some heads | the way out |
| self-attention out | (L, H/P, K) -> (l, H, K) | the way in |
| after the last layer | the runs are put together again, on every process | each takes its own run's gradient |

All else is a token's own business, cross-attention too: a run's queries see the texts of the clips that they are of.
Every process of the group computes the same loss from the whole output, and its weights' gradients are those of its
run, so gradients summed over the group are the pack's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from videodit.errors import InputError
from videodit.models.interfaces import Denoiser, Span
from videodit.nn.kernels import attend
from videodit.parallel.mesh import Mesh

Lengths = tuple[int, ...]


def share_tokens(network: Denoiser, mesh: Mesh) -> None:
    """Have a denoiser share the tokens of its packs among the processes of the mesh's context axis.

    Raises InputError where the heads cannot be shared equally.
    """
    if network.heads % mesh.context:
        raise InputError(f"parallel.context={mesh.context}: must divide the {network.heads} heads")
    network.sharing = Group(mesh)


class Group:
    """The processes that share tokens."""

    def __init__(self, mesh: Mesh) -> None:
        assert mesh.devices is not None
        self.group = mesh.devices["context"].get_group()
        self.count, self.rank = mesh.context, mesh.devices["context"].get_local_rank()

    def span(self, lengths: Lengths) -> Run:
        """This process's run of a pack of clips with so many tokens."""
        return Run(self, lengths)


class Run(Span):
    """This process's run of the tokens of a pack."""

    def __init__(self, group: Group, whole: Lengths) -> None:
        if sum(whole) < group.count:
            told = f"a pack of {sum(whole)} tokens cannot be shared among as many"
            raise InputError(f"parallel.context={group.count}: {told}")
        self.group, self.whole = group, whole
        self.sizes = run_sizes(sum(whole), group.count)
        start = sum(self.sizes[: group.rank])
        self.mine = slice(start, start + self.sizes[group.rank])
        found = overlaps(whole, self.mine.start, self.mine.stop)
        self.clips = tuple(clip for clip, length in enumerate(found) if length)
        self.lengths = tuple(found[clip] for clip in self.clips)

    def split(self, x: Tensor) -> Tensor:
        """Something for every token (L,…) -> this run's (l,…)."""
        return x[self.mine]

    def gather(self, x: Tensor) -> Tensor:
        """Something for this run's tokens (l,…) -> that of the whole pack (L,…)."""
        return _Gather.apply(x, self.sizes, self.group.rank, self.group.group)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, kernel: str) -> Tensor:
        """Self-attention among all tokens of the pack, in this process of some heads: q, k, v (l,H,K) -> (l,H,K)."""
        heads, channels = q.shape[1:]
        count, mine, each = self.group.count, self.sizes[self.group.rank], heads // self.group.count
        x = torch.stack((q, k, v), dim=2).view(mine, count, each, 3, channels)
        x = x.transpose(0, 1).reshape(count * mine, each, 3, channels)
        x = _AllToAll.apply(x, [mine] * count, self.sizes, self.group.group)  # (L, H/P, 3, K)
        out = attend(*x.unbind(2), self.whole, self.whole, kernel=kernel)  # (L, H/P, K)
        out = _AllToAll.apply(out, self.sizes, [mine] * count, self.group.group)  # (P*l, H/P, K)
        return out.view(count, mine, each, channels).transpose(0, 1).reshape(mine, heads, channels)


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
