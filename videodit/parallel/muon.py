"""Muon on matrices that are sharded by rows: each process orthogonalises some of them, whole.

    S processes hold a matrix (m,n) as up to S parts (m/S,n), S matrices of one shape at a time:
    momentum on parts -> all-to-all: process i has matrix i -> Newton-Schulz -> all-to-all: parts -> update of parts
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim._muon import _adjust_lr, _zeropower_via_newtonschulz


def muons(
    parts: Mapping[str, nn.Parameter], matrices: Mapping[str, nn.Parameter], how: Mapping[str, Any]
) -> list[torch.optim.Optimizer]:
    """torch's Muon for those `parts` that are whole matrices, and ours for those that are not."""
    sharded = [name for name in parts if isinstance(matrices[name], DTensor)]  # in the same order on all processes
    plain = [part for name, part in parts.items() if name not in sharded]
    made: list[torch.optim.Optimizer] = [torch.optim.Muon(plain, **how)] if plain else []
    if sharded:
        names = sorted(sharded, key=lambda name: tuple(matrices[name].shape))  # those of one shape side by side
        made.append(ShardedMuon([parts[n] for n in names], [matrices[n] for n in names], **how))
    return made


class ShardedMuon(torch.optim.Muon):
    """torch's Muon; `parts` are what this process holds of the matrices, all sharded in the same way."""

    def __init__(self, parts: Sequence[nn.Parameter], matrices: Sequence[DTensor], **how: Any) -> None:
        super().__init__(parts, **how)
        self.shapes = {part: tuple(matrix.shape) for part, matrix in zip(parts, matrices, strict=True)}
        self.group = matrices[0].device_mesh.get_group(-1)
        self.rank, self.count = dist.get_rank(self.group), dist.get_world_size(self.group)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """One update."""
        for group in self.param_groups:
            momentum, used = group["momentum"], [part for part in group["params"] if part.grad is not None]
            updates = []
            for part in used:
                buffer = self.state[part].setdefault("momentum_buffer", torch.zeros_like(part))
                buffer.lerp_(part.grad, 1 - momentum)
                updates.append(part.grad.lerp(buffer, momentum) if group["nesterov"] else buffer)
            how = group["ns_coefficients"], group["ns_steps"], group["eps"]
            for part, update in zip(used, self._orthogonal(used, updates, how), strict=True):
                part.mul_(1 - group["lr"] * group["weight_decay"])
                part.add_(update, alpha=-_adjust_lr(group["lr"], group["adjust_lr_fn"], self.shapes[part]))

    def _orthogonal(self, parts: list[nn.Parameter], updates: list[Tensor], how: tuple) -> Iterator[Tensor]:
        """Every update's part of the orthogonalised whole."""
        pairs = zip((self.shapes[part] for part in parts), updates, strict=True)
        for shape, run in groupby(pairs, key=lambda pair: pair[0]):
            alike = [update for _, update in run]
            for start in range(0, len(alike), self.count):
                yield from self._few(alike[start : start + self.count], shape, how)

    def _few(self, updates: list[Tensor], shape: tuple[int, ...], how: tuple) -> list[Tensor]:
        """At most one matrix a process, all of one shape."""
        most = -(-shape[0] // self.count)
        rows = [max(0, min(most, shape[0] - rank * most)) for rank in range(self.count)]
        mine = self.rank < len(updates)
        out = [rows[self.rank] * (rank < len(updates)) for rank in range(self.count)]
        back = [n * mine for n in rows]
        whole = self._exchange(torch.cat(updates), out, back)
        if mine:
            whole = _zeropower_via_newtonschulz(whole, *how).to(whole.dtype).contiguous()
        return list(self._exchange(whole, back, out).split(rows[self.rank]) if rows[self.rank] else updates)

    def _exchange(self, x: Tensor, send: list[int], receive: list[int]) -> Tensor:
        out = x.new_empty(sum(receive), x.shape[1])
        dist.all_to_all_single(out, x.contiguous(), receive, send, group=self.group)
        return out
