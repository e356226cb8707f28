"""Causal layers: no look into the future, and chunks are the same numbers as one shot."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.compare import assert_equal, noise, shaken
from videodit.nn.causal import CausalConv3d, CausalDown, CausalUp, ChannelNorm, Stream, per_frame
from videodit.nn.causal import conv as conv_by_fastest
from videodit.nn.linear import onednn_serves

CHANNELS = 3


def conv(kernel: tuple[int, int, int] = (3, 3, 3)) -> CausalConv3d:
    return shaken(CausalConv3d(channels=CHANNELS, out_channels=5, kernel=kernel)).double()


def down(*, spatial: bool = True, temporal: bool = True) -> CausalDown:
    return shaken(CausalDown(channels=CHANNELS, spatial=spatial, temporal=temporal)).double()


def up(*, spatial: bool = True, temporal: bool = True) -> CausalUp:
    return shaken(CausalUp(channels=CHANNELS, out_channels=5, spatial=spatial, temporal=temporal)).double()


def clip(frames: int, height: int = 6, width: int = 4, batch: int = 2) -> Tensor:
    return noise(batch, CHANNELS, frames, height, width).double()


def in_chunks(layer: nn.Module, x: Tensor, sizes: Sequence[int]) -> Tensor:
    stream = Stream(keep=True)
    return torch.cat([layer(chunk, stream) for chunk in x.split(list(sizes), dim=2)], dim=2)


def one_shot(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x, Stream(keep=False))


@pytest.mark.parametrize("kernel", [(1, 1, 1), (3, 3, 3), (3, 1, 1), (2, 3, 3)], ids=str)
def test_conv_is_a_conv_of_the_clip_behind_zeros(kernel: tuple[int, int, int]) -> None:
    layer, x = conv(kernel), clip(5)
    behind_zeros = torch.cat([torch.zeros_like(x[:, :, : kernel[0] - 1]), x], dim=2)
    expected = F.conv3d(behind_zeros, layer.weight, layer.bias, padding=(0, kernel[1] // 2, kernel[2] // 2))
    assert_equal(one_shot(layer, x), expected, tolerance=1e-9)
    assert_equal(one_shot(layer, x[:, :, :1]), expected[:, :, :1], tolerance=1e-9)


@pytest.mark.parametrize("sizes", [(1,) * 7, (1, 2, 4), (3, 1, 3), (6, 1), (7,)], ids=str)
def test_conv_in_chunks(sizes: tuple[int, ...]) -> None:
    layer, x = conv(), clip(7)
    assert_equal(in_chunks(layer, x, sizes), one_shot(layer, x), tolerance=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (1, 4), (3, 2)])
def test_few_outputs_are_added_up_from_what_each_tap_made(sizes: tuple[int, ...], norm: bool) -> None:
    """In chunks the products are remembered; in one shot the convolution is an ordinary one."""
    layer = shaken(CausalConv3d(channels=20, out_channels=3, kernel=(3, 3, 3)))
    before = shaken(ChannelNorm(channels=20)) if norm else None
    x, stream = noise(1, 20, 5, 6, 4), Stream(keep=True)
    whole = layer(x, Stream(keep=False), norm=before)
    chunks = torch.cat([layer(part, stream, norm=before) for part in x.split(sizes, dim=2)], dim=2)
    assert_equal(chunks, whole)
    assert stream.past(layer).shape == (1, 9, 2, 6, 4), "less than the two frames of 20 channels"


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dims", [2, 3])
def test_small_convolutions_are_those_of_torch(dims: int, last: bool) -> None:
    x, weight, bias = noise(1, 6, *[5] * dims), noise(4, 6, *[3] * dims), noise(4)
    x = x.contiguous(memory_format=(torch.channels_last, torch.channels_last_3d)[dims - 2]) if last else x
    padding = (0, 1, 1)[-dims:]
    with torch.no_grad():
        assert onednn_serves(x, weight) == torch.backends.mkldnn.is_available()
        mine = conv_by_fastest(x, weight, bias, padding)
    reference = (F.conv2d if dims == 2 else F.conv3d)(x.double(), weight.double(), bias.double(), padding=padding)
    assert_equal(mine, reference.float())
    with torch.enable_grad():
        assert conv_by_fastest(x, weight.requires_grad_(), bias, padding).requires_grad, "torch's own where it learns"


@pytest.mark.parametrize("sizes", [(1, 2, 2, 4), (1, 4, 4), (5, 4), (3, 2, 4), (9,)], ids=str)
@pytest.mark.parametrize("spatial", [True, False])
def test_down_in_chunks(spatial: bool, sizes: tuple[int, ...]) -> None:
    layer, x = down(spatial=spatial), clip(9)
    whole = one_shot(layer, x)
    assert whole.shape == (2, CHANNELS, 5, *((3, 2) if spatial else (6, 4)))
    assert_equal(in_chunks(layer, x, sizes), whole, tolerance=1e-9)


@pytest.mark.parametrize("sizes", [(1,) * 5, (1, 2, 2), (1, 4), (3, 2), (2, 1, 2), (5,)], ids=str)
@pytest.mark.parametrize("spatial", [True, False])
def test_up_in_chunks(spatial: bool, sizes: tuple[int, ...]) -> None:
    layer, x = up(spatial=spatial), clip(5)
    whole = one_shot(layer, x)
    assert whole.shape == (2, 5, 9, *((12, 8) if spatial else (6, 4)))
    assert_equal(in_chunks(layer, x, sizes), whole, tolerance=1e-9)


@pytest.mark.parametrize(
    ("layer", "index"),  # and where in its output the frame f is first seen
    [
        (conv(), lambda f: f),
        (down(), lambda f: (f + 1) // 2),
        (down(temporal=False), lambda f: f),
        (up(), lambda f: 2 * f - 1),
        (up(temporal=False), lambda f: f),
    ],
    ids=["conv", "down", "down in space", "up", "up in space"],
)
def test_no_frame_sees_a_later_one(layer: nn.Module, index: Callable[[int], int]) -> None:
    x = clip(9)
    before = one_shot(layer, x)
    for frame in range(1, 9):
        later = x.clone()
        later[:, :, frame:] += 1
        after, seen = one_shot(layer, later), index(frame)
        assert torch.equal(after[:, :, :seen], before[:, :, :seen])
        assert not torch.allclose(after[:, :, seen], before[:, :, seen])


def test_down_keeps_the_first_frame_from_the_temporal_convolution_but_shows_it_to_the_next() -> None:
    layer, x = down(), clip(5)
    whole = one_shot(layer, x)
    first = per_frame(layer.space, F.pad(x[:, :, :1], (0, 1, 0, 1)))
    assert_equal(whole[:, :, :1], first, tolerance=1e-9)
    assert_equal(one_shot(layer, x[:, :, :1]), first, tolerance=1e-9)
    other = torch.cat([x[:, :, :1] + 1, x[:, :, 1:]], dim=2)
    assert not torch.allclose(one_shot(layer, other)[:, :, 1], whole[:, :, 1])


@pytest.mark.parametrize(("batch", "frames"), [(1, 1), (1, 3), (2, 1), (2, 3)])
def test_frames_keep_their_channels_together(batch: int, frames: int) -> None:
    """A lone frame too: attention's fast kernels want the last stride to be 1, and convolutions keep the order."""
    x = clip(frames, batch=batch).contiguous(memory_format=torch.channels_last_3d)
    seen = []
    out = per_frame(lambda part: seen.append(part) or 2 * part, x)
    assert torch.equal(out, 2 * x)
    (part,) = seen
    _, channels, height, width = part.shape
    assert part.stride() == (channels * height * width, 1, width * channels, channels)


def test_up_shows_the_first_frame_to_no_other() -> None:
    layer, x = up(), clip(4)
    whole = one_shot(layer, x)
    doubled = F.interpolate(x[:, :, 0], scale_factor=2, mode="nearest")
    assert_equal(whole[:, :, 0], layer.space(doubled), tolerance=1e-9)
    other = torch.cat([x[:, :, :1] + 1, x[:, :, 1:]], dim=2)
    assert_equal(one_shot(layer, other)[:, :, 1:], whole[:, :, 1:], tolerance=1e-9)


def test_a_stream_remembers_the_last_frames_and_no_more() -> None:
    layer, x = conv(), clip(7)
    stream = Stream(keep=True)
    assert torch.equal(stream.extend(layer, x, 2), torch.cat([torch.zeros_like(x[:, :, :2]), x], dim=2))
    (past,) = stream._past.values()
    assert torch.equal(past, x[:, :, -2:])
    assert past.untyped_storage().nbytes() == past.numel() * past.element_size(), "it keeps the whole chunk alive"
    assert torch.equal(stream.extend(layer, x[:, :, :1], 2), torch.cat([x[:, :, -2:], x[:, :, :1]], dim=2))


def test_streams_and_layers_do_not_mix() -> None:
    a, b, x = conv(), conv(), clip(3)
    one, two = Stream(keep=True), Stream(keep=True)
    a(x, one)
    for stream, layer in ((two, a), (one, b)):
        assert_equal(layer(x, stream), one_shot(layer, x), tolerance=1e-9)
    forgetful = Stream(keep=False)
    a(x, forgetful)
    assert not forgetful._past
    assert_equal(a(x, forgetful), one_shot(a, x), tolerance=1e-9)
