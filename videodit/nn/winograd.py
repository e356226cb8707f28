"""3x3(x3) convolutions with 2.25 times fewer multiplications: Winograd's F(2x2, 3x3) (Lavin & Gray 2016, eq. 8 and 15).

For float32 on a CPU, where a convolution is bound by its multiplications and torch's does not use this. A strip of
rows at a time passes through all steps while it is in the cache: what comes before the convolution (a norm), the input
transform, 16 matrix products over channels, the output transform, what is added after it.

    B batch, C channels in, O out, T frames, H height, W width, k temporal taps; r x w tiles of 2x2 in a strip
"""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

STRIP = 3 * 2**20  # values of a transformed strip, for each thread: 12 MB, about what stays in a shared cache
TOGETHER = 4  # frames
SMALLEST = 1024  # positions of a frame below which the detour costs more than it saves
NARROWEST = 48  # channels below which it does

_G = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))


def suits(x: Tensor, weight: Tensor, up: int = 1) -> bool:
    """Whether a convolution of x (B,C,T,H,W), `up` times larger, with weight (O,C,k,3,3), padded by one, gains."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_grad_enabled() or weight.shape[3:] != (3, 3):
        return False
    return up**2 * x.shape[3] * x.shape[4] >= SMALLEST and min(weight.shape[:2]) >= NARROWEST


@torch.library.custom_op("videodit::winograd", mutates_args=(), device_types="cpu")
def conv(
    x: Tensor,
    past: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    gamma: Tensor | None = None,
    plus: Tensor | None = None,
    up: int = 1,
) -> Tensor:
    """[past, x] convolved, plus `plus`: (B,C,T,H,W) and past (B,C,k-1,H,W) -> (B,O,T,up*H,up*W) channels-last.

    weight (O,C,k,3,3); space is padded with zeros. Without `past` the frames before the first are zero. With `gamma`
    (C,) an RMS norm over channels with these weights, and SiLU, come before the convolution; with `up` every pixel
    counts up x up times. One operation to whoever looks from outside, such as a trace.
    """
    taps, frames = weight.shape[2], x.shape[2]
    if past is None:  # taps that would see nothing but zeros
        taps = min(taps, frames)
        weight = weight[:, :, weight.shape[2] - taps :]
    matrices, out = transformed(weight), _empty(x, weight, up)
    for b in range(len(x)):
        before = None if past is None else _frames_last(past[b])
        extra = None if plus is None else _frames_last(plus[b])
        for start in range(0, frames, TOGETHER):  # long clips would make strips of few rows, most of them edge
            now = slice(start, start + TOGETHER)
            parts = _seen(_frames_last(x[b]), before, start, taps - 1)
            more = None if extra is None else extra[now]
            _strips(parts, taps, matrices, bias, gamma, more, _frames_last(out[b])[now], up)
    return out


conv.register_fake(lambda x, past, weight, bias, gamma=None, plus=None, up=1: _empty(x, weight, up))


def flops(out: Tensor, weight: Tensor) -> int:
    """What an ordinary convolution with this output would take: the measure of this one's speed."""
    return 2 * prod(weight.shape[1:]) * out.numel()


def scratch(out: Tensor, weight: Tensor) -> int:
    """Bytes of the buffers and of the transformed weights."""
    frames, height, width = out.shape[2:]
    outputs, channels, taps = weight.shape[:3]
    frames = min(frames, TOGETHER)
    rows, tiles = _rows(frames + taps - 1, height, width, max(channels, outputs)), -(-width // 2)
    inputs = (frames + taps - 1) * channels
    padded = (2 * rows + 2) * (2 * tiles + 2) * inputs
    half = 4 * rows * (2 * tiles + 2) * inputs
    values = padded + half + 16 * rows * tiles * inputs + (16 + 4 + 1) * rows * tiles * frames * outputs
    return 4 * (values + 16 * taps * channels * outputs)


def silu_norm(x: Tensor, gamma: Tensor) -> Tensor:
    """SiLU of x / |x| * sqrt(C) * gamma over the last axis: x (...,C), gamma (C,)."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min_(1e-12)
    return F.silu((x * norm.reciprocal_()).mul_(gamma.numel() ** 0.5 * gamma), inplace=True)


def transformed(weight: Tensor) -> Tensor:
    """(O,C,k,3,3) -> (k,16,C,O)."""
    outputs, channels, taps = weight.shape[:3]
    both, out = torch.kron(torch.tensor(_G), torch.tensor(_G)), weight.new_empty(taps, 16, channels * outputs)
    for tap in range(taps):
        torch.mm(both, rearrange(weight[:, :, tap], "o c h w -> (h w) (c o)"), out=out[tap])
    return out.view(taps, 16, channels, outputs)


def _seen(x: Tensor, past: Tensor | None, start: int, taps: int) -> list[Tensor]:
    """The TOGETHER frames of x from `start` on, and up to `taps` before them: pieces, one after the other."""
    piece = x[max(0, start - taps) : start + TOGETHER]
    return [past[start:], piece] if past is not None and start < taps else [piece]


def _empty(x: Tensor, weight: Tensor, up: int) -> Tensor:
    """The output, without values."""
    size = (x.shape[0], weight.shape[0], x.shape[2], up * x.shape[3], up * x.shape[4])
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)


def _rows(frames: int, height: int, width: int, channels: int) -> int:
    """Rows of tiles in a strip."""
    values = 16 * frames * -(-width // 2) * channels
    return max(1, min(STRIP * torch.get_num_threads() // values, -(-height // 2)))


def _frames_last(x: Tensor) -> Tensor:
    """(C,T,H,W) -> (T,H,W,C): a view."""
    return x.permute(1, 2, 3, 0)


class _Buffers:
    """Memory that every strip uses again: fresh pages would cost more than the arithmetic."""

    def __init__(self, like: Tensor) -> None:
        self._like, self._flat = like, {}

    def take(self, name: str, *shape: int) -> Tensor:
        """A tensor of this shape, with whatever is in it; the first of a name is the largest."""
        count = prod(shape)
        if name not in self._flat:
            self._flat[name] = self._like.new_empty(count)
        return self._flat[name][:count].view(shape)


def _strips(
    parts: list[Tensor],
    taps: int,
    matrices: Tensor,
    bias: Tensor,
    gamma: Tensor | None,
    plus: Tensor | None,
    out: Tensor,
    up: int,
) -> None:
    """One clip: parts (T',H/up,W/up,C) one after the other in time, out (T,H,W,O)."""
    frames, height, width, outputs = out.shape
    channels, tiles = parts[0].shape[3], -(-width // 2)
    rows = _rows(frames + taps - 1, height, width, max(channels, outputs))
    buffers = _Buffers(out)
    for top in range(0, height, 2 * rows):
        count = -(-(min(height, top + 2 * rows) - top) // 2)
        padded = buffers.take("padded", frames + taps - 1, 2 * count + 2, 2 * tiles + 2, channels)
        _fill(padded, parts, top, gamma, up)
        product = _multiplied(_input(padded, buffers), matrices, frames, buffers)
        _output(product.view(4, 4, frames, count, tiles, outputs), bias, plus, out, top, buffers)


def _fill(padded: Tensor, parts: list[Tensor], top: int, gamma: Tensor | None, up: int) -> None:
    """The rows from top - 1 on of all parts, `up` times larger; zeros around them and for frames before the first."""
    height, width = (up * size for size in parts[0].shape[1:3])
    low, high = max(0, top - 1), min(height, top - 1 + padded.shape[1])
    start, stop = low - top + 1, high - top + 1
    at = len(padded) - sum(len(part) for part in parts)
    padded[:at].zero_()
    for edge in (padded[:, :start], padded[:, stop:], padded[:, :, :1], padded[:, :, width + 1 :]):
        edge.zero_()
    for part in parts:
        seen = part[:, low:high] if up == 1 else part[:, torch.arange(low, high) // up]
        seen = seen if gamma is None else silu_norm(seen, gamma)
        for i in range(up):
            padded[at : at + len(part), start:stop, 1 + i : width + 1 : up] = seen
        at += len(part)


def _input(d: Tensor, buffers: _Buffers) -> Tensor:
    """B'dB of each tile: d (T,2r+2,2w+2,C) -> (16,T,r*w,C)."""
    frames, height, width, channels = d.shape
    rows, tiles = height // 2 - 1, width // 2 - 1
    half = buffers.take("half", 4, frames, rows, width, channels)
    full = buffers.take("full", 4, 4, frames, rows, tiles, channels)
    _combine(d, 1, half)
    for i in range(4):
        _combine(half[i], 2, full[i])
    return full.view(16, frames, rows * tiles, channels)


def _combine(d: Tensor, dim: int, out: Tensor) -> None:
    """The four combinations of B' along one axis of windows of 4 that step by 2."""
    every = (slice(None),) * dim + (slice(None, None, 2),)
    first, second, third, fourth = (d.narrow(dim, i, d.shape[dim] - 3)[every] for i in range(4))
    torch.sub(first, third, out=out[0])
    torch.add(second, third, out=out[1])
    torch.sub(third, second, out=out[2])
    torch.sub(second, fourth, out=out[3])


def _multiplied(full: Tensor, matrices: Tensor, frames: int, buffers: _Buffers) -> Tensor:
    """(16,T+k-1,n,C) with matrices (k,16,C,O) -> (16,T*n,O): the temporal taps add up."""
    views = [full[:, tap : tap + frames].flatten(1, 2) for tap in range(len(matrices))]
    product = buffers.take("product", 16, views[0].shape[1], matrices.shape[3])
    torch.bmm(views[0], matrices[0], out=product)
    for view, matrix in zip(views[1:], matrices[1:], strict=True):
        product.baddbmm_(view, matrix)
    return product


def _output(m: Tensor, bias: Tensor, plus: Tensor | None, out: Tensor, top: int, buffers: _Buffers) -> None:
    """A'mA of each tile: m (4,4,T,r,w,O) into the rows of out (T,H,W,O) from `top`, with what is added."""
    height, width = min(out.shape[1] - top, 2 * m.shape[3]), out.shape[2]
    s, y = buffers.take("sums", *m.shape[1:]), buffers.take("values", *m.shape[2:])
    for i in range(2):
        rows = slice(top + i, top + height, 2)
        torch.add(m[0], m[1], out=s).add_(m[2]) if i == 0 else torch.sub(m[1], m[2], out=s).sub_(m[3])
        for j in range(2):
            torch.add(s[0], s[1], out=y).add_(s[2]) if j == 0 else torch.sub(s[1], s[2], out=y).sub_(s[3])
            target = out[:, rows, j::2]
            part = y[:, : target.shape[1], : -(-(width - j) // 2)].add_(bias)
            target.copy_(part) if plus is None else torch.add(part, plus[:, rows, j::2], out=target)
