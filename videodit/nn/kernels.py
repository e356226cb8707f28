"""Attention over packs: clip i's queries see clip i's keys, nothing else. One call, one layout, five kernels.

"auto" is varlen for clips of unequal lengths on a GPU, where it serves, and sdpa for all else.

Letters: Lq, Lk tokens in the pack; n clips; l, m queries and keys of one clip; H heads; K channels of a head.

| kernel | what it is | needs |
|---|---|---|
| sdpa | torch's fused attention, one call for all clips alike | – |
| reference | the definition, with a dense (Lq,Lk) mask: for tests | – |
| varlen | torch's flash attention over offsets | CUDA (8.0 or newer), float16 or bfloat16, K = 8, 16 … 256 |
| flex | torch's flex_attention with a block mask | CUDA (compiled), or a CPU without gradients (slow); not float64 |
| xformers | memory_efficient_attention, block-diagonal | CUDA and `pip install videodit[xformers]`; not float64 |
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from videodit.errors import InputError

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask

Lengths = tuple[int, ...]
AUTO = "auto"

# On a CPU, two matmuls and a softmax beat the fused kernel over this few keys: by 1.2 to 1.7x at 20 keys (forward and
# backward, two cores). At 80 to 144 it is 1.15x on an idle machine and nothing on a busy one, at 320 a loss. For few
# queries it is a loss on some CPUs: each call is more small steps.
SHORT_KEYS = 64
SHORT_QUERIES = 512  # of all clips of a call, at least; in bfloat16 any number
# In bfloat16 the fused kernel takes 1.6 to 4 times as long, forward and backward, up to 640 keys (1.3 at 1280). Scores
# that are laid out take memory: no more than so many of them.
SHORT_KEYS_BF16 = 640
SHORT_SCORES = 2**24


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_lengths: Lengths,
    k_lengths: Lengths,
    *,
    copies: Tensor | None = None,
    kernel: str = AUTO,
) -> Tensor:
    """Softmax attention with scale 1/sqrt(K) inside each clip of a pack.

    q is (Lq,H,K), k and v are (Lk,H,K), all of one dtype on one device; the lengths of the clips sum to Lq and Lk and
    are at least 1. Key i counts as `copies[i]` equal keys, of copies (Lk,). Returns (Lq,H,K). Raises InputError for a
    kernel that does not exist or cannot serve these tensors (the message names those that can), ValueError for shapes
    that do not fit together.
    """
    q_lengths, k_lengths = tuple(q_lengths), tuple(k_lengths)
    _check_shapes(q, k, v, q_lengths, k_lengths)
    grad = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    use = Use(q.device, q.dtype, q.shape[-1], grad)
    kernel = use.pick(kernel, q_lengths, k_lengths)
    use.check(kernel)
    channels = q.shape[-1]
    if copies is not None:
        q, k, v = _with_copies(q, k, v, copies)
    out = KERNELS[kernel](q, k, v, q_lengths, k_lengths, channels**-0.5)
    return out[..., :channels]


def _with_copies(q: Tensor, k: Tensor, v: Tensor, copies: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eight more channels that add log(copies) to a key's scores: every kernel serves them.

    The logarithm is cut into parts that half precision holds exactly enough together.
    """
    rest, parts = copies.log() * q.shape[-1] ** 0.5, []
    for _ in range(3):
        parts.append(rest.to(k.dtype))
        rest = rest - parts[-1].to(rest.dtype)
    bias = F.pad(torch.stack(parts, dim=1), (0, 5))[:, None].expand(-1, k.shape[1], -1)
    ones = q.new_ones(*q.shape[:2], 8)
    return torch.cat([q, ones], dim=-1), torch.cat([k, bias], dim=-1), F.pad(v, (0, 8))


class Use(NamedTuple):
    """What a kernel is asked to serve: where, in which type, heads of how many channels, with gradients or without."""

    device: torch.device
    dtype: torch.dtype
    channels: int
    grad: bool

    def refusal(self, kernel: str) -> str | None:
        """Why a kernel cannot serve this, in half a line, or None when it can."""
        device, dtype, channels = self.device, self.dtype, self.channels
        cuda, double = device.type == "cuda", dtype == torch.float64
        if kernel not in KERNELS:
            return f"no such kernel, there are {AUTO}, {', '.join(KERNELS)}"
        if kernel == "varlen":
            if not cuda or torch.cuda.get_device_capability(device) < (8, 0):
                return f"needs a CUDA device of compute capability 8.0 or newer, not {device}"
            if dtype not in (torch.float16, torch.bfloat16) or channels > 256 or channels % 8:
                return f"needs float16 or bfloat16 and heads of 8, 16 … 256 channels, not {dtype} and {channels}"
        if kernel == "flex":
            if double or (cuda and channels < 16):
                return f"needs float32 or less and heads of at least 16 channels, not {dtype} and {channels}"
            if not cuda and self.grad:
                return f"has no backward on {device}, only on CUDA"
        if kernel == "xformers":
            if not cuda or double:
                return f"needs a CUDA device and float32 or less, not {device} and {dtype}"
            if "xformers" not in sys.modules and importlib.util.find_spec("xformers") is None:
                return "is not installed: pip install videodit[xformers]"
        return None

    def pick(self, kernel: str, q_lengths: Lengths, k_lengths: Lengths) -> str:
        """The kernel that "auto" means for clips of these lengths; any other is itself."""
        if kernel != AUTO:
            return kernel
        unequal = len(set(q_lengths)) > 1 or len(set(k_lengths)) > 1
        return "varlen" if unequal and self.refusal("varlen") is None else "sdpa"

    def check(self, kernel: str) -> None:
        """InputError, which names those that can, for a kernel that cannot serve this."""
        if kernel != AUTO and (reason := self.refusal(kernel)) is not None:
            able = ", ".join(name for name in KERNELS if self.refusal(name) is None)
            raise InputError(f"kernel={kernel}: {reason}; kernels that can: {able}")

    def told(self, kernel: str) -> str:
        """What `kernel` comes to, in a line, where that is a choice: on a GPU."""
        if self.device.type == "cpu" or kernel != AUTO:
            return ""
        reason = self.refusal("varlen")
        if reason is None:
            return "attention: varlen for packs of unequal clips, sdpa for equal ones"
        return f"attention: sdpa, one call for each length of clips; varlen, one for all, {reason}"


def _check_shapes(q: Tensor, k: Tensor, v: Tensor, q_lengths: Lengths, k_lengths: Lengths) -> None:
    if q.ndim != 3 or k.shape != v.shape or q.shape[1:] != k.shape[1:]:
        raise ValueError(f"q must be (Lq,H,K) and k, v both (Lk,H,K), not {[tuple(x.shape) for x in (q, k, v)]}")
    if len({(x.dtype, x.device) for x in (q, k, v)}) > 1:
        raise ValueError(f"q, k, v must share dtype and device: {[(x.dtype, x.device) for x in (q, k, v)]}")
    if len(q_lengths) != len(k_lengths):
        raise ValueError(f"{len(q_lengths)} clips of queries but {len(k_lengths)} of keys")
    for name, x, lengths in (("q", q, q_lengths), ("k", k, k_lengths)):
        if sum(lengths) != len(x) or min(lengths, default=0) < 1:
            raise ValueError(f"{name}_lengths must be at least 1 and sum to {len(x)}: {lengths}")


def block_mask(q_lengths: Lengths, k_lengths: Lengths) -> Tensor:
    """(Lq,Lk) bool on the CPU, true where query and key belong to the same clip."""
    return clip_of(q_lengths)[:, None] == clip_of(k_lengths)


def clip_of(lengths: Lengths) -> Tensor:
    """(L,): the number of the clip that each token belongs to."""
    return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths), output_size=sum(lengths))


def reference(q: Tensor, k: Tensor, v: Tensor, q_lengths: Lengths, k_lengths: Lengths, scale: float) -> Tensor:
    """The definition, in float32 or better whatever the dtype and autocast."""
    wide = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        scores = torch.einsum("qhc,khc->hqk", q.to(wide), k.to(wide)) * scale
        scores = scores.masked_fill(~block_mask(q_lengths, k_lengths).to(q.device), -torch.inf)
        return torch.einsum("hqk,khc->qhc", scores.softmax(-1), v.to(wide)).to(q.dtype)


@functools.lru_cache(maxsize=256)
def plan(q_lengths: Lengths, k_lengths: Lengths) -> tuple[Lengths, Lengths, tuple[tuple[Lengths, Lengths], ...]]:
    """Which clips sdpa computes together: as many queries each, and numbers of keys that padding at most doubles.

    Up to 64 keys are padded whatever the waste: one more call costs more than they do. Neighbours that go into the same
    call are a run. Returns the queries of each run, its keys, and for each call its runs and the keys of each clip.
    """
    kinds = [(queries, max(6, (keys - 1).bit_length())) for queries, keys in zip(q_lengths, k_lengths, strict=True)]
    runs = [(kind, [i for i, _ in run]) for kind, run in groupby(enumerate(kinds), key=lambda pair: pair[1])]
    calls = []
    for kind in dict.fromkeys(kinds):
        mine = tuple(r for r, (other, _) in enumerate(runs) if other == kind)
        calls.append((mine, tuple(k_lengths[i] for r in mine for i in runs[r][1])))
    q_runs, k_runs = (tuple(sum(lengths[i] for i in run) for _, run in runs) for lengths in (q_lengths, k_lengths))
    return q_runs, k_runs, tuple(calls)


def sdpa(q: Tensor, k: Tensor, v: Tensor, q_lengths: Lengths, k_lengths: Lengths, scale: float) -> Tensor:
    """Torch's fused attention, one call for all clips alike; clips of one size side by side are never copied."""
    q_runs, k_runs, calls = plan(q_lengths, k_lengths)
    if len(q_runs) == 1:
        return _batch(q, k, v, calls[0][1], scale)
    parts = q.split(q_runs), k.split(k_runs), v.split(k_runs)
    out: dict[int, Tensor] = {}
    for runs, keys in calls:
        together = (torch.cat([x[r] for r in runs]) if len(runs) > 1 else x[runs[0]] for x in parts)
        out.update(zip(runs, _batch(*together, keys, scale).split([q_runs[r] for r in runs]), strict=True))
    return torch.cat([out[r] for r in range(len(q_runs))])


def _batch(q: Tensor, k: Tensor, v: Tensor, keys: Lengths, scale: float) -> Tensor:
    """Attention of n clips of equally many queries. q (n·l,H,K), k and v (sum of keys,H,K) -> (n·l,H,K)."""
    most, mask = max(keys), None
    if min(keys) < most:
        k, v = _pad(k, keys, most), _pad(v, keys, most)
        mask = torch.arange(most, device=q.device) < upload(torch.tensor(keys), q.device)[:, None]  # (n, m)
    q, k, v = (rearrange(x, "(n l) h c -> n h l c", n=len(keys)) for x in (q, k, v))
    exact = q.dtype.itemsize >= 4 and not torch.is_autocast_enabled("cpu")
    longest, least = (SHORT_KEYS, SHORT_QUERIES) if exact else (SHORT_KEYS_BF16, 0)
    short = most <= longest and len(keys) * q.shape[2] >= least and q[..., 0].numel() * most <= SHORT_SCORES
    if q.device.type == "cpu" and short:
        out = _short(q, k, v, mask, scale)
    else:
        mask = None if mask is None else mask[:, None, None]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return rearrange(out, "n h l c -> (n l) h c")


def _short(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """The same with plain matmuls. q (n,H,l,K), k and v (n,H,m,K), mask (n,m) -> (n,H,l,K)."""
    n, heads = q.shape[:2]
    k = k * scale  # not the queries: text is much shorter than a clip
    q, k, v = (rearrange(x, "n h l c -> (n h) l c") for x in (q, k, v))
    if mask is None:
        scores = torch.bmm(q, k.mT)
    else:
        bias = torch.where(mask, 0.0, -torch.inf).to(q.dtype)
        scores = torch.baddbmm(bias.repeat_interleave(heads, 0)[:, None], q, k.mT)
    return rearrange(torch.bmm(scores.softmax(-1), v), "(n h) l c -> n h l c", n=n)


def _pad(x: Tensor, lengths: Lengths, most: int) -> Tensor:
    """(L,H,K) -> (n·most,H,K), zeros after each clip. One cat of views, and so is its backward."""
    blank = x.new_zeros(most, *x.shape[1:])
    return torch.cat([part for clip in x.split(lengths) for part in (clip, blank[len(clip) :])])


def upload(host: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU's on the device, without making the host wait for a GPU."""
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


def varlen(q: Tensor, k: Tensor, v: Tensor, q_lengths: Lengths, k_lengths: Lengths, scale: float) -> Tensor:
    """Torch's flash attention over offsets."""
    from torch.nn.attention.varlen import varlen_attn

    ends = (torch.tensor((0, *accumulate(lengths)), dtype=torch.int32) for lengths in (q_lengths, k_lengths))
    return varlen_attn(q, k, v, *(upload(one, q.device) for one in ends), max(q_lengths), max(k_lengths), scale=scale)


def flex(q: Tensor, k: Tensor, v: Tensor, q_lengths: Lengths, k_lengths: Lengths, scale: float) -> Tensor:
    """Torch's flex_attention: compiled on CUDA; on a CPU its unfused form, forward only."""
    q, k, v = (rearrange(x, "l h c -> 1 h l c") for x in (q, k, v))
    if q.device.type != "cuda":  # there it refuses tensors that require gradients even under no_grad
        q, k, v = q.detach(), k.detach(), v.detach()
    mask = flex_mask(q_lengths, k_lengths, q.device)
    out = _flex_attention(q.device.type == "cuda")(q, k, v, block_mask=mask, scale=scale)
    return rearrange(out, "1 h l c -> l h c")


@functools.lru_cache(maxsize=2)
def _flex_attention(compiled: bool) -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention) if compiled else flex_attention


@functools.lru_cache(maxsize=16)  # every layer of a step asks again
@torch.inference_mode(False)  # or a mask first made for sampling would be useless for training
def flex_mask(q_lengths: Lengths, k_lengths: Lengths, device: torch.device) -> BlockMask:
    """The block mask of a pack, from its lengths: memory grows with (L/128)², not with L² as create_block_mask's."""
    from torch.nn.attention.flex_attention import BlockMask

    block, rows, columns = 128, clip_of(q_lengths), clip_of(k_lengths)

    def span(clips):  # the first and last clip of each block
        blocks = F.pad(clips, (0, -len(clips) % block), value=len(q_lengths) - 1).view(-1, block)
        return blocks[:, 0], blocks[:, -1]

    (q_first, q_last), (k_first, k_last) = span(rows), span(columns)
    meet = (q_first[:, None] <= k_last) & (k_first <= q_last[:, None])  # clips ascend along both axes
    count = meet.sum(-1, dtype=torch.int32)[None, None].to(device)
    index = meet.byte().argsort(dim=-1, descending=True, stable=True).int()[None, None].to(device)
    sizes, rows, columns = (len(rows), len(columns)), rows.to(device), columns.to(device)

    def same(b, h, i, j):
        return rows[i] == columns[j]

    return BlockMask.from_kv_blocks(count, index, BLOCK_SIZE=block, mask_mod=same, seq_lengths=sizes)


def xformers(q: Tensor, k: Tensor, v: Tensor, q_lengths: Lengths, k_lengths: Lengths, scale: float) -> Tensor:
    """memory_efficient_attention; what it was not built for (a GPU, a size of heads) is an InputError."""
    from xformers.ops import memory_efficient_attention

    try:
        mask = xformers_mask(q_lengths, k_lengths, q.device)
        return memory_efficient_attention(q[None], k[None], v[None], mask, scale=scale)[0]
    except NotImplementedError as error:
        raise InputError(f"kernel=xformers: {str(error).splitlines()[0]} Use sdpa.") from error


def xformers_mask(q_lengths: Lengths, k_lengths: Lengths, device: torch.device) -> BlockDiagonalMask:
    """The block-diagonal mask of a pack."""
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask

    return BlockDiagonalMask.from_seqlens(list(q_lengths), list(k_lengths), device=device)


KERNELS: dict[str, Callable[[Tensor, Tensor, Tensor, Lengths, Lengths, float], Tensor]] = {
    function.__name__: function for function in (sdpa, reference, varlen, flex, xformers)
}
