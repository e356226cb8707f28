"""The stages of a generation, each with the memory and the work it takes, by a trace of the networks themselves.

The blocks of a transformer are alike, so it is traced with one and with two blocks and the rest follows; the chunks of
a stream are alike after the second, so two are traced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
from torch import nn

from videodit.accel.int8 import suits_int8
from videodit.checkpoint.pretrained import Part
from videodit.decode import Way, tiles
from videodit.models.build import depths_of, with_depths, without_weights
from videodit.models.interfaces import Denoiser
from videodit.models.pack import Context, Lengths, Pack, Ragged, Times, patchify
from videodit.plan.trace import Trace, tracing
from videodit.shapes import LatentShape

MARGIN = 1.05  # on what a trace counts: allocators round up and fragment
BUCKETS = 32  # distances that T5's position biases tell apart
Run = Callable[[Any, Trace, torch.device], None]


@dataclass(frozen=True)
class Cost:
    """Bytes: of weights, of those there when blocks come one by one, most alive beside them. Operations, and calls."""

    weights: int
    block: int
    peak: int
    work: dict[str, float] = field(default_factory=dict)
    calls: float = 0

    def times(self, count: float) -> Cost:
        """The same work `count` times, one after the other."""
        work = {kind: amount * count for kind, amount in self.work.items()}
        return replace(self, work=work, calls=self.calls * count)


@dataclass(frozen=True)
class Storage:
    """Where a network is and how its weights are kept: in their own types if none is given; `int8` is of the matrices
    of its blocks.
    """

    device: str
    dtype: torch.dtype | None
    int8: bool = False


def text_cost(part: Part, lengths: Sequence[int], storage: Storage) -> Cost:
    """A pass for each prompt, of these lengths, by counting: building the network would load transformers."""
    a = part.spec["arguments"]
    dim, inner, ffn, layers, size = a["dim"], a["heads"] * a["head_dim"], a["ffn"], a["layers"], storage.dtype.itemsize
    matrices = [(inner, dim)] * 3 + [(dim, inner)] + [(ffn, dim)] * 2 + [(dim, ffn)]
    numbers = sum(map(prod, matrices))
    biases = BUCKETS * a["heads"]
    block = size * (numbers + 2 * dim + (biases if a["bias_per_layer"] else 0))
    around = size * (a["vocabulary"] * dim + dim + (0 if a["bias_per_layer"] else biases))
    most = max(lengths)
    peak = 4 * (most * (3 * dim + 2 * inner + 3 * ffn) + most**2 * (1 + 3 * a["heads"]))  # norms, biases in float32
    saved, widest = _by_int8([(".weight", shape) for shape in matrices], storage)
    block, peak = block - saved, peak + widest
    work = {
        "matmul": 2.0 * numbers * layers * sum(lengths),
        "attention": 4.0 * inner * layers * sum(length**2 for length in lengths),
        "bytes": 60.0 * size * dim * layers * sum(lengths),
    }
    return Cost(around + layers * block, around + block, peak, work, 60.0 * layers * len(lengths))


def step_cost(part: Part, shapes: Sequence[LatentShape], lengths: Lengths, storage: Storage) -> Cost:
    """One call of the DiT for clips of these latent shapes under prompts of these lengths, a clip for each."""
    times = Times.per_clip(torch.linspace(0.1, 0.9, len(shapes), dtype=torch.float64))

    def run(model: Any, trace: Trace, at: torch.device) -> None:
        pack, context = zeros(model, shapes, lengths, storage.dtype, at)
        model(pack, times, model.prepare(context, pack))

    return by_blocks(part.spec, lambda spec: trace_network(spec, run, storage))


def zeros(
    network: Denoiser, shapes: Sequence[LatentShape], lengths: Lengths, dtype: torch.dtype, at: torch.device
) -> tuple[Pack, Context]:
    """A pack of clips of these latent shapes, and a context with so many states in the streams that are read."""
    latents = [torch.zeros(network.channels, s.frames, s.height, s.width, device=at) for s in shapes]
    pack = patchify([x.to(dtype) for x in latents], network.patch)
    streams = {
        name: Ragged(torch.zeros(sum(lengths[name]), stream.width, dtype=dtype, device=at), lengths[name])
        for name, stream in network.streams.items()
    }
    return pack, Context(streams)


def decode_cost(part: Part, shape: LatentShape, way: Way, storage: Storage) -> Cost:
    """Decoding latents of this shape in this way; the finished clip, on the CPU, is not counted."""
    arguments = part.outline.spec["arguments"]
    chunk = way.chunk or shape.frames
    tile = way.tile or max(shape.height, shape.width)
    count = tiles(shape.height, tile) * tiles(shape.width, tile)
    size = (min(tile, shape.height), min(tile, shape.width))

    work: list[dict[str, float]] = []

    def run(model: Any, trace: Trace, at: torch.device) -> None:
        frames = min(2 * chunk, shape.frames)
        latents = torch.zeros(1, arguments["latent_channels"], frames, *size, device=at, dtype=storage.dtype)
        for _ in model.decode_chunks(latents, chunk):
            work.append({**trace.work, "calls": trace.calls})

    cost = trace_network(part.spec, run, storage)
    first, last = work[0], work[-1]  # every chunk after the first is like the second
    more = (shape.frames - chunk) / max(1, min(chunk, shape.frames - chunk))
    total = {kind: first.get(kind, 0) + more * (amount - first.get(kind, 0)) for kind, amount in last.items()}
    return replace(cost, calls=total.pop("calls"), work=total).times(count)


def by_blocks(spec: Mapping[str, Any], trace: Callable[[Mapping[str, Any]], Cost]) -> Cost:
    """What a network costs, by traces of it with one and with two blocks in each stack, which are alike."""
    one, total = trace(with_depths(spec)), Counter[str]()
    weights, peak, calls, peaks = float(one.weights), float(one.peak), one.calls, [one.peak]
    total.update(one.work)
    for stack, count in depths_of(spec).items():
        two = trace(with_depths(spec, {stack: 2}))
        for kind in two.work:
            total[kind] += (count - 1) * (two.work[kind] - one.work.get(kind, 0))
        weights += (count - 1) * (two.weights - one.weights)
        peak += (count - 1) * (two.peak - one.peak)
        calls += (count - 1) * (two.calls - one.calls)
        peaks.append(two.peak)
    return Cost(round(weights), one.weights, max(*peaks, round(peak)), dict(total), calls)


def trace_network(spec: Mapping[str, Any], run: Run, storage: Storage) -> Cost:
    """A run of the network that a checkpoint describes, kept as `storage` says."""
    model = without_weights(spec).eval().requires_grad_(False)
    stacks = tuple(f"{stack}." for stack in model.STACKS)
    inside = [(name, tuple(x.shape)) for name, x in model.named_parameters() if name.startswith(stacks)]
    cost, (saved, widest) = measured(model, run, storage), _by_int8(inside, storage)
    weights = cost.weights - saved
    return replace(cost, weights=weights, block=weights, peak=cost.peak + widest)


def measured(model: nn.Module, run: Run, storage: Storage, *, grad: bool = False) -> Cost:
    """A run of a network that is on the meta device; with `grad` its backward pass as well, if the run asks for it."""
    sizes = {name: (x.shape, x.is_floating_point(), x.dtype) for name, x in model.state_dict().items()}
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    with tracing(storage.device, grad=grad) as (trace, at):
        state = {
            name: torch.empty(shape, dtype=(storage.dtype if floating else None) or kind, device=at)
            for name, (shape, floating, kind) in sizes.items()
        }
        model.load_state_dict(state, assign=True)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trained[name])
        del state
        weights = trace.alive
        trace.restart()
        run(model, trace, at)
        return Cost(weights, weights, trace.peak - weights, dict(trace.work), trace.calls)


def _by_int8(tensors: Sequence[tuple[str, tuple[int, ...]]], storage: Storage) -> tuple[int, int]:
    """Bytes that 8-bit matrices save, and those of the largest as a product brings it back to its type."""
    shapes = [shape for name, shape in tensors if suits_int8(name, shape)] if storage.int8 else []
    size = storage.dtype.itemsize
    saved = sum((size - 1) * prod(shape) - size * shape[0] for shape in shapes)
    return saved, size * max(map(prod, shapes), default=0)
