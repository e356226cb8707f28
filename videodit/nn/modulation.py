"""How time scales, shifts and gates the tokens (adaptive layer norm, Peebles & Xie 2022, arXiv:2212.09748).

B clips, L tokens in all, N model width
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from videodit.nn.kernels import clip_of, upload

Rows = Tensor | None  # (L,N), or (B,N) when the clips' tokens are equally many, or nothing to do


@dataclass(frozen=True)
class TimePerToken:
    """The embedded time (R,N), R = B or L, what the blocks take of it, and the row that each token (L,) takes.

    `row`: None where there is one for all tokens, or one for each.
    """

    embedded: Tensor
    shared: Tensor
    row: Tensor | None

    def rows(self, values: Tensor) -> list[Tensor]:
        """Values (R,n,N) -> n tensors (1,N) or (L,N) that broadcast against tokens (L,N)."""
        return list((values if self.row is None else values.index_select(0, self.row)).unbind(1))


def per_token(embedded: Tensor, shared: Tensor, lengths: tuple[int, ...]) -> TimePerToken:
    """Times of clips with so many tokens, or of their tokens, for all blocks."""
    spread = len(embedded) == len(lengths) and len(lengths) not in (1, sum(lengths))
    return TimePerToken(embedded, shared, upload(clip_of(lengths), embedded.device) if spread else None)


class Modulation(nn.Module):
    """Time -> shift, scale, gate of the attention and of the feed-forward; None where the mode has none."""

    def __init__(self, *, dim: int, mode: str) -> None:
        super().__init__()
        self.active = mode.startswith("adaln")
        self.gates = mode in ("adaln_single", "adaln_zero")
        self.table = nn.Parameter(torch.zeros(6, dim)) if mode == "adaln_single" else None
        chunks = {"adaln_zero": 6, "adaln": 4}.get(mode)
        self.proj = None if chunks is None else nn.Linear(dim, chunks * dim)

    def forward(self, time: TimePerToken) -> list[Rows]:
        if self.table is not None:
            return time.rows(self.table + time.shared)
        if self.proj is None:
            return [None] * 6
        projected = self.proj(F.silu(time.embedded).to(self.proj.weight.dtype))
        rows = time.rows(rearrange(projected, "r (n d) -> r n d", d=time.embedded.shape[1]))
        return rows if self.gates else [rows[0], rows[1], None, rows[2], rows[3], None]

    def initialise(self) -> None:
        """Zero: no shift, no scale, and gates that close the branch until training opens it."""
        for parameter in self.parameters():
            nn.init.zeros_(parameter)


def modulate(x: Tensor, shift: Rows, scale: Rows) -> Tensor:
    """x * (1 + scale) + shift, in the type of the rows if that is the wider one, and back in that of x."""
    return x if scale is None else torch.addcmul(shift, x, 1 + scale).to(x.dtype)


def gated(x: Tensor, branch: Tensor, gate: Rows) -> Tensor:
    """x + gate * branch, likewise."""
    return x + branch if gate is None else torch.addcmul(x, branch, gate).to(x.dtype)
