"""Winograd's convolution is the ordinary one: any size, with and without a past, fused or not; and where it is used."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.compare import assert_equal, noise, shaken
from videodit.models.vae import VideoVAE
from videodit.nn import winograd
from videodit.nn.causal import CausalConv3d, ChannelNorm, Stream


@pytest.fixture(autouse=True)
def no_gradients() -> None:
    with torch.no_grad():
        yield


def direct(x: Tensor, past: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
    frames = weight.shape[2] - 1
    x = F.pad(x, (0, 0, 0, 0, frames, 0)) if past is None else torch.cat([past, x], dim=2)
    return F.conv3d(x, weight, bias, padding=(0, 1, 1))


@pytest.mark.parametrize("taps", [1, 3])
@pytest.mark.parametrize("size", [(1, 4, 4), (3, 7, 9), (2, 33, 40), (5, 2, 1), (1, 12, 31), (9, 6, 6)], ids=str)
@pytest.mark.parametrize("strip", [1, 2**22])
def test_any_size(taps: int, size: tuple[int, int, int], strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips of one row of tiles, and all in one; frames one by one, and four together."""
    monkeypatch.setattr(winograd, "STRIP", strip)
    monkeypatch.setattr(winograd, "TOGETHER", 1 if strip == 1 else 4)
    frames, height, width = size
    x, weight, bias = noise(2, 5, *size), 0.2 * noise(6, 5, taps, 3, 3, seed=1), noise(6, seed=2)
    past = noise(2, 5, taps - 1, height, width, seed=3)
    assert_equal(winograd.conv(x, None, weight, bias), direct(x, None, weight, bias))
    if taps > 1:
        assert_equal(winograd.conv(x, past, weight, bias), direct(x, past, weight, bias))
        assert (direct(x, past, weight, bias) - direct(x, None, weight, bias)).abs().max() > 0.1


def test_what_comes_before_and_after() -> None:
    x, past, plus = noise(1, 8, 2, 9, 11), noise(1, 8, 2, 9, 11, seed=1), noise(1, 6, 2, 9, 11, seed=2)
    weight, bias, norm = 0.2 * noise(6, 8, 3, 3, 3, seed=3), noise(6, seed=4), shaken(ChannelNorm(channels=8))
    expected = direct(F.silu(norm(x)), F.silu(norm(past)), weight, bias) + plus
    out = winograd.conv(x, past, weight, bias, norm.gamma, plus)
    assert_equal(out, expected)
    assert out.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("strip", [1, 2**22])
def test_larger(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "STRIP", strip)
    x, weight, bias = noise(1, 5, 3, 7, 9), 0.2 * noise(6, 5, 1, 3, 3, seed=1), noise(6, seed=2)
    large = F.interpolate(x, scale_factor=(1, 2, 2), mode="nearest")
    assert_equal(winograd.conv(x, None, weight, bias, up=2), direct(large, None, weight, bias))


def test_where_it_is_used() -> None:
    x, weight = torch.zeros(1, 64, 1, 32, 32), torch.zeros(64, 64, 3, 3, 3)
    assert winograd.suits(x, weight)
    with torch.enable_grad():
        assert not winograd.suits(x, weight), "it has no backward"
    assert not winograd.suits(x.double(), weight) and not winograd.suits(x.bfloat16(), weight)
    assert winograd.suits(x[..., :8], weight, up=2)
    assert not winograd.suits(x[..., :8], weight) and not winograd.suits(x, weight[:3])
    assert not winograd.suits(x, weight[..., :1, :1]) and not winograd.suits(x.to("meta"), weight)


@pytest.mark.parametrize("chunks", [(5,), (1, 4), (1, 1, 1, 1, 1), (2, 3), (3, 2)], ids=str)
def test_a_layer_is_the_same_with_and_without(chunks: tuple[int, ...]) -> None:
    """With gradients a layer takes the ordinary way, and without them this one, stream and all."""
    conv, norm = shaken(CausalConv3d(channels=48, out_channels=48, kernel=(3, 3, 3))), shaken(ChannelNorm(channels=48))
    x, plus = noise(1, 48, 5, 32, 34), noise(1, 48, 5, 32, 34, seed=1)
    with torch.enable_grad():
        expected = conv(x, Stream(keep=False), norm=norm, plus=plus)
    stream = Stream(keep=True)
    parts = zip(x.split(chunks, dim=2), plus.split(chunks, dim=2), strict=True)
    out = torch.cat([conv(part, stream, norm=norm, plus=more) for part, more in parts], dim=2)
    assert expected.requires_grad and not out.requires_grad
    assert_equal(out, expected.detach())


@pytest.mark.parametrize("shortcuts", [False, True])
def test_a_vae_is_the_same_with_and_without(shortcuts: bool) -> None:
    sizes = {"base": 48, "decoder_base": 48, "multipliers": (1, 1), "spatial": (True,), "temporal": (True,)}
    vae = VideoVAE(latent_channels=4, blocks=1, shortcuts=shortcuts, linear=False, patch=1, **sizes)
    shaken(vae, std=0.02)
    clip = noise(1, 3, 3, 64, 72).tanh()
    with torch.enable_grad():
        latents = vae.encode(clip)
        expected = vae.decode(latents)
    assert_equal(vae.encode(clip), latents.detach())
    assert_equal(vae.decode(latents.detach()), expected.detach())
