"""The plan of a generation: what each stage will take, whether it fits, and if not, what would."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import torch

from videodit.checkpoint.parts import ROLES, first, of_role
from videodit.checkpoint.pretrained import Components
from videodit.decode import Way, ways
from videodit.errors import InputError
from videodit.models.interfaces import DENOISER, TEXT_ENCODER, VAE
from videodit.models.pack import Lengths
from videodit.plan.machine import GIB, Limit, Rates
from videodit.plan.stages import MARGIN, Cost, Storage, decode_cost, step_cost, text_cost
from videodit.shapes import LatentShape

CUDA_CONTEXT = 600 * 2**20  # what a process takes of a GPU before any tensor
TRACED = 2**18  # tokens of a pack that is traced whatever the limit
# Numbers that are alive at once, at most by far: of a denoiser for each token and channel (a trace counts up to 39), of
# a VAE for each pixel and channel of its widest layer (up to 0.8).
PER_TOKEN, PER_PIXEL = 64, 4
STATES = 5  # of a pack's size, that a step cache holds at most
LIBRARIES = 144 * 2**20  # of a CPU's memory: transformers, and what torch's libraries take when they first work


@dataclass(frozen=True)
class Job:
    """What is to be made: latent shapes, lengths of their prompts and negatives, calls of the DiT, whether a step cache
    keeps states between them.
    """

    shapes: tuple[LatentShape, ...]
    prompts: Lengths
    negatives: Lengths
    calls: int
    guided: bool
    cached: bool = False

    @property
    def lengths(self) -> Lengths:
        """Of the prompts, then of the negatives."""
        return {name: prompts + self.negatives[name] for name, prompts in self.prompts.items()}


@dataclass(frozen=True)
class Setup:
    """What can be chosen: which networks are open together, how weights are kept, how decoding goes."""

    offload: str
    dtype: torch.dtype
    way: Way
    quantize: str = ""
    passes: int = 1  # of a step with guidance
    vae_dtype: torch.dtype | None = None  # None: as the others


@dataclass(frozen=True)
class Stage:
    """A part of the run: most bytes of memory while it runs, and seconds (None: not estimated)."""

    name: str
    memory: int
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """All stages, the setup they are for, and the limit on memory."""

    stages: tuple[Stage, ...]
    setup: Setup
    limit: Limit

    @property
    def peak(self) -> Stage:
        """The stage that needs most."""
        return max(self.stages, key=lambda stage: stage.memory)

    @property
    def fits(self) -> bool:
        """Whether every stage stays below the limit."""
        return self.peak.memory <= self.limit.free

    def lines(self) -> list[str]:
        """As a table."""
        rows = [f"{'stage':<9}{'memory':>10}{'time':>10}"]
        for stage in self.stages:
            time = "" if stage.seconds is None else _clock(stage.seconds)
            rows.append(f"{stage.name:<9}{stage.memory / GIB:>6.2f} GiB{time:>10}")
        verdict = "fits" if self.fits else f"{self.peak.name} does not fit"
        return [*rows, f"{self.limit.free / GIB:.2f} GiB left by {self.limit.name}: {verdict}"]


class Planner:
    """Plans for a model on a device with a limit. What was traced for one setup is not traced again for the next.

    `base`: bytes that the process holds before the first stage; the limit counts them too.
    """

    def __init__(self, parts: Components, limit: Limit, *, base: int, rates: Rates | None = None) -> None:
        self.parts, self.limit, self.base, self.rates = parts, limit, base, rates
        self.device = parts.device.type
        self._costs: dict[tuple, Cost] = {}

    def plan(self, job: Job, setup: Setup) -> Plan:
        """What the job will take with this setup."""
        return Plan(tuple(self._stages(job, setup)), setup, self.limit)

    def check(self, job: Job, setup: Setup) -> None:
        """InputError for a job that does not fit, with what would. One that is small is not traced."""
        if self.at_most(job, setup) <= self.limit.free:
            return
        planned = self.plan(job, setup)
        if not planned.fits:
            raise InputError(f"{self.refusal(job, planned)} (memory=auto chooses; memory=off tries)")

    def at_most(self, job: Job, setup: Setup) -> int:
        """Bytes that no stage exceeds, without a trace."""
        vae, pixels = first(self.parts.parts, VAE).outline, 0
        for shape in job.shapes:
            clip = shape.video(vae.stride)
            pixels += clip.frames * clip.height * clip.width
        widest = max(x.shape[0] for x in vae.parameters() if x.dim() > 1)
        width = self.parts.sizes(DENOISER).width
        text = self._text(job, setup)
        each = (
            text.peak,
            PER_TOKEN * 4 * width * (self._tokens(job) * (1 + job.guided) + _total(job.lengths)),
            PER_PIXEL * 4 * widest * pixels,
        )
        others = [part for name, part in self.parts.parts.items() if ROLES[name] != TEXT_ENCODER]
        weights = text.weights + 4 * sum(x.numel() for part in others for x in part.skeleton.state_dict().values())
        return self.base + weights + max(each) + sum(self._latents_and_clips(job).values()) + self._keys(job, setup)

    def fits(self, job: Job, setup: Setup) -> bool:
        """Whether it fits; nothing is traced after the first stage that does not."""
        return all(stage.memory <= self.limit.free for stage in self._stages(job, setup))

    def _stages(self, job: Job, setup: Setup) -> Iterator[Stage]:
        costs = {"text": self._text, "denoise": self._denoise, "decode": self._decode}
        extra, least, held = self._latents_and_clips(job), self._least(job, setup), 0
        # A trace takes longer the more tokens there are: many that are too large by the least they take go untraced.
        vast = self._tokens(job) > TRACED
        vast = vast and any(self.base + extra[name] + least[name] > self.limit.free for name in costs)
        for name, trace in costs.items():
            cost = Cost(0, 0, least[name]) if vast else trace(job, setup)
            many = len(self.parts.experts) if name == "denoise" and setup.offload == "none" else 1
            weights = cost.block if setup.offload == "block" else many * cost.weights
            held = (held if setup.offload == "none" else 0) + weights
            memory = self.base + held + round(MARGIN * cost.peak) + extra[name]
            seconds = None if self.rates is None else self.rates.seconds(cost.work, round(cost.calls))
            yield Stage(name, memory, seconds)

    def choose(self, job: Job, setup: Setup) -> Plan:
        """The first setup that fits without giving up frames or precision. InputError says what would fit instead."""
        first = self.plan(job, setup)
        if first.fits:
            return first
        for other_job, other in alternatives(job, setup, self.parts.device):
            if other_job == job and _as_exact(other, setup) and self.fits(job, other):
                return self.plan(job, other)
        raise InputError(self.refusal(job, first))

    def refusal(self, job: Job, planned: Plan) -> str:
        """Why it cannot run, and the first thing that would help."""
        peak, limit = planned.peak, planned.limit
        need = f"{peak.name} needs {peak.memory / GIB:.1f} GiB, {limit.name} leaves {limit.free / GIB:.1f}"
        for other_job, setup in alternatives(job, planned.setup, self.parts.device):
            if self.fits(other_job, setup):
                return f"{need}; what would fit: {self.words(job, planned.setup, other_job, setup)}"
        return f"{need}; nothing that could be given up would help"

    def words(self, job: Job, setup: Setup, other_job: Job, other: Setup) -> str:
        """How a job and a setup differ from others."""
        found = [f"offload={other.offload}"] if other.offload != setup.offload else []
        found += [f"quantize={other.quantize}"] if other.quantize != setup.quantize else []
        for key in ("dtype", "vae_dtype"):
            value = getattr(other, key)
            found += [f"{key}={str(value).removeprefix('torch.')}"] if value != getattr(setup, key) else []
        found += [f"passes={other.passes}"] if other.passes != setup.passes else []
        found += [f"decoding {other.way}"] if other.way != setup.way else []
        if other_job != job:
            most = max(shape.video(self.parts.sizes(VAE).stride).frames for shape in other_job.shapes)
            found += [f"frames={most}"]
        return " and ".join(found)

    def _text(self, job: Job, setup: Setup) -> Cost:
        storage, parts = self._storage(setup), self.parts.parts
        costs = [text_cost(parts[name], job.lengths[name], storage) for name in of_role(parts, TEXT_ENCODER)]
        cost = _one_after_another(costs)
        return replace(cost, weights=sum(one.weights for one in costs)) if setup.offload == "none" else cost

    def _denoise(self, job: Job, setup: Setup) -> Cost:
        together = job.guided and setup.passes == 1
        longer = max(job.prompts, job.negatives if job.guided else {}, key=_total)
        shapes, lengths = (job.shapes * 2, job.lengths) if together else (job.shapes, longer)
        calls = job.calls * (1 + (job.guided and setup.passes == 2))
        cost = partial(step_cost, first(self.parts.parts, DENOISER), shapes, lengths)
        cost = self._once((DENOISER, shapes, tuple(lengths.items())), cost, setup).times(calls)
        dit = self.parts.sizes(DENOISER)
        tokens = len(shapes) // len(job.shapes) * self._tokens(job)
        states = STATES * tokens * dit.width * setup.dtype.itemsize if job.cached else 0
        states *= 1 + (job.guided and setup.passes == 2)
        return replace(cost, peak=cost.peak + states + self._keys(job, setup))

    def _keys(self, job: Job, setup: Setup) -> int:
        """Bytes of what every denoiser keeps from step to step, unless its blocks go."""
        if setup.offload == "block":
            return 0
        lengths = job.lengths if job.guided else job.prompts
        values = first(self.parts.parts, DENOISER).skeleton.kept(lengths)
        return values * setup.dtype.itemsize * len(self.parts.experts)

    def _decode(self, job: Job, setup: Setup) -> Cost:
        vae, way = first(self.parts.parts, VAE), setup.way
        plain = replace(setup, quantize="", dtype=setup.vae_dtype or setup.dtype)
        costs = [self._once((VAE, s, way), partial(decode_cost, vae, s, way), plain) for s in job.shapes]
        return _one_after_another(costs)

    def _storage(self, setup: Setup) -> Storage:
        return Storage(self.device, setup.dtype, setup.quantize == "int8")

    def _once(self, key: tuple, trace: Callable[[Storage], Cost], setup: Setup) -> Cost:
        storage = self._storage(setup)
        if (key, storage) not in self._costs:
            self._costs[key, storage] = trace(storage)
        return self._costs[key, storage]

    def _least(self, job: Job, setup: Setup) -> dict[str, int]:
        """Bytes that a stage's activations take at least: a block's tokens, and their queries, keys and values."""
        values = 4 * self._tokens(job) * self.parts.sizes(DENOISER).width
        return {"text": 0, "denoise": values * setup.dtype.itemsize, "decode": 0}

    def _tokens(self, job: Job) -> int:
        return sum(shape.grid(self.parts.sizes(DENOISER).patch).count for shape in job.shapes)

    def _latents_and_clips(self, job: Job) -> dict[str, int]:
        """Bytes beside the networks: a sampler's latents, and the clip that is put together on the CPU."""
        vae = self.parts.sizes(VAE)
        latents = sum(4 * vae.latent_channels * s.frames * s.height * s.width for s in job.shapes)
        clips = [shape.video(vae.stride) for shape in job.shapes]
        pixels = sum(12 * clip.frames * clip.height * clip.width for clip in clips)
        return {"text": 0, "denoise": 6 * latents, "decode": latents + (2 * pixels if self.device == "cpu" else 0)}


def alternatives(job: Job, setup: Setup, device: torch.device) -> Iterator[tuple[Job, Setup]]:
    """What could be done instead, the least painful first."""
    shape = max(job.shapes, key=lambda one: one.frames * one.height * one.width)
    down = [way for way in ways((shape.frames, shape.height, shape.width), device, setup.way) if not way.device]
    offloads = {"none": ["none", "model", "block"], "model": ["model", "block"], "block": ["block"]}[setup.offload]
    exact, tiled = ([way for way in down if bool(way.tile) == on] for on in (False, True))
    passes = (1, 2) if job.guided and setup.passes == 1 else (setup.passes,)
    for quantize, some in product(dict.fromkeys((setup.quantize, "int8")), (exact, tiled)):
        kept = [name for name in offloads if not quantize or name != "block"]  # where 8 bits save nothing
        for offload, count, way in product(kept, passes, some):
            other = replace(setup, offload=offload, way=way, quantize=quantize, passes=count)
            if other != setup:
                yield job, other
    low = replace(setup, offload="block", quantize="", way=down[-1], passes=passes[-1])
    if torch.float32 in (setup.dtype, setup.vae_dtype):
        half = torch.bfloat16 if setup.dtype == torch.float32 else setup.dtype
        low = replace(low, dtype=half, vae_dtype=half if setup.vae_dtype else None)
        yield job, low
    for frames in _halves(shape.frames):
        cut = tuple(replace(one, frames=min(one.frames, frames)) for one in job.shapes)
        yield replace(job, shapes=cut), low


def base_memory(device: torch.device, resident: int) -> int:
    """Bytes that the process takes beside weights and activations."""
    return CUDA_CONTEXT if device.type == "cuda" else resident + LIBRARIES


def _as_exact(one: Setup, other: Setup) -> bool:
    """Whether two setups keep weights in the same types."""
    return (one.dtype, one.vae_dtype, one.quantize) == (other.dtype, other.vae_dtype, other.quantize)


def _one_after_another(costs: Sequence[Cost]) -> Cost:
    work: dict[str, float] = {}
    for cost in costs:
        for kind, amount in cost.work.items():
            work[kind] = work.get(kind, 0) + amount
    most = (max(getattr(cost, key) for cost in costs) for key in ("weights", "block", "peak"))
    return Cost(*most, work, sum(cost.calls for cost in costs))


def _total(lengths: Lengths) -> int:
    return sum(map(sum, lengths.values()))


def _halves(frames: int) -> Iterator[int]:
    while frames > 1:
        frames = (frames + 1) // 2
        yield frames


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
