"""The video VAE: a causal 3D autoencoder that sees the first frame alone.

    B batch, C channels, T frames, H height, W width; t, h, w the same of the latents

One class covers the plain and the residual kind of the autoencoders of arXiv:2503.20314: `shortcuts` adds the
parameter-free space-to-channel averages and duplicates around each level, `patch` folds pixels into channels first.
Every pass is a stream (nn/causal.py), so images, whole clips and chunks are the same code and the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log, prod

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from torch import Tensor, nn

from videodit.models.interfaces import VAE, Stacked
from videodit.nn.causal import CausalConv3d, CausalDown, CausalUp, ChannelNorm, Stream, per_frame
from videodit.shapes import Triple

AT_ONCE = 2**22  # pixels of clips that pass in one go: 1.6 GB a layer of 96 channels, of which some are alive
TOGETHER = 4  # frames that pass a level of the encoder together: even, so that halving time never divides a pair


class ResidualBlock(nn.Module):
    """norm, SiLU, convolution, twice, around a shortcut. (B,C,T,H,W) -> (B,C',T,H,W)."""

    def __init__(self, *, channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(channels=channels)
        self.conv1 = CausalConv3d(channels=channels, out_channels=out_channels, kernel=(3, 3, 3))
        self.norm2 = ChannelNorm(channels=out_channels)
        self.conv2 = CausalConv3d(channels=out_channels, out_channels=out_channels, kernel=(3, 3, 3))
        same = channels == out_channels
        self.shortcut = None if same else CausalConv3d(channels=channels, out_channels=out_channels, kernel=(1, 1, 1))

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        h = self.conv1(x, stream, norm=self.norm1)
        return self.conv2(h, stream, norm=self.norm2, plus=x if self.shortcut is None else self.shortcut(x, stream))


class FrameAttention(nn.Module):
    """Single-head self-attention within each frame. (B,C,T,H,W) -> the same."""

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels=channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        return x + per_frame(self._attend, x)

    def _attend(self, frames: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(self.norm(frames)), "n (three c) h w -> three n 1 (h w) c", three=3)
        h = F.scaled_dot_product_attention(q, k, v)
        return self.proj(rearrange(h, "n 1 (h w) c -> n c h w", h=frames.shape[2]))


class Middle(nn.Module):
    """Residual block, attention within frames, residual block, at the coarsest resolution."""

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.before = ResidualBlock(channels=channels, out_channels=channels)
        self.attention = FrameAttention(channels=channels)
        self.after = ResidualBlock(channels=channels, out_channels=channels)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        return self.after(self.attention(self.before(x, stream), stream), stream)


def fold(x: Tensor, factor: Triple, channels: int) -> Tensor:
    """Space and time to channels, then averages of groups: (B,C,T,H,W) -> (B,channels,T/f,H/f,W/f), no parameters.

    An odd number of frames (the chunk with the first frame) gets a zero frame in front.
    """
    x = F.pad(x, (0, 0, 0, 0, -x.shape[2] % factor[0], 0))
    x = rearrange(x, "b c (t i) (h j) (w k) -> b (c i j k) t h w", i=factor[0], j=factor[1], k=factor[2])
    return reduce(x, "b (c n) t h w -> b c t h w", "mean", c=channels)


def unfold(x: Tensor, factor: Triple, channels: int, *, first: bool) -> Tensor:
    """Channels, duplicated, to space and time: (B,C,T,H,W) -> (B,channels,T*f,H*f,W*f), no parameters.

    With `first` the clip's first frame stays one frame.
    """
    x = repeat(x, "b c t h w -> b (c n) t h w", n=channels * factor[0] * factor[1] * factor[2] // x.shape[1])
    x = rearrange(x, "b (c i j k) t h w -> b c (t i) (h j) (w k)", i=factor[0], j=factor[1], k=factor[2])
    return x[:, :, factor[0] - 1 :] if first else x


@dataclass(frozen=True)
class Scale:
    """What a level does besides its residual blocks: whether it halves (or doubles) space and time, with a shortcut."""

    spatial: bool
    temporal: bool
    shortcut: bool

    @property
    def factor(self) -> Triple:
        """By how much time, height and width change."""
        return (1 + self.temporal, 1 + self.spatial, 1 + self.spatial)

    @property
    def changes(self) -> bool:
        """False for the last level."""
        return self.spatial or self.temporal


class DownLevel(nn.Module):
    """Residual blocks at one resolution, then down to the next unless it is the last."""

    def __init__(self, *, channels: int, out_channels: int, blocks: int, scale: Scale) -> None:
        super().__init__()
        self.scale, self.out_channels = scale, out_channels
        self.blocks = _residual_blocks(channels, out_channels, blocks)
        down = CausalDown(channels=out_channels, spatial=scale.spatial, temporal=scale.temporal)
        self.down = down if scale.changes else None

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        h = x
        for block in self.blocks:
            h = block(h, stream)
        if self.down is not None:
            h = self.down(h, stream)
        return h + fold(x, self.scale.factor, self.out_channels) if self.scale.shortcut else h


class UpLevel(nn.Module):
    """Residual blocks at one resolution, then up to the next unless it is the last."""

    def __init__(self, *, channels: int, out_channels: int, blocks: int, scale: Scale) -> None:
        super().__init__()
        self.scale, self.out_channels = scale, out_channels
        self.blocks = _residual_blocks(channels, out_channels, blocks)
        # The plain kind halves the channels as it doubles the resolution; with a shortcut both paths keep them.
        after = out_channels if scale.shortcut else out_channels // 2
        up = {"channels": out_channels, "out_channels": after, "spatial": scale.spatial, "temporal": scale.temporal}
        self.up = CausalUp(**up) if scale.changes else None

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        h = x
        for block in self.blocks:
            h = block(h, stream)
        if self.up is None:
            return h
        h = self.up(h, stream)
        if not self.scale.shortcut:
            return h
        return h + unfold(x, self.scale.factor, self.out_channels, first=stream.begins(self))


def _residual_blocks(channels: int, out_channels: int, count: int) -> nn.ModuleList:
    sizes = [channels, *[out_channels] * count]
    return nn.ModuleList(ResidualBlock(channels=a, out_channels=b) for a, b in pairwise(sizes))


class Encoder(nn.Module):
    """(B,C,T,H,W) pixels -> (B,out_channels,t,h,w)."""

    def __init__(
        self,
        *,
        channels: int,
        out_channels: int,
        base: int,
        multipliers: Sequence[int],
        blocks: int,
        scales: Sequence[Scale],
    ) -> None:
        super().__init__()
        sizes = [base * m for m in (1, *multipliers)]
        self.conv_in = CausalConv3d(channels=channels, out_channels=sizes[0], kernel=(3, 3, 3))
        self.levels = nn.ModuleList(
            DownLevel(channels=a, out_channels=b, blocks=blocks, scale=scale)
            for (a, b), scale in zip(pairwise(sizes), scales, strict=True)
        )
        self.middle = Middle(channels=sizes[-1])
        self.norm_out = ChannelNorm(channels=sizes[-1])
        self.conv_out = CausalConv3d(channels=sizes[-1], out_channels=out_channels, kernel=(3, 3, 3))

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        for number, level in enumerate(self.levels):
            x = _joined([self._level(number, part, stream) for part in stream.parts(x, level)])
        x = self.middle(x, stream)
        return self.conv_out(x, stream, norm=self.norm_out)

    def _level(self, number: int, x: Tensor, stream: Stream) -> Tensor:
        return self.levels[number](x if number else self.conv_in(x, stream), stream)


class Decoder(nn.Module):
    """(B,channels,t,h,w) -> (B,out_channels,T,H,W) pixels; multipliers and scales are given finest first."""

    def __init__(
        self,
        *,
        channels: int,
        out_channels: int,
        base: int,
        multipliers: Sequence[int],
        blocks: int,
        scales: Sequence[Scale],
    ) -> None:
        super().__init__()
        sizes = [base * m for m in (multipliers[-1], *reversed(multipliers))]
        self.conv_in = CausalConv3d(channels=channels, out_channels=sizes[0], kernel=(3, 3, 3))
        self.middle = Middle(channels=sizes[0])
        levels = []
        for i, ((a, b), scale) in enumerate(zip(pairwise(sizes), [*scales[-2::-1], scales[-1]], strict=True)):
            a = a // 2 if i > 0 and not scale.shortcut else a
            levels.append(UpLevel(channels=a, out_channels=b, blocks=blocks + 1, scale=scale))
        self.levels = nn.ModuleList(levels)
        self.norm_out = ChannelNorm(channels=sizes[-1])
        self.conv_out = CausalConv3d(channels=sizes[-1], out_channels=out_channels, kernel=(3, 3, 3))

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        x = self.middle(self.conv_in(x, stream), stream)
        return _joined(list(self._finer(x, stream, list(self.levels))))

    def _finer(self, x: Tensor, stream: Stream, levels: list[UpLevel]) -> Iterator[Tensor]:
        """Depth first: a part of what a level gives goes all the way before the level sees the next."""
        if not levels:
            yield self.conv_out(x, stream, norm=self.norm_out)
            return
        for part in stream.parts(x, levels[0].blocks):  # the level itself asks when its shortcut begins
            yield from self._finer(levels[0](part, stream), stream, levels[1:])


class VideoVAE(Stacked):
    """Clips (B,3,T,H,W) in [-1,1] <-> normalised latents (B,C,t,h,w).

    Args:
        latent_channels: C.
        base, decoder_base: channels of the finest level of encoder and decoder.
        multipliers: channels of each level, finest first, as multiples of the base.
        spatial, temporal: for each level but the last, whether it halves height and width, and whether it halves time.
        blocks: residual blocks a level (the decoder has one more).
        shortcuts: the parameter-free shortcuts around each level.
        linear: a linear autoencoder of stride-sized blocks beside the network, which then learns what that leaves over
            (`start_linear`).
        patch: pixels along height and width that are folded into channels before the encoder.
    """

    ROLE = VAE

    def __init__(
        self,
        *,
        latent_channels: int,
        base: int,
        decoder_base: int,
        multipliers: Sequence[int],
        spatial: Sequence[bool],
        temporal: Sequence[bool],
        blocks: int,
        shortcuts: bool,
        linear: bool,
        patch: int,
    ) -> None:
        super().__init__()
        pixels = 3 * patch**2
        scales = [Scale(s, t, shortcuts) for s, t in zip([*spatial, False], [*temporal, False], strict=True)]
        shared = {"multipliers": multipliers, "blocks": blocks, "scales": scales}
        self.patch = patch
        self.latent_channels = latent_channels
        space = patch * 2 ** sum(spatial)
        self.stride: Triple = (2 ** sum(temporal), space, space)
        self.encoder = Encoder(channels=pixels, out_channels=2 * latent_channels, base=base, **shared)
        self.quant = CausalConv3d(channels=2 * latent_channels, out_channels=2 * latent_channels, kernel=(1, 1, 1))
        self.unquant = CausalConv3d(channels=latent_channels, out_channels=latent_channels, kernel=(1, 1, 1))
        self.decoder = Decoder(channels=latent_channels, out_channels=pixels, base=decoder_base, **shared)
        self.linear_in = self.linear_out = None
        if linear:
            block = 3 * prod(self.stride)
            self.linear_in = CausalConv3d(channels=block, out_channels=latent_channels, kernel=(1, 1, 1))
            self.linear_out = CausalConv3d(channels=latent_channels, out_channels=block, kernel=(1, 1, 1))
        # The statistics of the training set's posterior means: "latents" are always (mean - these.mean) / these.std.
        self.register_buffer("mean", torch.zeros(latent_channels))
        self.register_buffer("std", torch.ones(latent_channels))

    def posterior(self, clip: Tensor, stream: Stream | None = None) -> tuple[Tensor, Tensor]:
        """(B,3,T,H,W) -> mean and log-variance of the raw posterior, each (B,C,t,h,w)."""
        stream = Stream(keep=False) if stream is None else stream
        x = rearrange(clip, "b c t (h j) (w k) -> b (c k j) t h w", j=self.patch, k=self.patch)
        x = x.contiguous(memory_format=torch.channels_last_3d)
        mean, logvar = self.quant(self.encoder(x, stream), stream).chunk(2, dim=1)
        if self.linear_in is not None:
            mean = mean + self.linear_in(self.blocks(clip, first=stream.begins(self)), stream)
        return mean, logvar.clamp(-30.0, 20.0)

    def encode(self, clip: Tensor, stream: Stream | None = None) -> Tensor:
        """(B,3,T,H,W) in [-1,1], T = 1 + k*stride -> latents (B,C,t,h,w): the normalised posterior mean."""
        return self.normalise(self.posterior(clip, stream)[0])

    def encode_all(self, clips: Tensor) -> Tensor:
        """`encode` for any clips: as many of them together as AT_ONCE says, and one that is larger frame by frame."""
        volume = clips[0, 0].numel()
        if volume > AT_ONCE:
            return torch.cat([_joined([*self.encode_chunks(clip.split(TOGETHER, dim=2))]) for clip in clips.split(1)])
        return torch.cat([self.encode(part) for part in clips.split(AT_ONCE // volume)])

    def decode_all(self, latents: Tensor) -> Tensor:
        """`decode`, likewise."""
        volume = latents[0, 0].numel() * prod(self.stride)
        if volume > AT_ONCE:
            return torch.cat([_joined([*self.decode_chunks(one, 1)]) for one in latents.split(1)])
        return torch.cat([self.decode(part) for part in latents.split(AT_ONCE // volume)])

    def decode(self, latents: Tensor, stream: Stream | None = None) -> Tensor:
        """Latents (B,C,t,h,w) -> clip (B,3,T,H,W), not clamped."""
        return self.reconstruct(latents * _column(self.std) + _column(self.mean), stream)

    def reconstruct(self, raw: Tensor, stream: Stream | None = None) -> Tensor:
        """A raw posterior sample (B,C,t,h,w) -> clip (B,3,T,H,W), not clamped."""
        stream = Stream(keep=False) if stream is None else stream
        raw = raw.contiguous(memory_format=torch.channels_last_3d)
        x = self.decoder(self.unquant(raw, stream), stream)
        clip = rearrange(x, "b (c k j) t h w -> b c t (h j) (w k)", j=self.patch, k=self.patch)
        if self.linear_out is not None:
            clip = clip + unfold(self.linear_out(raw, stream), self.stride, 3, first=stream.begins(self))
        return clip

    def blocks(self, clip: Tensor, *, first: bool) -> Tensor:
        """(B,3,T,H,W) -> blocks of stride's size (B,3*prod(stride),t,h,w); the clip's first frame fills one alone."""
        if first:
            clip = torch.cat([clip[:, :, :1].expand(-1, -1, self.stride[0] - 1, -1, -1), clip], dim=2)
        return fold(clip, self.stride, 3 * prod(self.stride))

    @torch.no_grad()
    def start_noise(self, std: float) -> None:
        """Start with a posterior of this standard deviation everywhere."""
        nn.init.zeros_(self.quant.weight[self.latent_channels :])
        self.quant.bias[self.latent_channels :] = 2 * log(std)

    @torch.no_grad()
    def start_linear(self, clips: Sequence[Tensor]) -> None:
        """Start as the principal components of the blocks of clips, each (3,T,H,W); the network's own part is zero.

        A component's standard deviation becomes proportional to the fourth root of its variance, which for a given
        power and noise of the latents restores the most (reverse water-filling).
        """
        folded = [rearrange(self.blocks(clip[None], first=True), "1 d t h w -> (t h w) d") for clip in clips]
        blocks = torch.cat(folded).double()
        centre = blocks.mean(dim=0)
        variances, components = torch.linalg.eigh(torch.cov(blocks.T))
        variances, components = variances.flip(0)[: self.latent_channels], components.flip(1)[:, : self.latent_channels]
        variances = variances.clamp_min(1e-8)  # few or plain clips have fewer components than there are channels
        scale = variances**-0.25
        scale = scale / (scale**2 * variances).mean().sqrt()
        project, restore = (components * scale).T, components / scale
        for conv, weight, bias in ((self.linear_in, project, -project @ centre), (self.linear_out, restore, centre)):
            conv.weight.copy_(weight[:, :, None, None, None])
            conv.bias.copy_(bias)
        for conv in (self.encoder.conv_out, self.decoder.conv_out):
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.bias)
        nn.init.zeros_(self.quant.bias)

    def normalise(self, raw: Tensor) -> Tensor:
        """Raw posterior values (B,C,t,h,w) -> latents."""
        return (raw - _column(self.mean)) / _column(self.std)

    def encode_chunks(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Encode a clip that arrives in chunks (B,3,n,H,W) of any lengths; yields latents as soon as they are known.

        No level holds much more than TOGETHER frames of its input at a time, however long the chunks are.

        Raises ValueError if the clip does not end on 1 + k*stride frames.
        """
        stream, waiting, start = Stream(keep=True, most=TOGETHER), None, 1
        for chunk in chunks:
            waiting = chunk if waiting is None else torch.cat([waiting, chunk], dim=2)
            ready = start + (waiting.shape[2] - start) // self.stride[0] * self.stride[0]
            if ready:
                yield self.encode(waiting[:, :, :ready], stream)
                start = 0
            waiting = waiting[:, :, ready:]
        if waiting is not None and waiting.shape[2]:
            raise ValueError(f"a clip needs 1 + k*{self.stride[0]} frames: {waiting.shape[2]} are left over")

    def decode_chunks(self, latents: Tensor, frames: int) -> Iterator[Tensor]:
        """Decode latents (B,C,t,h,w); yields clips (B,3,n,H,W). No level passes more than 1 + `frames` together."""
        stream = Stream(keep=True, most=frames)
        for chunk in latents.split(frames, dim=2):
            yield self.decode(chunk, stream)


def _joined(parts: list[Tensor]) -> Tensor:
    """One after the other in time."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _column(statistic: Tensor) -> Tensor:
    return statistic.view(1, -1, 1, 1, 1)
