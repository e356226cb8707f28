"""From prompts to videos: the whole path on one screen. Start reading at `Pipe.run`.

B clips; C, t, h, w of latents; T, H, W of clips
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import videodit
from videodit.alive import doing
from videodit.checkpoint.adapters import parse
from videodit.checkpoint.find import open_pipeline
from videodit.checkpoint.pretrained import Components
from videodit.checkpoint.texts import encode_alone, encode_cached, finite
from videodit.config import cache_dir
from videodit.data.resize import resize, retime
from videodit.data.sample import to_frames
from videodit.data.video import beside, check_place, replacing, target, write
from videodit.decode import Tell, Way, decode_stepping_down, ways
from videodit.errors import InputError
from videodit.flow.guidance import by_time, classifier_free
from videodit.flow.path import PATHS, Velocity, rectified
from videodit.flow.samplers import Sampler, sampler, visits
from videodit.flow.schedules import scheduled
from videodit.flow.times import shift_of
from videodit.models.interfaces import Runner, run_blocks
from videodit.models.pack import Context, Ragged, Times, patchify, unpatchify
from videodit.models.text import LONGEST
from videodit.nn.device import name_of, pick_device, pick_dtype
from videodit.nn.kernels import AUTO, Use
from videodit.nn.stepcache import StepCache, summary
from videodit.record import Layout, among_dummies, check_layout, made_in
from videodit.request import Request, complete
from videodit.shapes import LatentShape, Triple, VideoShape

CHUNK = 4  # latent frames decoded at a time
VERSIONS = {"videodit": videodit.__version__, "torch": str(torch.__version__)}
Progress = Callable[[int, int], None]  # (steps done, steps in all)
NewRunner = Callable[[], Runner]  # of blocks, one for each network and its context


class Video:
    """A generated clip (3,T,H,W) float32 in [-1,1], its frames per second, and the record of how it was made."""

    def __init__(self, clip: Tensor, fps: float, record: dict[str, Any]) -> None:
        self.clip, self.fps, self.record = clip, fps, record

    @property
    def frames(self) -> np.ndarray:
        """uint8 (T,H,W,3)."""
        return to_frames(self.clip)

    def save(self, path: str | Path) -> Path:
        """Write .mp4 .webm .gif .webp, of one frame .png .jpg, or with `/` at the end a folder of frames. The record is
        in it, and again as PATH.json beside it. InputError where that would replace what is none.
        """
        if not isinstance(path, str | Path):
            raise InputError(f"path={path}: name a file, such as video.mp4")
        path = target(path)
        check_place(path)
        record = json.dumps(self.record, ensure_ascii=False, indent=2)
        write(path, self.frames, self.fps, metadata={"comment": record})
        if path.suffix:
            with replacing(beside(path)) as temporary:
                temporary.write_text(record + "\n", encoding="utf-8")
        return path


class Pipe:
    """A loaded model. `pipe(prompt, **request)` gives a Video, or a list of them for a list of prompts."""

    def __init__(self, parts: Components) -> None:
        self.parts = parts
        self.defaults = parts.pipeline["defaults"]
        flow = parts.pipeline["flow"]
        self.path = PATHS[flow["path"]](prediction=flow["prediction"])
        self.way = Way(CHUNK)  # of decoding
        self.passes = 1  # of a step with guidance: prompt and negative in one pack, or 2, one after the other

    def __call__(
        self, prompt: str | Sequence[str], *, progress: Progress | None = None, **request: Any
    ) -> Video | list[Video]:
        """Make videos. Keys: negative width height size frames seconds fps aspect preset fit seed steps guidance
        sampler step_cache shift.

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

    def run(
        self, requests: Sequence[Request], progress: Progress | None = None, layout: Layout | None = None
    ) -> list[Video]:
        """Requests, as `request` makes them, of any sizes -> videos. `layout`: see `denoise`."""
        if not requests or not all(isinstance(one, Request) for one in requests):
            raise InputError("requests: they are a list of what pipe.request(…) gives, of one at least")
        latents = self.denoise(requests, progress, layout=layout)
        return self.decode(latents, requests, None, self.records(requests, layout))

    @torch.no_grad()
    def denoise(
        self,
        requests: Sequence[Request],
        progress: Progress | None = None,
        tell: Tell | None = None,
        layout: Layout | None = None,
    ) -> list[Tensor]:
        """Requests of any sizes -> latents, each (C,t,h,w), denoised as one pack.

        With the layout of a record its one request takes the place that it had, among dummies: where sums are added
        in another order, the last bit may be another.
        """
        if len({one.way for one in requests}) != 1:
            raise InputError("requests made together need one sampler, one number of steps, one step_cache, one shift")
        if requests[0].step_cache and len(requests) > 1:  # a whole pack skips, by what all of it does: no one's recipe
            return [self.denoise([one], progress, tell)[0] for one in requests]
        layout = self.check_layout(layout, requests) if layout else self.layouts(requests)[0]
        with doing("encode the prompts"):
            context = self.encode([one.prompt for one in requests] + [one.negative for one in requests])
        shapes = [LatentShape(*shape) for shape in layout["shapes"]]
        own = shapes if len(shapes) == len(requests) else [shapes[layout["place"]]]
        noise = [self.noise(one.seed, shape) for one, shape in zip(requests, own, strict=True)]
        guidance = [one.guidance for one in requests]
        if len(shapes) > len(requests):
            context, noise, guidance = among_dummies(context, noise[0], guidance[0], layout)
        x = [one.to(self.parts.device) for one in noise]
        times = [self.times(requests[0], shape) for shape in shapes]

        visited = self.path.own(visits(requests[0].sampler, times))
        caches: list[StepCache] = []

        def runner() -> Runner:
            if not requests[0].step_cache:
                return run_blocks
            caches.append(StepCache(threshold=requests[0].step_cache))
            return caches[-1]

        experts = [
            self.expert(name, context, visited, [_own(one, number) for one in guidance], runner)
            for number, name in enumerate(self.parts.experts)
        ]
        guided = by_time(experts, self.parts.pipeline["boundary"]) if len(experts) > 1 else experts[0]
        velocity = rectified(self.path, guided)

        def report(step: int, steps: int, x: Sequence[Tensor]) -> None:
            check_finite(x, "dtype", self.parts.dtype, f"step {step} of {steps} of the denoising")
            if progress is not None:
                progress(step, steps)

        latents = self.sampler(requests[0].sampler)(velocity, x, times, report)
        if tell is not None and caches:
            tell(summary(caches))
        return latents if len(latents) == len(requests) else [latents[layout["place"]]]

    @torch.no_grad()
    def decode(
        self,
        latents: Sequence[Tensor],
        requests: Sequence[Request],
        tell: Tell | None = None,
        records: Sequence[dict[str, Any]] | None = None,
    ) -> list[Video]:
        """Denoised latents of requests -> videos. Where memory runs out it goes on in smaller pieces, and tells.

        `records`: what `records` said of the denoising, if that was another pipe's.
        """
        videos = []
        for x, one, record in zip(latents, requests, records or self.records(requests), strict=True):
            down = ways(tuple(x.shape[1:]), self.parts.device, self.way)
            with doing("decode the video"):
                clip, way = decode_stepping_down(partial(self.parts.network, "vae"), x, down, tell)
            check_finite([clip], "vae_dtype", self.parts.vae_dtype, "the decoded clip")
            made_with = {**record["made_with"], "decoding": asdict(way)}
            videos.append(self.finish(clip, one, {**record, "made_with": made_with}))
        return videos

    def encode(self, prompts: Sequence[str]) -> Context:
        """B prompts -> what denoisers attend to: text states, each prompt's by itself, so that they are the same in any
        company. Where networks come and go, states are kept on disk.
        """
        ids, lengths = self.parts.tokenizer(prompts)

        def encode(ids: Tensor, lengths: tuple[int, ...]) -> Ragged:
            return self.parts.text(ids.to(self.parts.device), lengths)

        if self.parts.offload == "none":
            return Context({"text": finite(encode_alone(ids, lengths, encode))})
        made_by = f"{self.parts.parts['text'].weights.fingerprint}/{self.parts.dtype}/{self.parts.quantize}"
        text = encode_cached(cache_dir() / "text", made_by, ids, lengths, encode)
        return Context.text(text.states.to(self.parts.device), text.lengths)

    def layouts(self, requests: Sequence[Request]) -> list[Layout]:
        """How requests made together share a pack: the same for all but for the place."""
        if requests[0].step_cache and len(requests) > 1:
            return [self.layouts([one])[0] for one in requests]
        stride, numbers = self.parts.sizes("vae").stride, range(len(self.parts.experts))
        shapes = [self.native(one).latent(stride) for one in requests]
        lengths = self.parts.tokenizer([one.prompt for one in requests] + [one.negative for one in requests])[1]
        pack = {
            "shapes": [[shape.frames, shape.height, shape.width] for shape in shapes],
            "prompts": list(lengths[: len(requests)]),
            "negatives": list(lengths[len(requests) :]),
            "guided": [any(_own(one.guidance, number) != 1 for one in requests) for number in numbers],
        }
        return [Layout(**pack, place=place) for place in range(len(requests))]

    def check_layout(self, layout: Layout, requests: Sequence[Request], where: str = "layout") -> Layout:
        """The layout, if it can be that of the one request, with more or fewer frames. InputError for any other."""
        check_layout(layout, where)
        if len(requests) != 1:
            raise InputError(f"{where}: it is for one request, not for {len(requests)}")
        for shape in layout["shapes"]:
            LatentShape(*shape).grid(self.patch)
        own, place = self.layouts(requests)[0], layout["place"]
        longest = self.parts.sizes("dit").text_length or LONGEST
        fits = all(own[key][0] == layout[key][place] for key in ("prompts", "negatives"))
        fits = fits and own["shapes"][0][1:] == layout["shapes"][place][1:]
        fits = fits and max(*layout["prompts"], *layout["negatives"]) <= longest
        experts = list(zip(own["guided"], layout["guided"], strict=False))
        fits = fits and len(experts) == len(layout["guided"]) == len(own["guided"])
        fits = fits and all(pack or not one for one, pack in experts)
        if not fits:
            raise InputError(f"{where}: it is not of this request and this model")
        return layout

    @property
    def made_with(self) -> dict[str, Any]:
        """What may change the last bit, as a record keeps it, but for layout and decoding."""
        parts, on_cpu = self.parts, self.parts.device.type == "cpu"
        processor = torch.backends.cpu.get_cpu_capability() if on_cpu else torch.cuda.get_device_name(parts.device)
        return {
            **{"dtype": name_of(parts.dtype), "vae_dtype": name_of(parts.vae_dtype), "quantize": parts.quantize},
            **{"passes": self.passes, "device": parts.device.type, "offload": parts.offload},
            **{"compiled": parts.compiled, "kernel": self.kernel, "threads": torch.get_num_threads() if on_cpu else 0},
            "processor": processor,
        }

    @property
    def attention(self) -> Use:
        """What the denoisers' attention asks of a kernel."""
        return self.parts.sizes("dit").attention(self.parts.device, self.parts.dtype, grad=False)

    @property
    def kernel(self) -> str:
        """Of attention, as a record names it: on a CPU "auto" is sdpa."""
        auto_on_cpu = self.parts.kernel == AUTO and self.parts.device.type == "cpu"
        return "sdpa" if auto_on_cpu else self.parts.kernel

    def records(self, requests: Sequence[Request], layout: Layout | None = None) -> list[dict[str, Any]]:
        """What a record will say of each request that is made now, if its latents are decoded as is meant."""
        stride = self.parts.sizes("vae").stride
        return [
            {
                **asdict(one),
                "generated": {**asdict(made_in(place, stride)), "fps": self.defaults["fps"]},
                "made_with": {**self.made_with, "layout": place, "decoding": asdict(self.way)},
                "model": self.parts.name,
                "lora": self.parts.lora,
                "weights": self.parts.fingerprints,
                "versions": VERSIONS,
            }
            for one, place in zip(requests, [layout] if layout else self.layouts(requests), strict=True)
        ]

    def noise(self, seed: int, shape: LatentShape) -> Tensor:
        """The starting noise (C,t,h,w) of a seed: float32 from the CPU's generator, whatever the device."""
        size = (1, self.parts.sizes("vae").latent_channels, shape.frames, shape.height, shape.width)
        return torch.randn(size, generator=torch.Generator("cpu").manual_seed(seed))[0]

    def times(self, request: Request, shape: LatentShape) -> Tensor:
        """The times (steps + 1,) at which a request's latents of this shape stop on their way."""
        shift = self.shift(shape) if request.shift is None else request.shift
        return scheduled(request.steps, shift, **self.parts.pipeline.get("schedule", {}))

    def sampler(self, name: str) -> Sampler:
        """The sampler of that name, told what the model says of its own."""
        told = self.parts.pipeline.get("solver", {}) if name == self.defaults["sampler"] else {}
        return sampler(name, **told)

    def shift(self, shape: LatentShape) -> float:
        """How far the schedule leans to the noise for latents of this shape."""
        return shift_of(self.parts.pipeline["shift"], shape.grid(self.patch).count)

    @property
    def patch(self) -> Triple:
        """Latent frames, rows and columns of a token."""
        return self.parts.sizes("dit").patch

    def expert(
        self, name: str, context: Context, times: Tensor, scales: list[float], runner: NewRunner = lambda: run_blocks
    ) -> Velocity:
        """A denoiser in the first half of a context, guided away from the second: in one pack, or in two passes."""
        halves = range(len(scales)), range(len(scales), 2 * len(scales))
        conditional = self.network(name, context.of(halves[0]), times, runner())
        if self.passes == 2:
            unconditional = self.network(name, context.of(halves[1]), times, runner())

            def both(x: list[Tensor], t: Tensor) -> tuple[list[Tensor], list[Tensor]]:
                return conditional(x, t), unconditional(x, t)

        else:
            paired = self.network(name, context, times, runner())

            def both(x: list[Tensor], t: Tensor) -> tuple[list[Tensor], list[Tensor]]:
                out = paired(x + x, torch.cat([t, t]))
                return out[: len(x)], out[len(x) :]

        return classifier_free(conditional, both, lambda t: torch.tensor(scales, dtype=torch.float64))

    def network(self, name: str, context: Context, times: Tensor, run: Runner = run_blocks) -> Velocity:
        """A denoiser in this context as a function of (x, t); what stays the same at all times is computed once."""
        session, keep = None, self.parts.keeps

        def velocity(x: list[Tensor], t: Tensor) -> list[Tensor]:
            nonlocal session
            denoiser, pack, now = self.parts.network(name), patchify(x, self.patch), Times.per_clip(t)
            if session is None:
                session = denoiser.prepare(context, pack, times=times if keep else None, keep=keep, run=run)
            tokens = denoiser(pack, now.distinct() if keep else now, session)
            return unpatchify(tokens, [LatentShape(*one.shape[1:]) for one in x], self.patch)

        return velocity

    def native(self, request: Request) -> VideoShape:
        """The shape to denoise at: to the last frame asked for at the model's own rate, at a size that it knows."""
        low, high = self.parts.pipeline["area"]
        area = request.height * request.width
        zoom = (min(max(area, low), high) / area) ** 0.5
        last = (request.frames - 1) * self.defaults["fps"] / request.fps
        frames = 1 + ceil(last - 1e-6)  # a rate such as 24000/1001 is rounded
        wanted = VideoShape(frames, max(1, round(request.height * zoom)), max(1, round(request.width * zoom)))
        return wanted.legal(self.parts.sizes("vae").stride, self.patch)

    def finish(self, clip: Tensor, request: Request, record: dict[str, Any]) -> Video:
        """Exactly the size, rate and frames asked for, with the record; the rest is cut off. The clip may change."""
        clip = resize(clip.float().cpu().clamp_(-1, 1), request.height, request.width, fit=request.fit)
        return Video(retime(clip, self.defaults["fps"], request.fps, request.frames), request.fps, record)

    def request(self, prompt: str, **given: Any) -> Request:
        """A complete request from what the caller gave and the model's defaults."""
        return complete({"prompt": prompt, **given}, self.defaults, len(self.parts.experts))


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
    how = {"vae_dtype": vae_dtype, "offload": offload, "quantize": quantize, "compiled": compiled, "kernel": kernel}
    parts = open_pipeline(str(model), device=str(place), dtype=dtype, lora=parse(lora), base=base, **how)
    pipe = Pipe(parts)
    pipe.attention.check(kernel)
    return pipe


def check_finite(values: Sequence[Tensor], key: str, dtype: torch.dtype, where: str) -> None:
    """InputError where a number is infinite or none, which would be black. `key`: the one that says the type."""
    if all(bool(torch.isfinite(x).all()) for x in values):
        return
    wider = f"{key}=bfloat16 or {key}=float32 has room for larger ones"
    other = "the weights may be damaged, or the guidance too strong"
    told = wider if dtype == torch.float16 else other
    raise InputError(f"{key}={name_of(dtype)}: {where} has numbers that are not finite; {told}")


def _own(guidance: float | tuple[float, ...], expert: int) -> float:
    """One expert's guidance."""
    return guidance[expert] if isinstance(guidance, tuple) else guidance
