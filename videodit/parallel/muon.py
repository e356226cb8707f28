"""Muon (Jordan et al. 2024), also on matrices that are sharded by rows: each process orthogonalises some, whole.

S processes hold a matrix (m,n) as up to S parts (m/S,n), S matrices of one shape at a time:
momentum on parts -> all-to-all: process i has matrix i -> Newton-Schulz -> all-to-all: parts -> update of parts
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim._muon import _adjust_lr


def muons(
    parts: Mapping[str, nn.Parameter], matrices: Mapping[str, nn.Parameter], how: Mapping[str, Any]
) -> list[torch.optim.Optimizer]:
    """Muon for those `parts` that are whole matrices, and for those that are not."""
    sharded = [name for name in parts if isinstance(matrices[name], DTensor)]  # in the same order on all processes
    whole = [part for name, part in parts.items() if name not in sharded]
    made: list[torch.optim.Optimizer] = [Muon(whole, **how)] if whole else []
    if sharded:
        names = sorted(sharded, key=lambda name: tuple(matrices[name].shape))  # those of one shape side by side
        made.append(ShardedMuon([parts[n] for n in names], [matrices[n] for n in names], **how))
    return made


def product_type(device: torch.device) -> torch.dtype:
    """What Muon multiplies in: bfloat16 as its authors do, but not on a CPU that has no such products: ten times slower
    there than float32's.
    """
    fast = device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def newton_schulz(x: Tensor, coefficients: Sequence[float], steps: int, eps: float, dtype: torch.dtype) -> Tensor:
    """About the nearest matrix to x (m,n) with singular values of 1: the quintic iteration, in products of `dtype`."""
    a, b, c = coefficients
    tall = x.shape[0] > x.shape[1]
    y = x.to(dtype).T if tall else x.to(dtype)
    y = y / y.norm().clamp(min=eps)
    for _ in range(steps):
        gram = y @ y.T
        y = torch.addmm(y, torch.addmm(gram, gram, gram, beta=b, alpha=c), y, beta=a)
    return (y.T if tall else y).to(x.dtype)


class Muon(torch.optim.Muon):
    """torch's, with products of the type that the machine is made for."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """One update."""
        for group in self.param_groups:
            used = [part for part in group["params"] if part.grad is not None]
            updates = (self._momentum(part, group) for part in used)
            how = group["ns_coefficients"], group["ns_steps"], group["eps"]
            for part, update in zip(used, self._orthogonal(used, updates, how), strict=True):
                part.mul_(1 - group["lr"] * group["weight_decay"])
                part.add_(update, alpha=-_adjust_lr(group["lr"], group["adjust_lr_fn"], self._shape(part)))

    def _momentum(self, part: nn.Parameter, group: Mapping[str, Any]) -> Tensor:
        buffer = self.state[part].setdefault("momentum_buffer", torch.zeros_like(part))
        buffer.lerp_(part.grad, 1 - group["momentum"])
        return part.grad.lerp(buffer, group["momentum"]) if group["nesterov"] else buffer

    def _shape(self, part: nn.Parameter) -> tuple[int, ...]:
        return tuple(part.shape)

    def _orthogonal(self, parts: Sequence[nn.Parameter], updates: Iterable[Tensor], how: tuple) -> Iterator[Tensor]:
        return (newton_schulz(update, *how, product_type(update.device)) for update in updates)


class ShardedMuon(Muon):
    """The same; `parts` are what this process holds of the matrices, all sharded in the same way."""

    def __init__(self, parts: Sequence[nn.Parameter], matrices: Sequence[DTensor], **how: Any) -> None:
        super().__init__(parts, **how)
        self.shapes = {part: tuple(matrix.shape) for part, matrix in zip(parts, matrices, strict=True)}
        self.group = matrices[0].device_mesh.get_group(-1)
        self.rank, self.count = dist.get_rank(self.group), dist.get_world_size(self.group)

    def _shape(self, part: nn.Parameter) -> tuple[int, ...]:
        return self.shapes[part]

    def _orthogonal(self, parts: Sequence[nn.Parameter], updates: Iterable[Tensor], how: tuple) -> Iterator[Tensor]:
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
            whole = newton_schulz(whole, *how, product_type(whole.device)).contiguous()
        return list(self._exchange(whole, back, out).split(rows[self.rank]) if rows[self.rank] else updates)

    def _exchange(self, x: Tensor, send: list[int], receive: list[int]) -> Tensor:
        out = x.new_empty(sum(receive), x.shape[1])
        dist.all_to_all_single(out, x.contiguous(), receive, send, group=self.group)
        return out
