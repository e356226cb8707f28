"""The video diffusion transformer: a pack of noisy clips, their times and their texts -> velocity.

    B clips, L tokens in all, l of them in this process; R distinct times; S text states in all, E text width
    D values a token, N model width, H heads, K = N/H

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
from videodit.models.interfaces import Denoiser, Runner, Span, State, Stream, run_blocks
from videodit.models.pack import Context, Lengths, Pack, Ragged, Times
from videodit.nn.embed import TimeEmbed
from videodit.nn.kernels import attend
from videodit.nn.linear import FeedForward, Linear
from videodit.nn.modulation import Modulation, Rows, TokenTimes, gated, modulate, rows_of_runs, rows_of_tokens
from videodit.nn.norm import LayerNorm, RMSNorm
from videodit.nn.rope import axial_rope, fractional_rope, rotate

# adaln_single: one projection of the time for all blocks plus a table a block (PixArt-alpha); adaln_zero and adaln: a
# projection a block, with and without gates; cross: the time is one more text state; in_context: one more token.
TIME_MODES = ("adaln_single", "adaln_zero", "adaln", "cross", "in_context")
QK_NORMS = ("full", "head")
NORMS = ("layer", "rms")
DIGITS = 9  # to which times are told apart; the last bits depend on how they were computed

Keys = tuple[Tensor, Tensor]  # keys and values, each (M,H,K)


@dataclass(eq=False)  # a compiler looks into what is frozen, and every pack would have a graph of its own
class Own:
    """Self-attention: the tokens of each clip see each other."""

    span: Span
    kernel: str

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v each (l,H,K) -> (l,H,K)."""
        return self.span.attend(q, k, v, self.kernel)


@dataclass(eq=False)
class Cross:
    """Cross-attention: how many queries and keys each clip has, and how many equal keys each key (M,) stands for; None:
    one each.
    """

    q: tuple[int, ...]
    k: tuple[int, ...]
    copies: Tensor | None
    kernel: str

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (l,H,K), k and v (M,H,K) -> (l,H,K)."""
        return attend(q, k, v, self.q, self.k, copies=self.copies, kernel=self.kernel)


@dataclass(eq=False)
class Session:
    """What stays the same for packs of one layout (`DiT.prepare`).

    Args:
        span: the tokens that this process computes.
        own, cross: self-attention and cross-attention.
        text: the states that this process's clips attend to, as the encoder gave them.
        rope: of the tokens (l,K).
        times: all times that will come (n,), if they are known.
        keep: whether to keep what is computed from weights.
        run: runs the blocks.
        keys: of each block's cross-attention, once kept.
        table: `times` as `DiT._times` gives them, once kept.
    """

    span: Span
    own: Own
    cross: Cross
    text: Ragged
    rope: Tensor
    times: list[float] | None
    keep: bool
    run: Runner
    keys: list[Keys] | None = None
    table: tuple[Tensor, Tensor] | None = None


def attend_to(q: Tensor, k: Tensor, v: Tensor, pairs: Own | Cross) -> Tensor:
    """Attend, for what a compiled block hands on unopened."""
    return pairs.attend(q, k, v)


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

    def forward(self, x: Tensor, source: Tensor | Keys, pairs: Own | Cross, *, rope: Tensor | None) -> Tensor:
        q = self._normed(self.norm_q, self.q(x))
        k, v = self.keys(source) if isinstance(source, Tensor) else source
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        h = self.attend(q, k, v, pairs)
        return self.out(h.flatten(1))

    def _normed(self, norm: RMSNorm, x: Tensor) -> Tensor:
        return norm(x.unflatten(-1, (self.heads, -1))) if self.per_head else norm(x).unflatten(-1, (self.heads, -1))


class Block(nn.Module):
    """(l,N) -> (l,N). `pairs`: of self-attention and of cross-attention."""

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
        time: TokenTimes,
        text: Tensor | Keys,
        *,
        pairs: tuple[Own, Cross],
        rope: Tensor,
    ) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(time)
        h = modulate(self.norm1(x), shift1, scale1, time.rows)
        x = gated(x, self.attention(h, h, pairs[0], rope=rope), gate1, time.rows)
        x = x + self.cross(self.norm2(x), text, pairs[1], rope=None)
        return gated(x, self.ffn(modulate(self.norm3(x), shift2, scale2, time.rows)), gate2, time.rows)


class DiT(Denoiser):
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

    STACKS = {"blocks": "layers"}
    KEEP_FP32 = ("time_embed.", "modulation.table", "table_out")
    ADAPTABLE = (
        *(f"{attention}.{part}" for attention in ("attention", "cross") for part in ("q", "k", "v", "out")),
        *("ffn.0", "ffn.2"),
    )

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
        self.time_mode, self.width, self.heads, self.ffn = time, dim, heads, ffn
        self.text_length, self.fractions = text_length, fractions
        self.channels, self.out_channels, self.streams = channels, out_channels, {"text": Stream(text_dim, text_length)}
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

    def prepare(
        self, context: Context, pack: Pack, *, times: Tensor | None = None, keep: bool = False,
        run: Runner = run_blocks, kernel: str = "",
    ) -> Session:  # fmt: skip
        """See `Denoiser.prepare`."""
        kernel = kernel or self.kernel
        keep = keep and self.time_mode != "cross"  # where the time is one of the states
        lengths, rope = pack.lengths, self._rope(pack.positions)
        if self.time_mode == "in_context":
            rope = _append(rope, torch.ones_like(rope[: len(lengths)]), lengths)  # no position turns the time
            lengths = tuple(n + 1 for n in lengths)
        span = self.span(lengths)
        text, copies = self._padded(context.streams["text"].of(span.clips))
        return Session(
            span=span,
            own=Own(span, kernel),
            cross=Cross(span.lengths, text.lengths, copies, kernel),
            text=text,
            rope=span.split(rope),
            times=None if times is None or not keep else sorted(set(times.flatten().tolist())),
            keep=keep,
            run=run,
        )

    def forward(self, pack: Pack, times: Times, session: Session) -> Tensor:
        """Noisy clips at these times -> velocity tokens (L, D_out). See `Denoiser.forward`."""
        span, cross = session.span, session.cross
        embedded, shared = self._times(times.values, session)  # (R, N) and (R, 6, N) or (R, N)
        time = TokenTimes(embedded, shared, self._rows(times, session.span, embedded.device))
        x = self.embed(pack.tokens.to(self.embed.weight.dtype))  # (L, N)
        if self.time_mode == "in_context":
            x = _append(x, embedded[list(times.clip)].to(x.dtype), pack.lengths)  # (L + B, N)
        x = span.split(x)  # (l, N)
        keys = session.keys
        if keys is None:
            states = self.text_embed(session.text.states)  # (S, N)
            if self.time_mode == "cross":
                states, cross = _with_time(states, embedded[[times.clip[clip] for clip in span.clips]], cross)
            keys = [block.cross.keys(states) for block in self.blocks] if session.keep else states
            session.keys = keys if session.keep else None
        pairs = session.own, cross

        def step(block: nn.Module, number: int, x: State) -> State:
            return block(x, time, keys[number] if session.keep else keys, pairs=pairs, rope=session.rope)

        x = session.run("blocks", self.blocks, x, step)  # (l, N)
        shift, scale = (self.table_out + embedded[:, None]).unbind(1)
        out = span.gather(self.head(modulate(self.norm_out(x), shift, scale, time.rows)))  # (L, D_out)
        if self.time_mode == "in_context":
            out = torch.cat([part[:-1] for part in out.split([n + 1 for n in pack.lengths])])
        return out

    def kept(self, lengths: Lengths) -> int:
        """Numbers that a session keeps for prompts of these lengths: the keys and values of every block."""
        states = sum(self.attended(length) for length in lengths["text"])
        return 0 if self.time_mode == "cross" else 2 * states * self.width * len(self.blocks)

    def attended(self, length: int) -> int:
        """Keys of a prompt in cross-attention: one more stands for the zero states."""
        return length + (length < self.text_length)

    def flops(self, tokens: int, states: int) -> float:
        """Floating-point operations of the matmuls of one forward pass over a clip with these tokens and states."""
        n = self.width
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
        channels = self.width // self.heads
        if self.fractions is None:
            return axial_rope(positions, channels)
        return fractional_rope(positions, self.fractions, self.width, channels)

    def _padded(self, text: Ragged) -> tuple[Ragged, Tensor | None]:
        """Text states, and how many each stands for: one zero state is all that a prompt lacks to text_length."""
        lacking = [max(0, self.text_length - length) for length in text.lengths]
        if not any(lacking):
            return text, None
        blanks = [text.states.new_zeros(min(1, n), text.states.shape[1]) for n in lacking]
        parts = [part for pair in zip(text.states.split(text.lengths), blanks, strict=True) for part in pair]
        copies = [one for length, n in zip(text.lengths, lacking, strict=True) for one in [1] * length + [n] * (n > 0)]
        lengths = tuple(length + (n > 0) for length, n in zip(text.lengths, lacking, strict=True))
        return Ragged(torch.cat(parts), lengths), torch.tensor(copies, dtype=torch.float32, device=text.states.device)

    def _times(self, values: Tensor, session: Session) -> tuple[Tensor, Tensor]:
        """Times (R,), embedded (R,N), and as the blocks take them: projected once (R,6,N), or as they are.

        Those that are known beforehand are looked up: to ask a GPU for them would be to wait for it.
        """
        if session.times is None:
            return self._embedded(values)
        if session.table is None:
            session.table = self._embedded(torch.tensor(session.times, dtype=torch.float64))
        table = session.table
        rows = {round(value, DIGITS): row for row, value in enumerate(session.times)}
        chosen = [rows[round(value, DIGITS)] for value in values.tolist()]
        return table[0][chosen], table[1][chosen]

    def _embedded(self, values: Tensor) -> tuple[Tensor, Tensor]:
        embedded = self.time_embed(values.to(self.table_out.device))
        if self.time_proj is None:
            return embedded, embedded
        projected = self.time_proj(F.silu(embedded).to(self.time_proj.weight.dtype))
        return embedded, rearrange(projected, "r (six n) -> r six n", six=6)

    def _rows(self, times: Times, span: Span, device: torch.device) -> Rows | None:
        """Which of the times each of this process's tokens has; None: there is one."""
        if times.row is not None and not self.time_mode.startswith("adaln"):
            raise InputError(f"time={self.time_mode} takes one time a clip, not one a token; the adaln modes take both")
        if len(times.values) == 1:
            return None
        if times.row is not None:
            return rows_of_tokens(span.split(times.row), device)
        return rows_of_runs([times.clip[clip] for clip in span.clips], span.lengths, device)


def _with_time(states: Tensor, embedded: Tensor, cross: Cross) -> tuple[Tensor, Cross]:
    """Put each clip's time (B,N) behind its text states (S,N)."""
    copies = cross.copies
    if copies is not None:
        copies = _append(copies, torch.ones_like(copies[: len(cross.k)]), cross.k)
    states = _append(states, embedded.to(states.dtype), cross.k)
    return states, Cross(cross.q, tuple(n + 1 for n in cross.k), copies, cross.kernel)


def _append(parts: Tensor, one: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Put one row (B,...) behind each clip's rows (L,...)."""
    return torch.cat([row for part, last in zip(parts.split(lengths), one, strict=True) for row in (part, last[None])])
