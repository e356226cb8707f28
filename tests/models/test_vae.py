"""The video VAE: causal, the same in any chunks and any batch, images and clips of any legal size."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.compare import assert_equal, distance, noise, shaken
from videodit.models.vae import TOGETHER, VideoVAE, fold, unfold

SHARED = {"latent_channels": 4, "base": 4, "decoder_base": 6, "multipliers": (1, 2, 2), "blocks": 1}
KINDS = {
    "plain": {"spatial": (True, True), "temporal": (True, True), "shortcuts": False, "linear": False, "patch": 1},
    "shortcuts": {"spatial": (True, True), "temporal": (False, True), "shortcuts": True, "linear": False, "patch": 2},
    "linear": {"spatial": (True, False), "temporal": (True, True), "shortcuts": True, "linear": True, "patch": 2},
}


@pytest.fixture(scope="module", params=KINDS)
def vae(request: pytest.FixtureRequest) -> VideoVAE:
    torch.manual_seed(0)
    vae = shaken(VideoVAE(**SHARED, **KINDS[request.param]), std=0.05).requires_grad_(False)
    vae.mean.copy_(noise(4, seed=1))
    vae.std.copy_(1 + noise(4, seed=2).abs())
    return vae


def clip_for(vae: VideoVAE, latent_frames: int, rows: int = 2, columns: int = 3, *, batch: int = 1) -> Tensor:
    """A random clip that encodes to this many latent frames, rows and columns."""
    stride = vae.stride
    frames = 1 + (latent_frames - 1) * stride[0]
    return noise(batch, 3, frames, rows * stride[1], columns * stride[2]).tanh()


def test_strides() -> None:
    strides = [VideoVAE(**SHARED, **arguments).stride for arguments in KINDS.values()]
    assert strides == [(4, 4, 4), (2, 8, 8), (4, 4, 4)]


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 3, 2), (3, 2, 1), (4, 1, 3)], ids=str)
def test_shapes(vae: VideoVAE, size: tuple[int, int, int]) -> None:
    clip = clip_for(vae, *size, batch=2)
    latents = vae.encode(clip)
    assert latents.shape == (2, 4, *size)
    assert vae.decode(latents).shape == clip.shape
    assert [part.shape for part in vae.posterior(clip)] == [latents.shape] * 2


def test_the_first_frame_alone_is_the_first_latent(vae: VideoVAE) -> None:
    clip = clip_for(vae, 4)
    latents = vae.encode(clip)
    assert latents.std() > 0.1
    assert_equal(vae.encode(clip[:, :, :1]), latents[:, :, :1])
    assert_equal(vae.decode(latents[:, :, :1]), vae.decode(latents)[:, :, :1])


def test_no_latent_depends_on_a_later_frame(vae: VideoVAE) -> None:
    clip = clip_for(vae, 4)
    before = vae.encode(clip)
    for latent in range(1, 4):
        first = 1 + (latent - 1) * vae.stride[0]  # of the frames this latent is the first to see
        for frame in (first, first + vae.stride[0] - 1):
            later = clip.clone()
            later[:, :, frame:] = -later[:, :, frame:]
            after = vae.encode(later)
            assert_equal(after[:, :, :latent], before[:, :, :latent])
            assert distance(after[:, :, latent], before[:, :, latent]) > 1e-3


def test_no_frame_depends_on_a_later_latent(vae: VideoVAE) -> None:
    latents = noise(1, 4, 4, 2, 3)
    before = vae.decode(latents)
    for latent in range(1, 4):
        first = 1 + (latent - 1) * vae.stride[0]
        later = latents.clone()
        later[:, :, latent:] += 1
        after = vae.decode(later)
        assert_equal(after[:, :, :first], before[:, :, :first])
        assert distance(after[:, :, first], before[:, :, first]) > 1e-3


def test_encoding_in_any_chunks_is_one_shot(vae: VideoVAE) -> None:
    clip = clip_for(vae, 4)
    whole, frames = vae.encode(clip), clip.shape[2]
    dice = random.Random(0)
    cuts = [sorted(dice.sample(range(1, frames), dice.randint(1, frames - 1))) for _ in range(4)]
    for cut in ([], list(range(1, frames)), *cuts):
        chunks = clip.tensor_split(cut, dim=2)
        assert_equal(torch.cat(list(vae.encode_chunks(chunks)), dim=2), whole)


@pytest.mark.parametrize("frames", [1, 2, 3, 5, 9])
def test_decoding_in_any_chunks_is_one_shot(vae: VideoVAE, frames: int) -> None:
    latents = noise(1, 4, 5, 2, 1)
    assert_equal(torch.cat(list(vae.decode_chunks(latents, frames)), dim=2), vae.decode(latents))


def test_latents_come_as_soon_as_they_are_known(vae: VideoVAE) -> None:
    clip = clip_for(vae, 3)
    seen = []

    def frames():
        for frame in clip.split(1, dim=2):
            seen.append(frame)
            yield frame

    known = [len(seen) for _ in vae.encode_chunks(frames())]
    assert known == [1, 1 + vae.stride[0], 1 + 2 * vae.stride[0]]


def test_frames_left_over_are_an_error(vae: VideoVAE) -> None:
    clip = clip_for(vae, 2)
    with pytest.raises(ValueError, match=rf"needs 1 \+ k\*{vae.stride[0]} frames: {vae.stride[0] - 1} are left over"):
        list(vae.encode_chunks([clip[:, :, :-1]]))


def test_a_clip_does_not_depend_on_its_batch(vae: VideoVAE) -> None:
    clips = clip_for(vae, 2, batch=3)
    together = vae.encode(clips)
    assert_equal(together, torch.cat([vae.encode(clip[None]) for clip in clips]))
    assert_equal(vae.decode(together), torch.cat([vae.decode(latents[None]) for latents in together]))


@pytest.mark.parametrize("pixels", [1, 2, 3, 100])
def test_clips_are_encoded_in_parts(vae: VideoVAE, monkeypatch: pytest.MonkeyPatch, pixels: int) -> None:
    """One clip at a time, some together or all: the same latents, and no more frames at once than are allowed."""
    clips = clip_for(vae, 3, batch=5)
    whole, volume, seen = vae.encode(clips), clips[0, 0].numel(), []
    restored = vae.decode(whole)
    monkeypatch.setattr("videodit.models.vae.AT_ONCE", volume * pixels)
    encode = vae.encode
    monkeypatch.setattr(vae, "encode", lambda part, *stream: seen.append(part.shape) or encode(part, *stream))
    assert_equal(vae.encode_all(clips), whole)
    assert_equal(vae.decode_all(whole), restored)
    assert max(shape[0] for shape in seen) == min(pixels, 5)
    seen.clear()
    monkeypatch.setattr("videodit.models.vae.AT_ONCE", volume - 1)
    assert_equal(vae.encode_all(clips), whole)
    assert {shape[0] for shape in seen} == {1} and max(shape[2] for shape in seen) <= TOGETHER + 1
    assert_equal(vae.decode_all(whole), restored)


def test_statistics_normalise_and_cancel(vae: VideoVAE) -> None:
    clip = clip_for(vae, 2)
    mean, std = vae.mean.clone(), vae.std.clone()
    column = (1, -1, 1, 1, 1)
    raw = vae.posterior(clip)[0]
    assert_equal(vae.encode(clip), (raw - mean.view(column)) / std.view(column))
    restored = vae.decode(vae.encode(clip))
    assert_equal(vae.reconstruct(raw), restored)
    vae.mean.zero_(), vae.std.fill_(1)
    assert_equal(vae.encode(clip), raw)
    assert_equal(vae.decode(vae.encode(clip)), restored)
    vae.mean.copy_(mean), vae.std.copy_(std)


@pytest.mark.parametrize("factor", [(1, 2, 2), (2, 1, 1), (4, 2, 2)], ids=str)
def test_unfold_undoes_fold(factor: tuple[int, int, int]) -> None:
    x = noise(2, 3, 8, 4, 6)
    channels = 3 * factor[0] * factor[1] * factor[2]
    assert torch.equal(unfold(fold(x, factor, channels), factor, 3, first=False), x)
    odd = x[:, :, :5]
    assert torch.equal(unfold(fold(odd, factor, channels), factor, 3, first=True), odd)


def test_fold_averages_and_unfold_duplicates() -> None:
    constant = torch.full((1, 2, 2, 4, 4), 3.0)
    assert torch.equal(fold(constant, (2, 2, 2), 4), torch.full((1, 4, 1, 2, 2), 3.0))
    assert torch.equal(unfold(constant, (2, 2, 2), 1, first=False), torch.full((1, 1, 4, 8, 8), 3.0))


# ---- the linear start ----


def smooth_clips(vae: VideoVAE, count: int) -> list[Tensor]:
    """Clips whose neighbouring pixels and frames are alike, as in pictures."""
    kernel = torch.ones(3, 1, 3, 5, 5) / 75
    clips = [clip_for(vae, 3, 4, 4)[0].roll(i, dims=3) * (1 + i) for i in range(count)]
    return [torch.nn.functional.conv3d(clip[None], kernel, padding="same", groups=3)[0] + 0.1 for clip in clips]


def blocks_by_hand(vae: VideoVAE, clip: Tensor) -> tuple[np.ndarray, list[tuple[slice, slice, slice]]]:
    """The blocks of a clip as rows, the first frame repeated to fill its own, and where each lies in the clip."""
    t, h, w = vae.stride
    frames, height, width = clip.shape[1:]
    times = [slice(0, 1), *(slice(i, i + t) for i in range(1, frames, t))]
    places = [
        (time, slice(j, j + h), slice(k, k + w))
        for time in times
        for j in range(0, height, h)
        for k in range(0, width, w)
    ]
    rows = [clip[:, a, b, c].expand(3, t, h, w).reshape(-1).double().numpy() for a, b, c in places]
    return np.stack(rows), places


def pca_by_hand(vae: VideoVAE, clips: list[Tensor]) -> list[Tensor]:
    """The clips, restored from as many principal components of their blocks as there are latent channels."""
    rows = [blocks_by_hand(vae, clip) for clip in clips]
    centre = np.concatenate([blocks for blocks, _ in rows]).mean(axis=0)
    components = np.linalg.svd(np.concatenate([blocks for blocks, _ in rows]) - centre, full_matrices=False)[2][:4]
    restored = []
    for (blocks, places), clip in zip(rows, clips, strict=True):
        nearest = torch.from_numpy((blocks - centre) @ components.T @ components + centre)
        canvas = torch.empty_like(clip, dtype=torch.float64)
        for block, (a, b, c) in zip(nearest.unflatten(1, (3, *vae.stride)), places, strict=True):
            canvas[:, a, b, c] = block[:, -(a.stop - a.start) :]
        restored.append(canvas)
    return restored


@pytest.fixture
def linear() -> VideoVAE:
    torch.manual_seed(0)
    return VideoVAE(**SHARED, **KINDS["linear"]).eval().requires_grad_(False)


def test_the_linear_start_is_pca(linear: VideoVAE) -> None:
    clips = smooth_clips(linear, 3)
    linear.start_linear(clips)
    errors = []
    for clip, expected in zip(clips, pca_by_hand(linear, clips), strict=True):
        restored = linear.decode(linear.encode(clip[None]))[0]
        assert_equal(restored, expected.float())
        errors += [((x - clip) ** 2).mean() for x in (restored, expected)]
    assert errors[0] > 1e-6, "nothing was lost: the comparison says nothing"


def test_the_linear_start_gives_each_component_the_root_of_its_deviation(linear: VideoVAE) -> None:
    clips = smooth_clips(linear, 3)
    linear.start_linear(clips)
    blocks = np.concatenate([blocks_by_hand(linear, clip)[0] for clip in clips])
    variances = torch.linalg.eigvalsh(torch.cov(torch.from_numpy(blocks).T)).flip(0)[:4]
    latents = torch.cat([linear.encode(clip[None])[0].flatten(1) for clip in clips], dim=1).double()
    powers = torch.cov(latents)
    assert_equal(powers, torch.diag(variances.sqrt() / variances.sqrt().mean()))
    assert_equal(latents.mean(dim=1), torch.zeros(4))


@pytest.mark.parametrize("rank", [0, 2, 4])
def test_clips_in_the_span_are_restored_exactly(linear: VideoVAE, rank: int) -> None:
    """Blocks that mix few patterns, or fewer than there are latent channels, or that are all alike."""
    patterns = noise(rank + 1, 3, *linear.stride[1:], seed=3) / 3

    def mixture(seed: int) -> Tensor:
        weights = noise(3, 4, 5, rank, seed=seed)
        blocks = torch.einsum("thwr,rcjk->cthjwk", weights, patterns[1:]) + patterns[0][:, None, None, :, None, :]
        frames = blocks.flatten(4, 5).flatten(2, 3)
        return torch.cat([frames[:, :1], frames[:, 1:].repeat_interleave(linear.stride[0], dim=1)], dim=1)

    linear.start_linear([mixture(seed) for seed in range(5)])
    clip = mixture(99)[None]
    assert_equal(linear.decode(linear.encode(clip)), clip)


def test_the_network_learns_beside_the_linear_start(linear: VideoVAE) -> None:
    clip = smooth_clips(linear, 1)[0][None]
    linear.start_linear(list(clip))
    linear.requires_grad_(True)
    ((linear.decode(linear.encode(clip)) - clip) ** 2).mean().backward()
    for conv in (linear.encoder.conv_out, linear.decoder.conv_out, linear.linear_in, linear.linear_out):
        assert conv.weight.grad.abs().max() > 0
