"""From prompts to videos: the whole path on one screen. Start reading at `Pipe.run`.

B clips; C, t, h, w of latents
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import videodit
from videodit.accel.step_cache import summary
from videodit.alive import doing
from videodit.checkpoint.adapters import parse
from videodit.checkpoint.find import open_pipeline
from videodit.checkpoint.parts import name_of
from videodit.decode import decode_stepping_down, ways
from videodit.errors import InputError
from videodit.flow.guidance import by_time
from videodit.flow.path import rectified
from videodit.flow.samplers import visits
from videodit.generate.layout import Layout, fitting, layouts, made_in, start
from videodit.generate.model import Model
from videodit.generate.request import Request, complete
from videodit.generate.velocity import BetweenSteps, Cancel, Progress, Runners, check_cancel, check_finite
from videodit.generate.video import Denoised, Video, finish
from videodit.models.interfaces import VAE
from videodit.nn.device import pick_device, pick_dtype
from videodit.nn.kernels import AUTO
from videodit.printable import note

VERSIONS = {"videodit": videodit.__version__, "torch": str(torch.__version__)}


@dataclass(frozen=True, eq=False)
class Pipe(Model):
    """A loaded model. `pipe(prompt, **request)` gives a Video, or a list of them for a list of prompts."""

    def __call__(
        self, prompt: str | Sequence[str], *, progress: Progress | None = None, **request: Any
    ) -> Video | list[Video]:
        """Make videos. The keys of a request: `generate.request.KEYS`.

        Prompt i of a list uses seed + i; one prompt with a list of seeds gives a video each.
        Raises InputError, naming the key, for what cannot be made.
        """
        seeds = request.get("seed")
        if isinstance(prompt, str) and isinstance(seeds, Sequence) and not isinstance(seeds, str) and seeds:
            return self.run([self.request(prompt, **{**request, "seed": seed}) for seed in seeds], progress)
        if isinstance(prompt, str):
            return self.run([self.request(prompt, **request)], progress)[0]
        if not isinstance(prompt, Sequence) or not prompt:
            raise InputError(f"prompt={prompt}: it is text, or a list of texts")
        asked = [self.request(text, **request) for text in prompt]
        return self.run([replace(one, seed=one.seed + i) for i, one in enumerate(asked)], progress)

    def request(self, prompt: str, **given: Any) -> Request:
        """A complete request from what the caller gave and the model's defaults."""
        return complete({"prompt": prompt, **given}, self.defaults, len(self.parts.experts))

    def run(
        self, requests: Sequence[Request], progress: Progress | None = None, layout: Layout | None = None,
        cancel: Cancel | None = None,
    ) -> list[Video]:  # fmt: skip
        """Requests, as `request` makes them, of any sizes -> videos. The arguments are those of `denoise`."""
        return [self.decode(one) for one in self.denoise(requests, progress, layout, cancel)]

    @torch.no_grad()
    def denoise(
        self, requests: Sequence[Request], progress: Progress | None = None, layout: Layout | None = None,
        cancel: Cancel | None = None,
    ) -> list[Denoised]:  # fmt: skip
        """Requests of any sizes -> their latents, denoised as one pack.

        With the layout of a record its one request takes the place that it had, among dummies: where sums are added
        in another order, the last bit may be another. `progress(step, steps)` is called after each step. `cancel`, a
        threading.Event or a function that says whether to stop, is asked before each step; then Cancelled is raised.
        """
        check_together(requests)
        first = requests[0]
        if first.step_cache and len(requests) > 1:  # a whole pack skips, by what all of it does: no one's recipe
            return [self.denoise([one], progress, layout, cancel)[0] for one in requests]
        layout = fitting(self, layout, requests) if layout else None
        check_cancel(cancel, "before the first step")
        with self.parts.in_use():
            with doing("encode the prompts"):
                begin = start(self, requests, layout or layouts(self, requests)[0])
            times = [self.times(first, shape) for shape in begin.shapes]
            visited = self.path.own(visits(first.sampler, times))
            runners = Runners(first.step_cache)
            experts = [
                self.expert(name, begin.context, visited, begin.scales(number), runners)
                for number, name in enumerate(self.parts.experts)
            ]
            guided = by_time(experts, self.parts.pipeline["boundary"]) if len(experts) > 1 else experts[0]
            x = [one.to(self.parts.device) for one in begin.noise]
            between = BetweenSteps(self.parts.dtype, progress, cancel)
            x = self.sampler(first.sampler)(rectified(self.path, guided), x, times, between)
        if runners.caches:
            note(__name__, summary(runners.caches))
        records = self.records(requests, layout)
        return [Denoised(x[place], *one) for place, *one in zip(begin.own, requests, records, strict=True)]

    @torch.no_grad()
    def decode(self, one: Denoised) -> Video:
        """What was denoised -> a video. Where memory runs out it goes on in smaller pieces, and says so."""
        down = ways(tuple(one.latents.shape[1:]), self.parts.device, self.options.decoding)
        with doing("decode the video"), self.parts.in_use():
            clip, way = decode_stepping_down(partial(self.parts.network, name_of(VAE)), one.latents, down)
        check_finite([clip], "vae_dtype", self.parts.vae_dtype, "the decoded clip")
        record = {**one.record, "made_with": {**one.record["made_with"], "decoding": asdict(way)}}
        return finish(clip, self.defaults["fps"], one.request, record)

    def records(self, requests: Sequence[Request], layout: Layout | None = None) -> list[dict[str, Any]]:
        """What a record will say of each request that is made now, if its latents are decoded as is meant."""
        return [
            {
                **asdict(one),
                "generated": {**asdict(made_in(place, self.stride)), "fps": self.defaults["fps"]},
                "made_with": {**self.made_with, "layout": place, "decoding": asdict(self.options.decoding)},
                "model": self.parts.name,
                "lora": self.parts.lora,
                "weights": self.parts.fingerprints,
                "versions": VERSIONS,
            }
            for one, place in zip(requests, [layout] if layout else layouts(self, requests), strict=True)
        ]

    def with_options(self, **changes: Any) -> Pipe:
        """Another pipe of the same networks that runs them with these `Options`. InputError names one that is wrong."""
        options = replace(self.options, **changes)
        self.attention.check(options.kernel)
        return Pipe(self.parts, options)


def check_together(requests: Sequence[Request]) -> None:
    """InputError where these are no requests that can be made as one pack."""
    if not requests or not all(isinstance(one, Request) for one in requests):
        raise InputError("requests: they are a list of what pipe.request(…) gives, of one at least")
    if len({one.way for one in requests}) != 1:
        raise InputError("requests made together need one sampler, one number of steps, one step_cache, one shift")


def load(
    model: str | Path = "toy",
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    vae_dtype: torch.dtype | str | None = None,
    offload: str = "auto",
    quantize: str = "",
    compiled: bool = False,
    kernel: str = AUTO,
    lora: str | Path | Mapping[Any, float] | Iterable[Any] | None = None,
    base: str = "",
) -> Pipe:
    """Open a model: a bundled or public name, a run folder, a folder or file of weights, or a hub id.

    float32 on a CPU and bfloat16 on a GPU unless `dtype` says else; `vae_dtype`: of the VAE, if not what its family
    asks for. `kernel`: of attention (`nn.kernels`). `lora`: adapters, {path: strength} or a list of paths; they are
    added to the weights as these are read. The others: see `checkpoint.find.open_pipeline`.
    """
    if not isinstance(model, str | Path):
        raise InputError(f"model={model}: it is a name or a path, as text")
    if not isinstance(compiled, bool):
        raise InputError(f"compiled={compiled}: it is True or False")
    place, vae_dtype = pick_device(device), pick_dtype(vae_dtype, "vae_dtype")
    dtype = pick_dtype(dtype) or (torch.float32 if place.type == "cpu" else torch.bfloat16)
    how = {"vae_dtype": vae_dtype, "offload": offload, "quantize": quantize, "compiled": compiled}
    parts = open_pipeline(str(model), device=str(place), dtype=dtype, lora=parse(lora), base=base, **how)
    return Pipe(parts).with_options(kernel=kernel)
