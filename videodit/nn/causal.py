"""Causal 3D convolutions and the state that lets a clip pass through them in chunks.

    B batch, C channels, T frames, H height, W width

A `Stream` holds what the network must remember of the frames it has already seen. One shot is the special case of a
stream with one chunk, so streaming and one-shot share every line of code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class Stream:
    """The memory of one clip passing through a causal network, chunk by chunk.

    `first` is true while the chunk that holds the clip's first frame passes. A stream with `keep=False` remembers
    nothing: for clips that pass in one shot.
    """

    def __init__(self, *, keep: bool) -> None:
        self.first = True
        self.keep = keep
        self._past: dict[nn.Module, Tensor] = {}

    def extend(self, module: nn.Module, x: Tensor, frames: int) -> Tensor:
        """Put the `frames` frames that came before in front of x (B,C,T,H,W); zeros before the clip's start."""
        past = self._past.get(module)
        extended = F.pad(x, (0, 0, 0, 0, frames, 0)) if past is None else torch.cat([past, x], dim=2)
        if self.keep:
            # A copy: a view would keep the whole chunk's activations alive.
            self._past[module] = extended[:, :, -frames:].clone()
        return extended


class CausalConv3d(nn.Conv3d):
    """Conv3d that pads space on both sides and time only with the past. (B,C,T,H,W) -> (B,C',T,H,W)."""

    def __init__(self, *, channels: int, out_channels: int, kernel: tuple[int, int, int]) -> None:
        super().__init__(channels, out_channels, kernel, padding=(0, kernel[1] // 2, kernel[2] // 2))

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        past = self.kernel_size[0] - 1
        if past == 0:
            return super().forward(x)
        if not stream.keep and x.shape[2] == 1:
            # A lone image has no past: the other taps would only see zeros.
            return F.conv3d(x, self.weight[:, :, past:], self.bias, padding=self.padding)
        return super().forward(stream.extend(self, x, past))


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
        if not stream.first:
            return self.time(extended)
        return x if x.shape[2] == 1 else torch.cat([x[:, :, :1], self.time(x)], dim=2)


class CausalUp(nn.Module):
    """Double space if `spatial` and time if `temporal`: (B,C,1+k,H,W) -> (B,C',1+2k,2H,2W).

    The clip's first frame passes the temporal convolution untouched and unseen by the frames after it.
    """

    def __init__(self, *, channels: int, out_channels: int, spatial: bool, temporal: bool) -> None:
        super().__init__()
        self.scale = (1, 2, 2) if spatial else (1, 1, 1)
        self.space = nn.Conv2d(channels, out_channels, 3, padding=1)
        time = CausalConv3d(channels=channels, out_channels=2 * channels, kernel=(3, 1, 1)) if temporal else None
        self.time = time

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        if self.time is not None:
            head, x = (x[:, :, :1], x[:, :, 1:]) if stream.first else (x[:, :, :0], x)
            if x.shape[2]:
                x = rearrange(self.time(x, stream), "b (n c) t h w -> b c (t n) h w", n=2)
            x = torch.cat([head, x], dim=2)
        return per_frame(self.space, F.interpolate(x, scale_factor=self.scale, mode="nearest"))


def per_frame(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a layer of images to every frame of (B,C,T,H,W)."""
    frames = rearrange(x, "b c t h w -> (b t) c h w")
    return rearrange(layer(frames), "(b t) c h w -> b c t h w", b=x.shape[0])
