"""Packs: what lies where, and back."""

from __future__ import annotations

import pytest
import torch

from tests.compare import noise
from videodit.errors import InputError
from videodit.models.pack import DENOISED, KNOWN, REFERENCE, Context, Ragged, Times, patchify, unpatchify
from videodit.shapes import LatentShape

CHANNELS = 3
SIZES = [(4, 4, 6), (2, 2, 2), (6, 8, 2), (2, 6, 6), (4, 2, 8)]


@pytest.mark.parametrize("patch", [(1, 2, 2), (1, 1, 1), (2, 1, 2), (2, 2, 1)], ids=str)
def test_there_and_back(patch: tuple[int, int, int]) -> None:
    latents = [noise(CHANNELS, *size, seed=i) for i, size in enumerate(SIZES)]
    pack = patchify(latents, patch)
    volume = patch[0] * patch[1] * patch[2]
    assert pack.lengths == tuple(x[0].numel() // volume for x in latents)
    assert pack.tokens.shape == (sum(pack.lengths), CHANNELS * volume)
    assert pack.positions.shape == (sum(pack.lengths), 3)
    restored = unpatchify(pack.tokens, [LatentShape(*size) for size in SIZES], patch)
    assert all(torch.equal(a, b) for a, b in zip(restored, latents, strict=True))


def test_tokens_are_in_reading_order_and_channel_first() -> None:
    """Value (c, i, j, k) of the token at (t, h, w) is the latent at (c, t*pt + i, h*ph + j, w*pw + k)."""
    pt, ph, pw = patch = (2, 1, 2)
    latents = noise(CHANNELS, 4, 3, 6)
    pack = patchify([noise(CHANNELS, 2, 1, 2), latents], patch)
    tokens, positions = (x.split(pack.lengths)[1] for x in (pack.tokens, pack.positions))
    expected = [(t, h, w) for t in range(2) for h in range(3) for w in range(3)]
    assert positions.tolist() == [list(place) for place in expected]
    for token, (t, h, w) in zip(tokens, expected, strict=True):
        part = latents[:, t * pt : (t + 1) * pt, h * ph : (h + 1) * ph, w * pw : (w + 1) * pw]
        assert torch.equal(token, part.flatten())


def test_every_clip_starts_at_the_origin() -> None:
    pack = patchify([noise(CHANNELS, *size) for size in SIZES], (1, 2, 2))
    for positions, (t, h, w) in zip(pack.positions.split(pack.lengths), SIZES, strict=True):
        assert positions[0].tolist() == [0, 0, 0]
        assert positions[-1].tolist() == [t - 1, h // 2 - 1, w // 2 - 1]


def test_latents_that_the_patch_does_not_divide() -> None:
    with pytest.raises(InputError, match=r"latents of \(1, 3, 4\) are not divisible by the patch \(1, 2, 2\)"):
        patchify([noise(CHANNELS, 1, 3, 4)], (1, 2, 2))


def test_tokens_of_other_shapes() -> None:
    with pytest.raises(RuntimeError):
        unpatchify(noise(5, CHANNELS), [LatentShape(1, 2, 2)], (1, 1, 1))


def test_reference_tokens_are_no_part_of_the_latents() -> None:
    """They stand in their clip's run, before, between or behind its own tokens."""
    latents = [noise(CHANNELS, *size, seed=i) for i, size in enumerate(SIZES[:2])]
    pack = patchify(latents, (1, 1, 1))
    first, second = pack.tokens.split(pack.lengths)
    more = noise(3, CHANNELS, seed=9)
    tokens = torch.cat([more[:1], first[:5], more[1:2], first[5:], second, more[2:]])
    own = [DENOISED] * len(first)
    role = [REFERENCE, *own[:5], REFERENCE, *own[5:], *[KNOWN] * len(second), REFERENCE]
    restored = unpatchify(tokens, [LatentShape(*size) for size in SIZES[:2]], (1, 1, 1), torch.tensor(role))
    assert all(torch.equal(a, b) for a, b in zip(restored, latents, strict=True))


def test_a_context_of_some_clips() -> None:
    """Each clip's own states, vectors and numbers, in the order asked for."""
    states = noise(6, 2)
    whole = Context({"text": Ragged(states, (1, 3, 2))}, {"style": noise(3, 4)}, {"fps": torch.tensor([1.0, 2.0, 3.0])})
    some = whole.of([2, 0])
    assert some.streams["text"].lengths == (2, 1)
    assert torch.equal(some.streams["text"].states, states[[4, 5, 0]])
    assert torch.equal(some.pooled["style"], whole.pooled["style"][[2, 0]])
    assert some.scalars["fps"].tolist() == [3.0, 1.0]
    assert torch.equal(whole.of([0, 1, 2]).streams["text"].states, states)


def test_times_are_told_once() -> None:
    times = Times.per_clip(torch.tensor([0.5, 0.25, 0.5])).distinct()
    assert (times.values.tolist(), times.clip) == ([0.5, 0.25], (0, 1, 0))
    times = Times.per_token(torch.tensor([0.0, 0.5, 0.5, 0.25, 0.25]), (3, 2))
    assert times.values.tolist() == [0.0, 0.5, 0.25] and times.clip == (1, 2)
    assert times.row.tolist() == [0, 1, 1, 2, 2]
