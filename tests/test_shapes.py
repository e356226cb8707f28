"""The arithmetic of sizes: clips, latents, tokens."""

from __future__ import annotations

import itertools
from dataclasses import asdict, replace

import pytest

from videodit.errors import InputError
from videodit.shapes import LatentShape, Sizes, TokenGrid, VideoShape

STRIDES = [(4, 8, 8), (4, 16, 16), (1, 1, 1), (2, 4, 8)]
PATCHES = [(1, 2, 2), (1, 1, 1), (2, 2, 1)]


def test_known_shapes() -> None:
    assert VideoShape(17, 64, 96).latent((4, 8, 8)) == LatentShape(5, 8, 12)
    assert VideoShape(81, 480, 832).latent((4, 8, 8)).grid((1, 2, 2)) == TokenGrid(21, 30, 52)
    assert TokenGrid(21, 30, 52).count == 32760
    assert VideoShape(1, 64, 64).latent((4, 8, 8)) == LatentShape(1, 8, 8)
    assert str(VideoShape(17, 64, 96)) == "96x64, 17 frames"


@pytest.mark.parametrize("stride", STRIDES, ids=str)
def test_there_and_back(stride: tuple[int, int, int]) -> None:
    for sizes in itertools.product((1, 2, 5), (1, 3), (2, 7)):
        latent = LatentShape(*sizes)
        assert latent.video(stride).latent(stride) == latent
        assert latent.grid((1, 1, 1)).count == sizes[0] * sizes[1] * sizes[2]


@pytest.mark.parametrize("wrong", [(18, 64, 64), (17, 60, 64), (17, 64, 63), (4, 64, 64)], ids=str)
def test_illegal_clips_are_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match=r"does not fit a VAE of stride \(4, 8, 8\).*frames must be 1 \+ k\*4"):
        VideoShape(*wrong).latent((4, 8, 8))


@pytest.mark.parametrize("empty", [(0, 64, 64), (1, 0, 64), (1, 64, -1)], ids=str)
def test_empty_clips_are_refused(empty: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match="at least 1 frame of 1x1 pixels"):
        VideoShape(*empty)


@pytest.mark.parametrize("wrong", [(3, 8, 8), (2, 7, 8), (2, 8, 9)], ids=str)
def test_a_patch_that_does_not_divide_is_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match=r"not divisible by the patch \(2, 2, 2\)"):
        LatentShape(*wrong).grid((2, 2, 2))


@pytest.mark.parametrize("patch", PATCHES, ids=str)
@pytest.mark.parametrize("stride", STRIDES, ids=str)
def test_the_legal_shape_has_frames_enough_and_nothing_legal_is_nearer(
    stride: tuple[int, int, int], patch: tuple[int, int, int]
) -> None:
    latents = [LatentShape(k * patch[0], k * patch[1], k * patch[2]) for k in range(1, 44)]
    legal = [[getattr(x.video(stride), axis) for x in latents] for axis in ("frames", "height", "width")]
    for size in range(1, 40):
        wanted = VideoShape(size, size, size)
        nearest = wanted.legal(stride, patch)
        nearest.latent(stride).grid(patch)  # raises where it is not legal
        assert nearest.frames == min(frames for frames in legal[0] if frames >= size)
        for axis, sizes in zip(("height", "width"), legal[1:], strict=True):
            away = min(abs(size - other) for other in sizes)
            assert getattr(nearest, axis) == max(other for other in sizes if abs(size - other) == away), "ties go up"
        assert nearest.legal(stride, patch) == nearest


@pytest.mark.parametrize("patch", PATCHES, ids=str)
@pytest.mark.parametrize("stride", STRIDES, ids=str)
def test_sizes_are_all_that_stride_and_patch_divide(stride: tuple[int, int, int], patch: tuple[int, int, int]) -> None:
    """From the least one in steps; any other is refused, with one that is taken."""
    sizes = Sizes(stride, patch)
    legal = [range(least, 70, step) for least, step in zip(asdict(sizes.least).values(), sizes.steps, strict=True)]
    for axis, name in enumerate(("frames", "height", "width")):
        for size in range(1, 70):
            shape = replace(sizes.least, **{name: size})
            if size in legal[axis]:
                sizes.check(shape, "key=1")
                shape.latent(stride).grid(patch)  # raises where it is not legal
                continue
            with pytest.raises(InputError, match=rf"^key=1: clips of {shape} do not fit.*; (.*) would do$"):
                sizes.check(shape, "key=1")
            with pytest.raises(InputError):
                shape.latent(stride).grid(patch)
    assert Sizes((4, 16, 16), (1, 2, 2)).told == "1 + k*4 frames, and as width and height multiples of 32"
    assert Sizes((4, 16, 8), (2, 2, 2)).told == "5 + k*8 frames, and as width and height multiples of 16 and 32"
