"""The video diffusion transformer: a pack of noisy clips, their times and their texts -> velocity.

    B clips, L tokens in all, S text states in all, E text width, D values a token, N model width, H heads, K = N/H

The block is that of arXiv:2503.20314, which is DiT's (Peebles & Xie 2022, arXiv:2212.09748) with cross-attention:
self-attention with 3D RoPE, cross-attention to the text, feed-forward. How time enters it is one of `TIME_MODES`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from videodit.errors import InputError
from videodit.models.pack import Pack, Text
from videodit.nn.embed import TimeEmbed
from videodit.nn.kernels import attend
from videodit.nn.linear import FeedForward, Linear
from videodit.nn.modulation import Modulation, TimePerToken, gated, modulate, per_token
from videodit.nn.norm import LayerNorm, RMSNorm
from videodit.nn.rope import axial_rope, fractional_rope, rotate
from videodit.nn.stepcache import StepCache

# adaln_single: one projection of the time for all blocks plus a table a block (PixArt-alpha); adaln_zero and adaln: a
# projection a block, with and without gates; cross: the time is one more text state; in_context: one more token.
TIME_MODES = ("adaln_single", "adaln_zero", "adaln", "cross", "in_context")
QK_NORMS = ("full", "head")
NORMS = ("layer", "rms")
DIGITS = 9  # to which times are told apart; the last bits depend on how they were computed

Keys = tuple[Tensor, Tensor]  # keys and values, each (M,H,K)


@dataclass(eq=False)  # a compiler looks into what is frozen, and every pack would have a graph of its own
class Lengths:
    """How many queries and keys each clip has, and how many equal keys each key (M,) stands for; None: one each."""

    q: tuple[int, ...]
    k: tuple[int, ...]
    copies: Tensor | None = None


@dataclass(frozen=True)
class Prepared:
    """All that stays the same from step to step of a generation (`DiT.prepare`)."""

    keys: list[Keys]  # of each block's cross-attention
    lengths: Lengths
    rope: Tensor
    times: dict[float, int]  # time, to DIGITS -> row
    embedded: Tensor
    shared: Tensor


def attend_to(q: Tensor, k: Tensor, v: Tensor, lengths: Lengths, *, kernel: str) -> Tensor:
    """`nn.kernels.attend`, for what a compiled block hands on unopened."""
    return attend(q, k, v, lengths.q, lengths.k, copies=lengths.copies, kernel=kernel)


class Attention(nn.Module):
    """Multi-head attention of x (L,N) to `source` (M,N), with RMS-normalised queries and keys.

    `qk_norm`: "full" normalises across all heads, "head" within each.
    """

    def __init__(self, *, dim: int, heads: int, qk_norm: str, qk_eps: float) -> None:
        super().__init__()
        self.heads, self.attend = heads, attend_to
        self.q = Linear(dim, dim)
        self.k = Linear(dim, dim)
        self.v = Linear(dim, dim)
        self.out = Linear(dim, dim)
        self.per_head = qk_norm == "head"
        norm_dim = dim // heads if self.per_head else dim
        self.norm_q = RMSNorm(norm_dim, eps=qk_eps)
        self.norm_k = RMSNorm(norm_dim, eps=qk_eps)

    def keys(self, source: Tensor) -> Keys:
        """What the queries will look at, from source (M,N)."""
        return self._normed(self.norm_k, self.k(source)), self.v(source).unflatten(-1, (self.heads, -1))

    def forward(
        self, x: Tensor, source: Tensor | Keys, lengths: Lengths, *, rope: Tensor | None, kernel: str
    ) -> Tensor:
        q = self._normed(self.norm_q, self.q(x))
        k, v = self.keys(source) if isinstance(source, Tensor) else source
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        h = self.attend(q, k, v, lengths, kernel=kernel)
        return self.out(h.flatten(1))

    def _normed(self, norm: RMSNorm, x: Tensor) -> Tensor:
        return norm(x.unflatten(-1, (self.heads, -1))) if self.per_head else norm(x).unflatten(-1, (self.heads, -1))


class Block(nn.Module):
    """(L,N) -> (L,N). `lengths`: of self-attention and of cross-attention."""

    def __init__(
        self, *, dim: int, heads: int, ffn: int, norm: str, qk_norm: str, qk_eps: float, cross_norm: bool, time: str
    ) -> None:
        super().__init__()
        self.modulation = Modulation(dim=dim, mode=time)
        make = {"layer": LayerNorm, "rms": RMSNorm}[norm]
        affine = not self.modulation.active
        self.norm1 = make(dim, eps=1e-6, elementwise_affine=affine)
        self.attention = Attention(dim=dim, heads=heads, qk_norm=qk_norm, qk_eps=qk_eps)
        self.norm2 = make(dim, eps=1e-6) if cross_norm else nn.Identity()
        self.cross = Attention(dim=dim, heads=heads, qk_norm=qk_norm, qk_eps=qk_eps)
        self.norm3 = make(dim, eps=1e-6, elementwise_affine=affine)
        self.ffn = FeedForward(dim=dim, hidden=ffn)

    def forward(
        self,
        x: Tensor,
        time: TimePerToken,
        text: Tensor | Keys,
        *,
        lengths: tuple[Lengths, Lengths],
        rope: Tensor,
        kernel: str,
    ) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(time)
        h = modulate(self.norm1(x), shift1, scale1, time.rows)
        x = gated(x, self.attention(h, h, lengths[0], rope=rope, kernel=kernel), gate1, time.rows)
        x = x + self.cross(self.norm2(x), text, lengths[1], rope=None, kernel=kernel)
        return gated(x, self.ffn(modulate(self.norm3(x), shift2, scale2, time.rows)), gate2, time.rows)


class DiT(nn.Module):
    """Args:
    channels, out_channels: latent channels in and out.
    patch: latent frames, rows and columns of one token.
    dim, layers, heads, ffn: N, blocks, H, hidden width of the feed-forward.
    text_dim: E.
    text_length: the states a clip attends to: those that a prompt lacks are zero; 0: a prompt's own and no others.
    frequency_dim: width of the time sinusoid.
    time: one of TIME_MODES.
    norm: "layer" or "rms", of the blocks' inputs.
    qk_norm, qk_eps: "full" or "head", and its epsilon.
    cross_norm: a norm with weights before cross-attention.
    fractions: None for rotations by whole positions, the same in every head; else, for time, height and width, the
        length of a token's step and the full extent, for `nn.rope.fractional_rope`.
    """

    BLOCKS = "blocks"  # what `nn.stream` may bring one by one
    EXACT = ("time_embed.", "modulation.table", "table_out")  # in float32 where the rest is in half precision

    def __init__(
        self,
        *,
        channels: int,
        out_channels: int,
        patch: Sequence[int],
        dim: int,
        layers: int,
        heads: int,
        ffn: int,
        text_dim: int,
        text_length: int,
        frequency_dim: int,
        time: str,
        norm: str,
        qk_norm: str,
        qk_eps: float,
        cross_norm: bool,
        fractions: Sequence[Sequence[float]] | None,
    ) -> None:
        super().__init__()
        for key, value, known in (("time", time, TIME_MODES), ("qk_norm", qk_norm, QK_NORMS), ("norm", norm, NORMS)):
            if value not in known:
                raise InputError(f"{key}={value}: it is one of {', '.join(known)}")
        self.patch = (patch[0], patch[1], patch[2])
        self.time_mode, self.dim, self.head_dim, self.ffn = time, dim, dim // heads, ffn
        self.text_length, self.fractions = text_length, fractions
        volume = patch[0] * patch[1] * patch[2]
        self.embed = Linear(channels * volume, dim)
        self.text_embed = nn.Sequential(nn.Linear(text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim))
        self.time_embed = TimeEmbed(dim=dim, frequency_dim=frequency_dim)
        self.time_proj = nn.Linear(dim, 6 * dim) if time == "adaln_single" else None
        norms = {"norm": norm, "qk_norm": qk_norm, "qk_eps": qk_eps, "cross_norm": cross_norm}
        self.blocks = nn.ModuleList(Block(dim=dim, heads=heads, ffn=ffn, time=time, **norms) for _ in range(layers))
        self.norm_out = LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.table_out = nn.Parameter(torch.zeros(2, dim))
        self.head = Linear(dim, out_channels * volume)
        self.initialise()

    def forward(
        self, pack: Pack, t: Tensor, text: Text | Prepared, *, kernel: str = "sdpa", cache: StepCache | None = None
    ) -> Tensor:
        """Pack of noisy clips, times t in [0,1] (B,) or (L,), text -> velocity tokens (L, D_out).

        `cache` may skip blocks; it is for one generation, whose steps come with packs of one layout.
        """
        x = self.embed(pack.tokens)
        if isinstance(text, Prepared):
            values = t.tolist()
            if self.time_mode.startswith("adaln") and len(set(values)) == 1:
                values = values[:1]  # one row for all clips
            rows = [text.times[round(value, DIGITS)] for value in values]
            embedded, shared, rope = text.embedded[rows], text.shared[rows], text.rope
            states, lengths = text.keys, text.lengths
        else:
            embedded = self.time_embed(t)
            shared, rope = self._shared(embedded), self._rope(pack.positions)
            states, lengths = self._text(text, pack.lengths)
        time = per_token(embedded, shared, pack.lengths)
        if self.time_mode == "cross":
            states, lengths = self._time_as_state(embedded, states, lengths)
        elif self.time_mode == "in_context":
            x, rope, lengths = self._time_as_token(embedded, x, rope, lengths)
        both = Lengths(lengths.q, lengths.q), lengths
        start = None if cache is None else x
        for number, block in enumerate(self.blocks):
            source = states if isinstance(states, Tensor) else states[number]
            x = block(x, time, source, lengths=both, rope=rope, kernel=kernel)
            if number == 0 and cache is not None and (near := cache.after_first(start, x)) is not None:
                x = near
                break
        else:
            if cache is not None:
                cache.after_last(x)
        if self.time_mode == "in_context":
            x = torch.cat([part[:-1] for part in x.split(lengths.q)])
        shift, scale = (self.table_out + embedded[:, None]).unbind(1)
        return self.head(modulate(self.norm_out(x), shift, scale, time.rows))

    def prepare(self, pack: Pack, times: Tensor, text: Text) -> Prepared | Text:
        """All that generation would compute anew each step, for packs of this layout and these times (n,).

        forward takes the result for `text`, with one time a clip. Where the time is a state of its own, the text stays
        as it is.
        """
        if self.time_mode == "cross":
            return text
        states, lengths = self._text(text, pack.lengths)
        values = sorted(set(times.flatten().tolist()))
        embedded = self.time_embed(torch.tensor(values, dtype=torch.float64, device=pack.tokens.device))
        return Prepared(
            keys=[block.cross.keys(states) for block in self.blocks],
            lengths=lengths,
            rope=self._rope(pack.positions),
            times={round(value, DIGITS): row for row, value in enumerate(values)},
            embedded=embedded,
            shared=self._shared(embedded),
        )

    def flops(self, tokens: int, states: int) -> float:
        """Floating-point operations of the matmuls of one forward pass over a clip with these tokens and states."""
        n = self.dim
        per_token = 2 * (6 * n * n + 2 * n * self.ffn) + 4 * n * (tokens + states)
        per_clip = sum(2 * m.weight.numel() for m in self.time_modules())
        inputs = 2 * (self.embed.weight.numel() + self.head.weight.numel()) * tokens
        text = 2 * sum(m.weight.numel() for m in (self.text_embed[0], self.text_embed[2])) * states
        return float(len(self.blocks) * (per_token * tokens + 4 * n * n * states) + per_clip + inputs + text)

    def time_modules(self) -> list[nn.Linear]:
        """The linears that run once a clip (or once a token, with a time for each)."""
        projections = [m for block in self.blocks for m in block.modulation.modules()]
        parts = [*self.time_embed.modules(), self.time_proj, *projections]
        return [m for m in parts if isinstance(m, nn.Linear)]

    def initialise(self) -> None:
        """DiT's: Xavier linears, small embeddings, and every residual branch and the output start at zero."""
        if self.head.weight.is_meta:  # there are no values, and drawing them would load a compiler for seconds
            return
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for linear in (self.time_embed.linear1, self.time_embed.linear2):
            nn.init.normal_(linear.weight, std=0.02)
        if self.time_proj is not None:
            nn.init.zeros_(self.time_proj.weight)
        for block in self.blocks:
            block.modulation.initialise()
            nn.init.zeros_(block.cross.out.weight)
            if not block.modulation.gates:
                nn.init.zeros_(block.attention.out.weight)
                nn.init.zeros_(block.ffn[2].weight)
        nn.init.zeros_(self.head.weight)

    def _rope(self, positions: Tensor) -> Tensor:
        if self.fractions is None:
            return axial_rope(positions, self.head_dim)
        return fractional_rope(positions, self.fractions, self.dim, self.head_dim)

    def _text(self, text: Text, q_lengths: tuple[int, ...]) -> tuple[Tensor, Lengths]:
        """Text states as the blocks take them. One zero state stands for all that a prompt lacks to text_length."""
        lacking = [max(0, self.text_length - length) for length in text.lengths]
        if not any(lacking):
            return self.text_embed(text.states), Lengths(q_lengths, text.lengths)
        blanks = [text.states.new_zeros(min(1, n), text.states.shape[1]) for n in lacking]
        parts = [part for pair in zip(text.states.split(text.lengths), blanks, strict=True) for part in pair]
        copies = [one for length, n in zip(text.lengths, lacking, strict=True) for one in [1] * length + [n] * (n > 0)]
        k_lengths = tuple(length + (n > 0) for length, n in zip(text.lengths, lacking, strict=True))
        weights = torch.tensor(copies, dtype=torch.float32, device=text.states.device)
        return self.text_embed(torch.cat(parts)), Lengths(q_lengths, k_lengths, weights)

    def _shared(self, embedded: Tensor) -> Tensor:
        """The time as the blocks take it: projected once (B,6,N), or as it is (B,N)."""
        if self.time_proj is None:
            return embedded
        projected = self.time_proj(F.silu(embedded).to(self.time_proj.weight.dtype))
        return rearrange(projected, "b (six n) -> b six n", six=6)

    def _time_as_state(self, embedded: Tensor, states: Tensor, lengths: Lengths) -> tuple[Tensor, Lengths]:
        _per_clip(embedded, lengths, "cross")
        copies = lengths.copies
        if copies is not None:
            copies = _append(copies, torch.ones_like(copies[: len(lengths.k)]), lengths.k)
        states = _append(states, embedded.to(states.dtype), lengths.k)
        return states, Lengths(lengths.q, tuple(n + 1 for n in lengths.k), copies)

    def _time_as_token(
        self, embedded: Tensor, x: Tensor, rope: Tensor, lengths: Lengths
    ) -> tuple[Tensor, Tensor, Lengths]:
        _per_clip(embedded, lengths, "in_context")
        unrotated = torch.ones_like(rope[: len(lengths.q)])
        x, rope = _append(x, embedded.to(x.dtype), lengths.q), _append(rope, unrotated, lengths.q)
        return x, rope, Lengths(tuple(n + 1 for n in lengths.q), lengths.k, lengths.copies)


def _append(parts: Tensor, one: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Put one row (B,...) behind each clip's rows (L,...)."""
    return torch.cat([row for part, last in zip(parts.split(lengths), one, strict=True) for row in (part, last[None])])


def _per_clip(embedded: Tensor, lengths: Lengths, mode: str) -> None:
    if len(embedded) != len(lengths.q):
        raise InputError(f"time={mode} takes one time a clip, not one a token; the adaln modes take both")
