"""The stages of a generation, each with the memory and the work it takes, by a trace of the networks themselves.

The blocks of a transformer are alike, so it is traced with one and with two blocks and the rest follows; the chunks of
a stream are alike after the second, so three are traced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from videodit.checkpoint.pretrained import Part
from videodit.decode import Way, tiles
from videodit.models.build import rebuild
from videodit.models.pack import Text, patchify
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


def text_cost(part: Part, lengths: Sequence[int], *, device: str, dtype: torch.dtype) -> Cost:
    """One pass over prompts of these lengths."""

    def run(model: Any, trace: Trace, at: torch.device) -> None:
        model(torch.zeros(sum(lengths), dtype=torch.long, device=at), tuple(lengths))

    return _by_layers(part, run, device, dtype)


def step_cost(
    part: Part, shapes: Sequence[LatentShape], lengths: Sequence[int], *, device: str, dtype: torch.dtype
) -> Cost:
    """One call of the DiT for clips of these latent shapes under prompts of these lengths, a clip for each."""
    arguments = part.outline.spec["arguments"]

    def run(model: Any, trace: Trace, at: torch.device) -> None:
        sizes = [(arguments["channels"], one.frames, one.height, one.width) for one in shapes]
        states = torch.zeros(sum(lengths), arguments["text_dim"], dtype=dtype, device=at)
        latents = [torch.zeros(size, device=at) for size in sizes]
        pack = patchify([x.to(dtype) for x in latents], model.patch)
        model(pack, torch.full((len(shapes),), 0.5, device=at), Text(states, tuple(lengths)))

    return _by_layers(part, run, device, dtype)


def decode_cost(part: Part, shape: LatentShape, way: Way, *, device: str, dtype: torch.dtype) -> Cost:
    """Decoding latents of this shape in this way; the finished clip, on the CPU, is not counted."""
    arguments = part.outline.spec["arguments"]
    chunk = way.chunk or shape.frames
    tile = way.tile or max(shape.height, shape.width)
    count = tiles(shape.height, tile) * tiles(shape.width, tile)
    size = (min(tile, shape.height), min(tile, shape.width))

    def traced(frames: int) -> Cost:
        def run(model: Any, trace: Trace, at: torch.device) -> None:
            latents = torch.zeros(1, arguments["latent_channels"], frames, *size, device=at, dtype=dtype)
            for _ in model.decode_chunks(latents, chunk):
                pass

        return _trace(part.spec, run, device, dtype)

    counts = [min(n * chunk, shape.frames) for n in (2, 3)]
    two, three = (traced(frames) for frames in counts)
    more = (shape.frames - counts[1]) / max(1, counts[1] - counts[0])
    return _extrapolate(two, three, 1 + more).times(count)


def _by_layers(part: Part, run: Run, device: str, dtype: torch.dtype) -> Cost:
    arguments = part.spec["arguments"]
    one, two = (_trace({**part.spec, "arguments": {**arguments, "layers": n}}, run, device, dtype) for n in (1, 2))
    whole = _extrapolate(one, two, arguments["layers"] - 1)
    return replace(whole, block=one.weights)


def _extrapolate(first: Cost, second: Cost, steps: float) -> Cost:
    """first + steps * (second - first)."""

    def line(a: float, b: float) -> float:
        return a + steps * (b - a)

    kinds = first.work.keys() | second.work.keys()
    work = {kind: line(first.work.get(kind, 0), second.work.get(kind, 0)) for kind in kinds}
    peak = max(first.peak, second.peak, round(line(first.peak, second.peak)))
    weights = round(line(first.weights, second.weights))
    return Cost(weights, weights, peak, work, line(first.calls, second.calls))


def _trace(spec: Any, run: Run, device: str, dtype: torch.dtype) -> Cost:
    with torch.device("meta"):
        model: nn.Module = rebuild(spec["architecture"], spec["arguments"]).eval().requires_grad_(False)
    sizes = {name: (x.shape, x.is_floating_point(), x.dtype) for name, x in model.state_dict().items()}
    with tracing(device) as (trace, at):
        state = {
            name: torch.empty(shape, dtype=dtype if floating else kind, device=at)
            for name, (shape, floating, kind) in sizes.items()
        }
        model.load_state_dict(state, assign=True)
        weights = trace.alive
        trace.peak, trace.work, trace.calls = weights, Counter(), 0
        run(model, trace, at)
        return Cost(weights, weights, trace.peak - weights, dict(trace.work), trace.calls)

