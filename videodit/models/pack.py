"""What a denoiser sees: packs of tokens, their times, and what they attend to.

B clips, L tokens in all, C latent channels, D = C*pt*ph*pw values a token, S states in all, E width of a state
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from einops import rearrange
from torch import Tensor

from videodit.shapes import LatentShape, Triple

DENOISED, KNOWN, REFERENCE = 0, 1, 2  # what a token is for

Lengths = Mapping[str, tuple[int, ...]]  # of each stream of a context: how many states belong to each clip


@dataclass(frozen=True)
class Pack:
    """The tokens of B clips of any sizes, laid end to end.

    Args:
        tokens: (L,D).
        positions: (L,3), time, row and column of each token.
        lengths: how many tokens belong to each clip.
        role: (L,), what each token is for: DENOISED; KNOWN, in its place; REFERENCE, which is never denoised and which
            `unpatchify` drops. None: all are denoised.
    """

    tokens: Tensor
    positions: Tensor
    lengths: tuple[int, ...]
    role: Tensor | None = None


@dataclass(frozen=True)
class Ragged:
    """States (S,E) of B clips laid end to end, and how many belong to each."""

    states: Tensor
    lengths: tuple[int, ...]

    def of(self, clips: Sequence[int]) -> Ragged:
        """Those of some clips, in this order."""
        if list(clips) == list(range(len(self.lengths))):
            return self
        parts = self.states.split(self.lengths)
        return Ragged(torch.cat([parts[clip] for clip in clips]), tuple(self.lengths[clip] for clip in clips))


@dataclass(frozen=True)
class Context:
    """What B clips attend to.

    Args:
        streams: by name, such as "text", a state after another.
        pooled: by name, one vector a clip (B,E).
        scalars: by name, one number a clip (B,), such as guidance or frames a second.
    """

    streams: Mapping[str, Ragged]
    pooled: Mapping[str, Tensor] = field(default_factory=dict)
    scalars: Mapping[str, Tensor] = field(default_factory=dict)

    def of(self, clips: Sequence[int]) -> Context:
        """That of some clips, in this order."""
        index = list(clips)
        return Context(
            {name: stream.of(index) for name, stream in self.streams.items()},
            {name: value[index] for name, value in self.pooled.items()},
            {name: value[index] for name, value in self.scalars.items()},
        )


@dataclass(frozen=True)
class Times:
    """The times of a pack: a few values, and which of them a clip and a token has.

    Args:
        values: (R,), in [0,1]: 0 is data, 1 is noise.
        clip: which of the values each clip has, B numbers.
        row: (L,), which of them a token has, where tokens of a clip differ; None: its clip's.
    """

    values: Tensor
    clip: tuple[int, ...]
    row: Tensor | None = None

    @classmethod
    def per_clip(cls, t: Tensor) -> Times:
        """One time for each clip, t (B,) on the CPU."""
        return cls(t, tuple(range(len(t))))

    def distinct(self) -> Times:
        """The same with each value once."""
        rows = {value: row for row, value in enumerate(dict.fromkeys(self.values.tolist()))}
        new = [rows[value] for value in self.values.tolist()]
        row = None if self.row is None else torch.tensor(new)[self.row]
        return Times(torch.tensor(list(rows), dtype=self.values.dtype), tuple(new[clip] for clip in self.clip), row)

    @classmethod
    def per_token(cls, t: Tensor, lengths: Sequence[int]) -> Times:
        """One time for each token, t (L,) on the CPU, of clips with so many. A clip's own is its last token's."""
        whole = cls.per_clip(t).distinct()
        last = (end - 1 for end in accumulate(lengths))
        return cls(whole.values, tuple(whole.clip[token] for token in last), torch.tensor(whole.clip))


def patchify(latents: Sequence[Tensor], patch: Triple) -> Pack:
    """Latents, each (C,t,h,w) that `patch` divides -> Pack."""
    pt, ph, pw = patch
    grids = [LatentShape(*x.shape[1:]).grid(patch) for x in latents]
    tokens = [rearrange(x, "c (t i) (h j) (w k) -> (t h w) (c i j k)", i=pt, j=ph, k=pw) for x in latents]
    positions = [_positions((grid.frames, grid.height, grid.width), latents[0].device) for grid in grids]
    return Pack(torch.cat(tokens), torch.cat(positions), tuple(grid.count for grid in grids))


def unpatchify(
    tokens: Tensor, shapes: Sequence[LatentShape], patch: Triple, role: Tensor | None = None
) -> list[Tensor]:
    """Tokens (L,D) of clips with these latent shapes -> latents, each (C,t,h,w). Reference tokens are dropped."""
    pt, ph, pw = patch
    grids = [shape.grid(patch) for shape in shapes]
    own = tokens if role is None else tokens[role != REFERENCE]
    parts = own.split([grid.count for grid in grids])
    return [
        rearrange(part, "(t h w) (c i j k) -> c (t i) (h j) (w k)", t=g.frames, h=g.height, i=pt, j=ph, k=pw)
        for part, g in zip(parts, grids, strict=True)
    ]


def _positions(sizes: Triple, device: torch.device) -> Tensor:
    axes = [torch.arange(size, device=device) for size in sizes]
    return rearrange(torch.stack(torch.meshgrid(*axes, indexing="ij")), "n t h w -> (t h w) n")
