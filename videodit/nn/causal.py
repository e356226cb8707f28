"""Causal 3D convolutions and the state that lets a clip pass through them in chunks.

    B batch, C channels, T frames, H height, W width

A `Stream` holds what the network must remember of the frames it has already seen. One shot is the special case of a
stream with one chunk, so streaming and one-shot share every line of code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from videodit.nn import winograd
from videodit.nn.linear import onednn_serves


class Stream:
    """The memory of one clip passing through a causal network, chunk by chunk.

    A stream with `keep=False` remembers nothing: for clips that pass in one shot. `most` frames pass a level of the
    network together (0: all), so that long chunks need little memory.
    """

    def __init__(self, *, keep: bool, most: int = 0) -> None:
        self.keep, self.most = keep, most
        self._begun: set[nn.Module] = set()
        self._past: dict[nn.Module, Tensor] = {}

    def begins(self, module: nn.Module) -> bool:
        """Whether the clip's first frame is only now coming to this module: true the first time it asks."""
        if not self.keep:
            return True
        first = module not in self._begun
        self._begun.add(module)
        return first

    def parts(self, x: Tensor, module: nn.Module) -> Sequence[Tensor]:
        """x (B,C,T,H,W) in parts that may pass this module together; the clip's first frame comes on top."""
        if not self.most:
            return [x]
        start = self.most + self.begins(module)
        return [x[:, :, :start], *x[:, :, start:].split(self.most, dim=2)] if x.shape[2] > start else [x]

    def past(self, module: nn.Module) -> Tensor | None:
        """The frames that came before for this module; None at the clip's start."""
        return self._past.get(module)

    def remember(self, module: nn.Module, x: Tensor, frames: int) -> None:
        """Keep the last `frames` frames of what has passed, x (B,C,T,H,W) being the latest."""
        if not self.keep:
            return
        new, past = min(frames, x.shape[2]), self._past.get(module)
        if past is None:
            # A copy: a view would keep the whole chunk's activations alive.
            size = (*x.shape[:2], frames, *x.shape[3:])
            past = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d).zero_()
            self._past[module] = past
        for i in range(frames - new):  # a frame at a time: source and target may overlap
            past[:, :, i] = past[:, :, i + new]
        past[:, :, frames - new :] = x[:, :, x.shape[2] - new :]

    def extend(self, module: nn.Module, x: Tensor, frames: int) -> Tensor:
        """Put the `frames` frames that came before in front of x (B,C,T,H,W); zeros before the clip's start."""
        past = self.past(module)
        extended = F.pad(x, (0, 0, 0, 0, frames, 0)) if past is None else torch.cat([past, x], dim=2)
        self.remember(module, x, frames)
        return extended


class ChannelNorm(nn.Module):
    """RMS norm over channels: x / |x| * sqrt(C) * gamma. (B,C,...) -> the same."""

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x.float(), dim=1, keepdim=True).clamp_min(1e-12)
        scale = (self.gamma.numel() ** 0.5) * self.gamma.view(-1, *[1] * (x.dim() - 2))
        return x * norm.reciprocal().to(x.dtype) * scale


class CausalConv3d(nn.Conv3d):
    """Conv3d that pads space on both sides and time only with the past. (B,C,T,H,W) -> (B,C',T,H,W)."""

    def __init__(self, *, channels: int, out_channels: int, kernel: tuple[int, int, int]) -> None:
        super().__init__(channels, out_channels, kernel, padding=(0, kernel[1] // 2, kernel[2] // 2))

    def forward(
        self, x: Tensor, stream: Stream, *, norm: ChannelNorm | None = None, plus: Tensor | None = None
    ) -> Tensor:
        """`norm`, with SiLU, comes before the convolution, and `plus` is added after it."""
        frames = self.kernel_size[0] - 1
        if winograd.suits(x, self.weight):
            gamma = None if norm is None else norm.gamma
            out = winograd.conv(x, stream.past(self), self.weight, self.bias, gamma, plus)
            stream.remember(self, x, frames)
            return out
        x = x if norm is None else F.silu(norm(x))
        narrow = self.weight.shape[2] * self.out_channels < self.in_channels
        if frames and stream.keep and narrow and x.dtype == torch.float32:
            x = self._taps_first(x, stream, frames)
        elif frames and not stream.keep and x.shape[2] == 1:
            # A lone image has no past: the other taps would only see zeros.
            x = conv(x, self.weight[:, :, frames:], self.bias, self.padding)
        else:
            x = conv(stream.extend(self, x, frames) if frames else x, self.weight, self.bias, self.padding)
        return x if plus is None else x + plus

    def _taps_first(self, x: Tensor, stream: Stream, frames: int) -> Tensor:
        """With few outputs, what each temporal tap makes of a frame is less to remember than the frame itself.

        In float32: rounding three sums instead of one would show.
        """
        weight = rearrange(self.weight, "o c k h w -> (k o) c h w")
        made = per_frame(lambda images: conv(images, weight, None, self.padding[1:]), x)
        made = rearrange(stream.extend(self, made, frames), "b (k o) t h w -> k b o t h w", k=frames + 1)
        return sum((made[tap, :, :, tap : tap + x.shape[2]] for tap in range(frames + 1)), self.bias.view(-1, 1, 1, 1))


class CausalDown(nn.Module):
    """Halve space if `spatial` and time if `temporal`: (B,C,1+2k,H,W) -> (B,C,1+k,H/2,W/2).

    The clip's first frame skips the temporal convolution but is the past that the next frames see.
    """

    def __init__(self, *, channels: int, spatial: bool, temporal: bool) -> None:
        super().__init__()
        self.space = nn.Conv2d(channels, channels, 3, stride=2) if spatial else None
        self.time = nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1)) if temporal else None

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        if self.space is not None:
            x = per_frame(self.space, F.pad(x, (0, 1, 0, 1)))
        if self.time is None:
            return x
        extended = stream.extend(self.time, x, 1)
        if not stream.begins(self):
            return over_time(self.time, extended)
        return x if x.shape[2] == 1 else torch.cat([x[:, :, :1], over_time(self.time, x)], dim=2)


class CausalUp(nn.Module):
    """Double space if `spatial` and time if `temporal`: (B,C,1+k,H,W) -> (B,C',1+2k,2H,2W).

    The clip's first frame passes the temporal convolution untouched and unseen by the frames after it.
    """

    def __init__(self, *, channels: int, out_channels: int, spatial: bool, temporal: bool) -> None:
        super().__init__()
        self.up = 2 if spatial else 1
        self.space = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.time = nn.Conv3d(channels, 2 * channels, (3, 1, 1)) if temporal else None

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        if self.time is not None:
            first = int(stream.begins(self))
            head, x = x[:, :, :first], x[:, :, first:]
            if x.shape[2]:
                pairs = over_time(self.time, stream.extend(self.time, x, 2)).movedim(1, -1)
                x = rearrange(pairs, "b t h w (n c) -> b (t n) h w c", n=2).movedim(-1, 1)
            x = torch.cat([head, x], dim=2) if head.shape[2] else x
        weight = self.space.weight[:, :, None]
        if winograd.suits(x, weight, self.up):
            return winograd.conv(x, None, weight, self.space.bias, up=self.up)
        return per_frame(lambda frames: self.space(F.interpolate(frames, scale_factor=self.up, mode="nearest")), x)


def conv(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, ...]) -> Tensor:
    """A convolution of images (B,C,H,W) or clips (B,C,T,H,W); space and time as weight (O,C,...) and padding say.

    By oneDNN wherever that serves: of its own accord torch asks it for large ones only, and takes up to 15 times as
    long for those of small models.
    """
    if not onednn_serves(x, weight):
        return (F.conv2d if x.dim() == 4 else F.conv3d)(x, weight, bias, padding=padding)
    ones = [1] * len(padding)
    return torch.ops.aten.mkldnn_convolution(x, weight, bias, list(padding), ones, ones, 1)


def over_time(layer: nn.Conv3d, x: Tensor) -> Tensor:
    """A convolution over time alone, without padding. (B,C,T,H,W) -> (B,C',T',H,W)."""
    if x.device.type != "cpu" or torch.is_grad_enabled():
        return layer(x)
    stride = layer.stride[0]
    frames = (x.shape[2] - layer.kernel_size[0]) // stride + 1
    rows, out = x.movedim(1, -1), layer.bias
    for tap in range(layer.kernel_size[0]):  # matrix products: twice as fast as the library's convolution
        seen = rows[:, tap : tap + stride * (frames - 1) + 1 : stride]
        out = out + F.linear(seen, layer.weight[:, :, tap, 0, 0])
    return out.movedim(-1, 1)


def per_frame(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a layer of images to every frame of (B,C,T,H,W)."""
    # A lone frame would lose the strides that say that its channels come first, and with them attention's fast kernels.
    frames = x[0].transpose(0, 1) if len(x) == 1 else rearrange(x, "b c t h w -> (b t) c h w")
    return rearrange(layer(frames), "(b t) c h w -> b c t h w", b=x.shape[0])
