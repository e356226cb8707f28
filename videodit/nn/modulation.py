"""How time scales, shifts and gates the tokens (adaptive layer norm, Peebles & Xie 2022, arXiv:2212.09748).

B clips, L tokens in all, N model width
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videodit.nn.kernels import upload

Values = Tensor | None  # (R,N), or None where there is nothing to do


@dataclass(eq=False)  # a compiler looks into what is frozen, and every pack would have a graph of its own
class Rows:
    """Which of R rows of values each of L tokens takes.

    index: (L,). runs: the row (n,) of each of n runs of tokens that take one; segments: (runs, tokens of each), where
    neighbours that are equally long are together.
    """

    index: Tensor
    runs: Tensor
    segments: tuple[tuple[int, int], ...]


def rows_of_runs(runs: Sequence[int], lengths: Sequence[int], device: torch.device) -> Rows:
    """Runs of tokens, so many each, that take these rows, one each."""
    rows, sizes = torch.tensor(runs), torch.tensor(lengths)
    segments = tuple((len(list(run)), length) for length, run in groupby(lengths))
    return Rows(upload(rows.repeat_interleave(sizes, output_size=sum(lengths)), device), upload(rows, device), segments)


def rows_of_tokens(index: Tensor, device: torch.device) -> Rows:
    """Tokens that take the rows index (L,), on the CPU."""
    runs, lengths = torch.unique_consecutive(index, return_counts=True)
    return rows_of_runs(runs.tolist(), lengths.tolist(), device)


@dataclass(frozen=True)
class TokenTimes:
    """The embedded times (R,N), what the blocks take of them, and the row of each token; None: there is only one."""

    embedded: Tensor
    shared: Tensor
    rows: Rows | None


class Modulation(nn.Module):
    """Time -> shift, scale, gate of the attention and of the feed-forward; None where the mode has none."""

    def __init__(self, *, dim: int, mode: str) -> None:
        super().__init__()
        self.active = mode.startswith("adaln")
        self.gates = mode in ("adaln_single", "adaln_zero")
        self.table = nn.Parameter(torch.zeros(6, dim)) if mode == "adaln_single" else None
        chunks = {"adaln_zero": 6, "adaln": 4}.get(mode)
        self.proj = None if chunks is None else nn.Linear(dim, chunks * dim)

    def forward(self, time: TokenTimes) -> list[Values]:
        if self.table is not None:
            return list((self.table + time.shared).unbind(1))
        if self.proj is None:
            return [None] * 6
        projected = self.proj(F.silu(time.embedded).to(self.proj.weight.dtype))
        values = projected.unflatten(1, (-1, time.embedded.shape[1])).unbind(1)
        return list(values) if self.gates else [*values[:2], None, *values[2:], None]

    def initialise(self) -> None:
        """Zero: no shift, no scale, and gates that close the branch until training opens it."""
        for parameter in self.parameters():
            nn.init.zeros_(parameter)


def modulate(x: Tensor, shift: Values, scale: Values, rows: Rows | None) -> Tensor:
    """x * (1 + scale) + shift, in the type of the values if that is the wider one, and back in that of x."""
    return x if scale is None else _by_rows(_modulate, [x], [shift, 1 + scale], rows)


def gated(x: Tensor, branch: Tensor, gate: Values, rows: Rows | None) -> Tensor:
    """x + gate * branch, likewise."""
    return x + branch if gate is None else _by_rows(_gated, [x, branch], [gate], rows)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, x, scale).to(x.dtype)


def _gated(x: Tensor, branch: Tensor, gate: Tensor) -> Tensor:
    return torch.addcmul(x, branch, gate).to(x.dtype)


def _by_rows(
    function: Callable[..., Tensor], tokens: Sequence[Tensor], values: Sequence[Tensor], rows: Rows | None
) -> Tensor:
    """A function of tokens (L,N) and of the values (R,N) that they take.

    Segment by segment, where values (n,1,N) broadcast against tokens (n,l,N): the backward pass keeps no values of
    every token, (L,N) in float32. A compiler sees no segments, which would give every pack a graph of its own: it
    fuses the look-up with the function, and looks up again on the way back.
    """
    if rows is None:
        return function(*tokens, *values)
    if torch.compiler.is_compiling():
        return function(*tokens, *(one.index_select(0, rows.index) for one in values))
    sizes, runs = [n * length for n, length in rows.segments], [n for n, _ in rows.segments]
    looked_up = [one.index_select(0, rows.runs)[:, None].split(runs) for one in values]
    parts = zip(*(x.split(sizes) for x in tokens), *looked_up, strict=True)
    out = []
    for (n, length), part in zip(rows.segments, parts, strict=True):
        xs = [x.unflatten(0, (n, length)) for x in part[: len(tokens)]]
        out.append(function(*xs, *part[len(tokens) :]).flatten(0, 1))
    return torch.cat(out) if len(out) > 1 else out[0]
