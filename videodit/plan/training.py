"""What a training step will need: the networks' forward and backward pass on tensors without values.

B clips
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from videodit.checkpoint.parts import of_role
from videodit.errors import InputError
from videodit.models.build import rebuild
from videodit.models.interfaces import DENOISER, TEXT_ENCODER, VAE, Denoiser
from videodit.models.pack import Context, Lengths, Times
from videodit.plan.machine import GIB, Limit, Rates
from videodit.plan.stages import MARGIN, Cost, Storage, by_blocks, measured, zeros
from videodit.plan.trace import Trace
from videodit.shapes import LatentShape, VideoShape


@dataclass(frozen=True)
class Training:
    """How a run trains: type of its matmuls, what is frozen, Muon for the blocks' matrices or not, batches a step.

    shards: processes that hold a part of the DiT's weights each. context: processes that share a batch's tokens.
    change: what is done to the networks before they train: an adapter, blocks that compute again what they forgot.
    teacher: weights and work for each batch of a model whose steps are taught.
    kept: type of the weights that do not train.
    """

    precision: torch.dtype
    frozen: tuple[str, ...]
    muon: bool
    accumulate: int = 1
    shards: int = 1
    context: int = 1
    change: Callable[[nn.ModuleDict], None] | None = None
    teacher: Cost | None = None
    kept: torch.dtype = torch.float32


@dataclass(frozen=True)
class StepPlan:
    """Bytes that stay from step to step (weights, averages, optimizer), the most beside them, those of a checkpoint;
    work and calls as `Rates.seconds` takes them.
    """

    state: int
    peak: int
    checkpoint: int
    work: Mapping[str, float]
    calls: int
    precision: torch.dtype

    def line(self, base: int, rates: Rates | None) -> str:
        """In words; `base`: what the process holds beside them."""
        seconds = 0.0 if rates is None else rates.seconds(dict(self.work), self.calls)
        time = f", about {seconds:.2g} s" if 0 < seconds < 10 else f", about {seconds:.0f} s" if seconds else ""
        return (
            f"a step: up to {(base + self.state + self.peak) / GIB:.2f} GiB{time}; weights, averages and optimizer "
            f"{self.state / GIB:.2f} GiB; a checkpoint {self.checkpoint / GIB:.2f} GiB"
        )

    def check(self, base: int, limit: Limit) -> None:
        """InputError if a step would not fit."""
        need = base + self.state + self.peak
        if need > limit.free:
            raise InputError(
                f"a training step needs {need / GIB:.1f} GiB, {self.state / GIB:.1f} of it for weights, averages and "
                f"optimizer; {limit.name} leaves {limit.free / GIB:.1f}: a smaller model or smaller packs or crops fit"
            )


def dit_step(specs: Mapping[str, Any], shapes: Sequence[LatentShape], words: Lengths, how: Training) -> StepPlan:
    """A step of the DiT and its text encoders over clips of these shapes with captions of so many tokens.

    The states of captions by a text encoder that is not in `specs` are at hand.
    """
    [name], encoders = of_role(specs, DENOISER), of_role(specs, TEXT_ENCODER)
    times = Times.per_clip(torch.linspace(0.1, 0.9, len(shapes), dtype=torch.float64))

    def run(networks: nn.ModuleDict) -> None:
        network = networks[name]
        at = next(network.parameters()).device
        pack, context = zeros(network, shapes, words, torch.float32, at)
        for encoder in encoders:
            ids = torch.zeros(sum(words[encoder]), dtype=torch.long, device=at)
            context = Context({**context.streams, encoder: networks[encoder](ids, words[encoder])})
        out = network(pack, times, network.prepare(context, pack))
        (out.float() - torch.zeros_like(out)).square().mean(dim=1).mean().backward()

    return _plan(by_blocks(specs[name], lambda spec: _traced({**specs, name: spec}, run, how)), specs, how)


def vae_step(spec: Mapping[str, Any], crops: Sequence[tuple[int, VideoShape]], how: Training) -> StepPlan:
    """A step of the VAE, without a critic, over one of these kinds of crops, (how many, shape): what takes most."""

    def traced(count: int, shape: VideoShape) -> Cost:
        def run(networks: nn.ModuleDict) -> None:
            vae = networks[VAE]
            clips = torch.zeros(count, 3, shape.frames, shape.height, shape.width, device=vae.mean.device)
            mean, _ = vae.posterior(clips)
            left = vae.reconstruct(mean.float() + torch.zeros_like(mean)).float() - clips
            (left.square().mean() + left.abs().mean() + mean.float().square().mean()).backward()

        return _traced({VAE: spec}, run, how)

    costs = [traced(count, shape) for count, shape in crops]
    return _plan(max(costs, key=lambda cost: cost.peak), {VAE: spec}, how)


def _plan(cost: Cost, specs: Mapping[str, Any], how: Training) -> StepPlan:
    weights, trained, momenta = _state(specs, how)
    state = weights + trained + momenta
    whole = _state(specs, replace(how, shards=1))[1]
    activations = max(cost.peak - whole, 0) / how.context
    # Where batches add up, the gradients of those before are there already. Where weights are sharded, two blocks' are
    # together at a time, and the gradients of one.
    gradients = trained * (2 if how.accumulate > 1 else 1)
    blocks = 0 if how.shards == 1 else 3 * _block(specs, how)
    peak = round(MARGIN * (activations + gradients + blocks))
    peak = max(peak, _state(specs, replace(how, shards=1))[0] - state)  # at the start all weights are here, and no more
    work, calls = Counter(cost.times(how.accumulate / how.context).work), cost.calls * how.accumulate / how.context
    if (taught := how.teacher) is not None:
        state, peak = state + taught.weights, max(peak, round(MARGIN * taught.peak))
        work.update(taught.times(how.accumulate).work)
        calls += taught.calls * how.accumulate
    return StepPlan(state, peak, 2 * trained + momenta, work, round(calls), how.precision)


def held(specs: Mapping[str, Any], how: Training) -> int:
    """Bytes in one process of weights, gradients, averages and the optimizer's state."""
    weights, trained, momenta = _state(specs, how)
    return weights + 2 * trained + momenta


def _state(specs: Mapping[str, Any], how: Training) -> tuple[int, int, int]:
    """Bytes, in one process, of the weights, of those that are trained, and of the optimizer's state."""
    networks = _module(specs, how)
    named = dict(networks.named_parameters())
    denoisers = [part for part in networks.values() if isinstance(part, Denoiser)]
    cut = {id(parameter) for part in denoisers for parameter in part.parameters()}
    here = {name: _share(p, how.shards) if id(p) in cut else p.numel() for name, p in named.items()}
    trained = {name: p for name, p in named.items() if p.requires_grad}
    # Muon keeps one value, and takes the matrices of the denoiser's blocks.
    blocks = [block for part in denoisers for block in part.blocks_of_all()]
    single = {id(p) for block in blocks for p in block.parameters() if how.muon and p.dim() == 2}
    momenta = sum((1 if id(p) in single else 2) * here[name] for name, p in trained.items())
    weights = sum(here[name] * p.element_size() for name, p in named.items())
    return weights, 4 * sum(here[name] for name in trained), 4 * momenta


def _share(parameter: nn.Parameter, shards: int) -> int:
    """Numbers of a sharded parameter in the first process: its rows are cut into equal parts as far as they go."""
    rows = parameter.shape[0]
    return -(-rows // shards) * (parameter.numel() // rows)


def _block(specs: Mapping[str, Any], how: Training) -> int:
    """Bytes of the weights of the largest block, whole, as they are gathered. A VAE is not sharded."""
    networks = [part for part in _module(specs, how).values() if isinstance(part, Denoiser)]
    sizes = [sum(p.numel() for p in block.parameters()) for part in networks for block in part.blocks_of_all()]
    return how.precision.itemsize * max(sizes, default=0)


def _module(specs: Mapping[str, Any], how: Training) -> nn.ModuleDict:
    """The networks as they train, on the meta device."""
    with torch.device("meta"):
        networks = nn.ModuleDict({n: rebuild(spec["architecture"], spec["arguments"]) for n, spec in specs.items()})
    whole = networks[VAE] if VAE in networks else networks
    for name, parameter in whole.named_parameters():
        parameter.requires_grad_(not any(name.startswith(f"{part}.") for part in how.frozen))
    if how.change is not None:
        how.change(networks)
    for parameter in networks.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(how.kept)
    return networks


def _traced(specs: Mapping[str, Any], run: Callable[[nn.ModuleDict], None], how: Training) -> Cost:
    """Forward and backward in one."""

    def inside(networks: Any, trace: Trace, at: torch.device) -> None:
        with nullcontext() if how.precision == torch.float32 else torch.autocast("cpu", how.precision):
            run(networks)

    return measured(_module(specs, how), inside, Storage("cpu", None), grad=True)
