"""Packs: the tokens of B clips of any sizes laid end to end.

B clips, L tokens in all, C latent channels, D = C*pt*ph*pw values a token, S text states in all, E text width
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from videodit.shapes import LatentShape, Triple


@dataclass(frozen=True)
class Pack:
    """Tokens (L,D), their (time, row, column) positions (L,3), and how many belong to each clip."""

    tokens: Tensor
    positions: Tensor
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Text:
    """Text encoder states (S,E) of B prompts laid end to end, and how many belong to each."""

    states: Tensor
    lengths: tuple[int, ...]


def patchify(latents: Sequence[Tensor], patch: Triple) -> Pack:
    """Latents, each (C,t,h,w) that `patch` divides -> Pack."""
    pt, ph, pw = patch
    grids = [LatentShape(*x.shape[1:]).grid(patch) for x in latents]
    tokens = [rearrange(x, "c (t i) (h j) (w k) -> (t h w) (c i j k)", i=pt, j=ph, k=pw) for x in latents]
    positions = [_positions((grid.frames, grid.height, grid.width), latents[0].device) for grid in grids]
    return Pack(torch.cat(tokens), torch.cat(positions), tuple(grid.count for grid in grids))


def unpatchify(tokens: Tensor, shapes: Sequence[LatentShape], patch: Triple) -> list[Tensor]:
    """Tokens (L,D) of clips with these latent shapes -> latents, each (C,t,h,w)."""
    pt, ph, pw = patch
    grids = [shape.grid(patch) for shape in shapes]
    parts = tokens.split([grid.count for grid in grids])
    return [
        rearrange(part, "(t h w) (c i j k) -> c (t i) (h j) (w k)", t=g.frames, h=g.height, i=pt, j=ph, k=pw)
        for part, g in zip(parts, grids, strict=True)
    ]


def _positions(sizes: Triple, device: torch.device) -> Tensor:
    axes = [torch.arange(size, device=device) for size in sizes]
    return rearrange(torch.stack(torch.meshgrid(*axes, indexing="ij")), "n t h w -> (t h w) n")
