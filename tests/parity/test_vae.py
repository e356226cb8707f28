"""VideoVAE is diffusers' AutoencoderKLWan, of both kinds, with random weights: encode, decode, any number of frames."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from tests.compare import assert_equal, distance, noise, shaken
from videodit.checkpoint.families import wan
from videodit.checkpoint.keymap import translate
from videodit.models.vae import VideoVAE

MULTIPLIERS, TEMPORAL, BLOCKS, LATENTS = (1, 2, 4, 4), (False, True, True), 2, 4
STATISTICS = {"latents_mean": [0.3, -0.2, 0.1, 0.7], "latents_std": [1.5, 0.5, 2.0, 0.9]}
KINDS = {
    "2.1": {"base_dim": 8, "decoder_base_dim": 8, "patch_size": None, "in_channels": 3, "out_channels": 3},
    "2.2": {"base_dim": 8, "decoder_base_dim": 12, "patch_size": 2, "in_channels": 12, "out_channels": 12},
}
SIZES = [(17, 64, 32), (1, 32, 48)]


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest) -> tuple[VideoVAE, AutoencoderKLWan]:
    """The same network twice."""
    torch.manual_seed(0)
    kind, arguments = request.param, KINDS[request.param]
    shared = {"z_dim": LATENTS, "dim_mult": list(MULTIPLIERS), "temperal_downsample": list(TEMPORAL)}
    theirs = AutoencoderKLWan(
        **arguments, **shared, **STATISTICS, num_res_blocks=BLOCKS, is_residual=kind == "2.2"
    ).requires_grad_(False)
    shaken(theirs, std=0.05)
    arguments = wan.vae_arguments(theirs.config, source="a random model")
    ours = VideoVAE(**arguments).requires_grad_(False)
    table, statistics = wan.vae_table("diffusers", arguments), ("mean", "std")
    wanted = ours.state_dict().keys() - set(statistics)
    statistics = {name: torch.tensor(STATISTICS[f"latents_{name}"]) for name in ("mean", "std")}
    state = translate(theirs.state_dict(), table, wanted, source="a random model")
    ours.load_state_dict({**state, **statistics}, strict=True)
    return ours.eval(), theirs


def column(statistic: str) -> Tensor:
    return torch.tensor(STATISTICS[f"latents_{statistic}"]).view(1, -1, 1, 1, 1)


def their_latents(vae: AutoencoderKLWan, clip: Tensor) -> Tensor:
    return (vae.encode(clip).latent_dist.mean - column("mean")) / column("std")


def their_clip(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    return vae.decode(latents * column("std") + column("mean")).sample


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_encode(pair: tuple[VideoVAE, AutoencoderKLWan], size: tuple[int, int, int]) -> None:
    ours, theirs = pair
    clip = noise(1, 3, *size).tanh()
    expected = theirs.encode(clip).latent_dist
    mean, log_variance = ours.posterior(clip)
    assert expected.mean.std() > 0.1
    assert_equal(mean, expected.mean)
    assert_equal(log_variance, expected.logvar)
    assert_equal(ours.encode(clip), (expected.mean - column("mean")) / column("std"))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_decode(pair: tuple[VideoVAE, AutoencoderKLWan], size: tuple[int, int, int]) -> None:
    ours, theirs = pair
    stride = ours.stride
    latents = noise(1, LATENTS, 1 + (size[0] - 1) // stride[0], size[1] // stride[1], size[2] // stride[2])
    expected = their_clip(theirs, latents)
    assert expected.shape == (1, 3, *size)
    assert expected.std() > 0.05 and (expected.abs() < 1).float().mean() > 0.5
    assert_equal(ours.decode(latents).clamp(-1, 1), expected)


def test_in_chunks(pair: tuple[VideoVAE, AutoencoderKLWan]) -> None:
    ours, theirs = pair
    clip = noise(1, 3, 9, 32, 32).tanh()
    expected = their_latents(theirs, clip)
    assert_equal(torch.cat(list(ours.encode_chunks(clip.split(5, dim=2))), dim=2), expected)
    decoded = torch.cat(list(ours.decode_chunks(expected, 3)), dim=2)
    assert_equal(decoded.clamp(-1, 1), their_clip(theirs, expected))


def test_a_wrong_weight_shows(pair: tuple[VideoVAE, AutoencoderKLWan]) -> None:
    """The comparison can fail: one block's two convolutions exchanged, or queries with keys."""
    ours, theirs = pair
    clip = noise(1, 3, 1, 32, 32).tanh()
    expected = their_latents(theirs, clip)
    state = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    middle = "encoder.middle.after"
    names = {f"{middle}.conv1.weight": f"{middle}.conv2.weight", f"{middle}.conv2.weight": f"{middle}.conv1.weight"}
    qkv = "encoder.middle.attention.qkv.weight"
    for wrong in (
        {name: state[other] for name, other in names.items()},
        {qkv: state[qkv].unflatten(0, (3, -1))[[0, 2, 1]].flatten(0, 1)},
        {"mean": state["mean"].flip(0)},
    ):
        ours.load_state_dict({**state, **wrong})
        assert distance(ours.encode(clip), expected) > 1e-4
    ours.load_state_dict(state)
