"""A loaded model, and what follows from it: sizes, noise, times, text states, and its denoisers as velocities.

C, t, h, w of latents
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor

from videodit.checkpoint.pretrained import Components
from videodit.checkpoint.texts import FOLDER, encode_alone, encode_cached, finite
from videodit.config import cache_dir
from videodit.decode import Way
from videodit.errors import InputError
from videodit.flow.guidance import classifier_free
from videodit.flow.path import PATHS, Path, Velocity
from videodit.flow.samplers import Sampler, sampler
from videodit.flow.schedules import scheduled
from videodit.flow.times import shift_of
from videodit.generate.request import Request
from videodit.generate.velocity import InContext, OnePass, Scales, TwoPasses, loop
from videodit.models.interfaces import DENOISER, VAE, Runner, run_blocks
from videodit.models.pack import Context, Ragged
from videodit.models.text import TextEncoder
from videodit.nn.device import name_of
from videodit.nn.kernels import AUTO, Use
from videodit.shapes import LatentShape, Triple, VideoShape

CHUNK = 4  # latent frames decoded at a time


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a model is run, whatever is asked of it; another choice may change the last bit.

    Args:
        passes: of a step with guidance: 1, prompt and negative in one pack, or 2, one after the other.
        decoding: how latents are decoded, as far as memory suffices for it.
        kernel: of attention, a name of `nn.kernels.KERNELS`, or "auto": the networks' own.
    """

    passes: int = 1
    decoding: Way = Way(CHUNK)
    kernel: str = AUTO

    def __post_init__(self) -> None:
        if self.passes not in (1, 2) or isinstance(self.passes, bool):
            raise InputError(f"passes={self.passes}: it is 1 or 2")


@dataclass(frozen=True, eq=False)
class Model:
    """Networks and how they are run. Nothing of it changes; threads may share the networks (`Components`)."""

    parts: Components
    options: Options = Options()

    @property
    def defaults(self) -> Mapping[str, Any]:
        """What a request has that does not say otherwise."""
        return self.parts.pipeline["defaults"]

    @property
    def path(self) -> Path:
        """From data to noise, and what the denoisers predict on it."""
        flow = self.parts.pipeline["flow"]
        return PATHS[flow["path"]](prediction=flow["prediction"])

    @property
    def patch(self) -> Triple:
        """Latent frames, rows and columns of a token."""
        return self.parts.sizes(DENOISER).patch

    @property
    def stride(self) -> Triple:
        """Frames, rows and columns of a latent."""
        return self.parts.sizes(VAE).stride

    def native(self, request: Request) -> VideoShape:
        """The shape to denoise at: to the last frame asked for at the model's own rate, at a size that it knows."""
        low, high = self.parts.pipeline["area"]
        area = request.height * request.width
        zoom = (min(max(area, low), high) / area) ** 0.5
        last = (request.frames - 1) * self.defaults["fps"] / request.fps
        frames = 1 + ceil(last - 1e-6)  # a rate such as 24000/1001 is rounded
        wanted = VideoShape(frames, max(1, round(request.height * zoom)), max(1, round(request.width * zoom)))
        return wanted.legal(self.stride, self.patch)

    def noise(self, seed: int, shape: LatentShape) -> Tensor:
        """The starting noise (C,t,h,w) of a seed: float32 from the CPU's generator, whatever the device."""
        size = (1, self.parts.sizes(VAE).latent_channels, shape.frames, shape.height, shape.width)
        return torch.randn(size, generator=torch.Generator("cpu").manual_seed(seed))[0]

    def times(self, request: Request, shape: LatentShape) -> Tensor:
        """The times (steps + 1,) at which a request's latents of this shape stop on their way."""
        shift = self.shift(shape) if request.shift is None else request.shift
        return scheduled(request.steps, shift, **self.parts.pipeline.get("schedule", {}))

    def shift(self, shape: LatentShape) -> float:
        """How far the schedule leans to the noise for latents of this shape."""
        return shift_of(self.parts.pipeline["shift"], shape.grid(self.patch).count)

    def sampler(self, name: str) -> Sampler:
        """The sampler of that name, told what the model says of its own."""
        told = self.parts.pipeline.get("solver", {}) if name == self.defaults["sampler"] else {}
        return sampler(name, **told)

    def encode(self, prompts: Sequence[str]) -> Context:
        """B prompts -> what denoisers attend to: a stream of states by each text encoder, each prompt's by itself, so
        that they are the same in any company. Where networks come and go, states are kept on disk.
        """
        return Context({encoder.name: self._states(encoder, prompts) for encoder in self.parts.text_encoders})

    def _states(self, encoder: TextEncoder, prompts: Sequence[str]) -> Ragged:
        ids, lengths = encoder.tokenizer(prompts)
        if self.parts.offload == "none":
            return finite(encode_alone(ids, lengths, encoder.network))
        weights = self.parts.parts[encoder.name].weights.fingerprint
        made_by = f"{weights}/{self.parts.dtype}/{self.parts.quantize}"
        text = encode_cached(cache_dir() / FOLDER, made_by, ids, lengths, encoder.network)
        return Ragged(text.states.to(self.parts.device), text.lengths)

    def network(self, name: str, context: Context, times: Tensor, run: Runner = run_blocks) -> Velocity:
        """A denoiser in this context as a function of (x, t); `times`: all that will come, (n,)."""
        kernel = "" if self.options.kernel == AUTO else self.options.kernel
        return InContext(self.parts, name, context, times, kernel, run)

    def expert(
        self, name: str, context: Context, times: Tensor, scales: Sequence[float], runners: Callable[[], Runner] = loop
    ) -> Velocity:
        """A denoiser in the first half of a context, guided away from the second as strongly as `scales` say."""
        count = len(scales)
        conditional = self.network(name, context.of(range(count)), times, runners())
        if self.options.passes == 2:
            negatives = context.of(range(count, 2 * count))
            both = TwoPasses(conditional, self.network(name, negatives, times, runners()))
        else:
            both = OnePass(self.network(name, context, times, runners()))
        return classifier_free(conditional, both, Scales(scales))

    @property
    def attention(self) -> Use:
        """What the denoisers' attention asks of a kernel."""
        return self.parts.sizes(DENOISER).attention(self.parts.device, self.parts.dtype, grad=False)

    @property
    def made_with(self) -> dict[str, Any]:
        """What may change the last bit, as a record keeps it, but for layout and decoding."""
        parts, on_cpu = self.parts, self.parts.device.type == "cpu"
        processor = torch.backends.cpu.get_cpu_capability() if on_cpu else torch.cuda.get_device_name(parts.device)
        kernel = "sdpa" if on_cpu and self.options.kernel == AUTO else self.options.kernel  # what auto is on a CPU
        return {
            **{"dtype": name_of(parts.dtype), "vae_dtype": name_of(parts.vae_dtype), "quantize": parts.quantize},
            **{"passes": self.options.passes, "device": parts.device.type, "offload": parts.offload},
            **{"compiled": parts.compiled, "kernel": kernel, "threads": torch.get_num_threads() if on_cpu else 0},
            "processor": processor,
        }
