"""The stages of a generation, each with the memory and the work it takes, by a trace of the networks themselves.

The blocks of a transformer are alike, so it is traced with one and with two blocks and the rest follows; the chunks of
a stream are alike after the second, so three are traced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from videodit.checkpoint.pretrained import Part
from videodit.decode import Way, tiles
from videodit.models.build import rebuild
from videodit.models.pack import Text, patchify
from videodit.nn.int8 import suits_int8
from videodit.plan.trace import Trace, tracing
from videodit.shapes import LatentShape

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
    """Where a network is and how its weights are kept: `int8` is of the matrices of its blocks."""

    device: str
    dtype: torch.dtype
    int8: bool = False


def text_cost(part: Part, lengths: Sequence[int], storage: Storage) -> Cost:
    """One pass over prompts of these lengths."""

    def run(model: Any, trace: Trace, at: torch.device) -> None:
        model(torch.zeros(sum(lengths), dtype=torch.long, device=at), tuple(lengths))

    return _by_layers(part, run, storage)


def step_cost(part: Part, shapes: Sequence[LatentShape], lengths: Sequence[int], storage: Storage) -> Cost:
    """One call of the DiT for clips of these latent shapes under prompts of these lengths, a clip for each."""
    arguments, dtype = part.outline.spec["arguments"], storage.dtype

    def run(model: Any, trace: Trace, at: torch.device) -> None:
        sizes = [(arguments["channels"], one.frames, one.height, one.width) for one in shapes]
        states = torch.zeros(sum(lengths), arguments["text_dim"], dtype=dtype, device=at)
        latents = [torch.zeros(size, device=at) for size in sizes]
        pack = patchify([x.to(dtype) for x in latents], model.patch)
        model(pack, torch.full((len(shapes),), 0.5, device=at), Text(states, tuple(lengths)))

    return _by_layers(part, run, storage)


def decode_cost(part: Part, shape: LatentShape, way: Way, storage: Storage) -> Cost:
    """Decoding latents of this shape in this way; the finished clip, on the CPU, is not counted."""
    arguments = part.outline.spec["arguments"]
    chunk = way.chunk or shape.frames
    tile = way.tile or max(shape.height, shape.width)
    count = tiles(shape.height, tile) * tiles(shape.width, tile)
    size = (min(tile, shape.height), min(tile, shape.width))

    def traced(frames: int) -> Cost:
        def run(model: Any, trace: Trace, at: torch.device) -> None:
            latents = torch.zeros(1, arguments["latent_channels"], frames, *size, device=at, dtype=storage.dtype)
            for _ in model.decode_chunks(latents, chunk):
                pass

        return _trace(part.spec, run, storage)

    counts = [min(n * chunk, shape.frames) for n in (2, 3)]
    two, three = (traced(frames) for frames in counts)
    more = (shape.frames - counts[1]) / max(1, counts[1] - counts[0])
    return extrapolate(two, three, 1 + more).times(count)


def _by_layers(part: Part, run: Run, storage: Storage) -> Cost:
    arguments = part.spec["arguments"]
    one, two = (_trace({**part.spec, "arguments": {**arguments, "layers": n}}, run, storage) for n in (1, 2))
    whole = extrapolate(one, two, arguments["layers"] - 1)
    return replace(whole, block=one.weights)


def extrapolate(first: Cost, second: Cost, steps: float) -> Cost:
    """first + steps * (second - first)."""

    def line(a: float, b: float) -> float:
        return a + steps * (b - a)

    kinds = first.work.keys() | second.work.keys()
    work = {kind: line(first.work.get(kind, 0), second.work.get(kind, 0)) for kind in kinds}
    peak = max(first.peak, second.peak, round(line(first.peak, second.peak)))
    weights = round(line(first.weights, second.weights))
    return Cost(weights, weights, peak, work, line(first.calls, second.calls))


def _trace(spec: Any, run: Run, storage: Storage) -> Cost:
    with torch.device("meta"):
        model: nn.Module = rebuild(spec["architecture"], spec["arguments"]).eval().requires_grad_(False)
    sizes = {name: (x.shape, x.is_floating_point(), x.dtype) for name, x in model.state_dict().items()}
    with tracing(storage.device) as (trace, at):
        state = {
            name: torch.empty(shape, dtype=storage.dtype if floating else kind, device=at)
            for name, (shape, floating, kind) in sizes.items()
        }
        model.load_state_dict(state, assign=True)
        weights = trace.alive
        trace.restart()
        run(model, trace, at)
        peak = trace.peak - weights
        if storage.int8 and hasattr(model, "BLOCKS"):
            saved, widest = _int8(state, model.BLOCKS)
            weights, peak = weights - saved, peak + widest
        return Cost(weights, weights, peak, dict(trace.work), trace.calls)


def _int8(state: Mapping[str, torch.Tensor], blocks: str) -> tuple[int, int]:
    """Bytes that 8-bit matrices save, and those of the largest as a product brings it back to its type."""
    matrices = [x for name, x in state.items() if name.startswith(f"{blocks}.") and suits_int8(name, x)]
    saved = sum((x.element_size() - 1) * x.numel() - x.element_size() * x.shape[0] for x in matrices)
    return saved, max((x.element_size() * x.numel() for x in matrices), default=0)

