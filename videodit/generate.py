"""From prompts to videos: the whole path on one screen. Start reading at `Pipe.run`.

    B clips; C, t, h, w of latents; T, H, W of clips
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import videodit
from videodit.checkpoint.adapters import parse
from videodit.checkpoint.find import open_pipeline
from videodit.checkpoint.pretrained import Components
from videodit.checkpoint.texts import encode_cached, finite
from videodit.config import cache_dir
from videodit.data.resize import PRESETS, parse_size, resize, retime
from videodit.data.sample import to_frames
from videodit.data.video import replacing, write
from videodit.decode import Tell, Way, decode_stepping_down, ways
from videodit.errors import InputError
from videodit.flow.guidance import by_time, classifier_free
from videodit.flow.path import PATHS, Velocity, rectified
from videodit.flow.samplers import SAMPLERS, sampler, visits
from videodit.flow.schedules import linear
from videodit.flow.times import shift_of
from videodit.models.dit import Prepared
from videodit.models.pack import Text, patchify, unpatchify
from videodit.nn.stepcache import StepCache, summary
from videodit.shapes import LatentShape, Triple, VideoShape

CHUNK = 4  # latent frames decoded at a time
Progress = Callable[[int, int], None]  # (steps done, steps in all)
NewCache = Callable[[], StepCache]  # one for each network and its texts


@dataclass(frozen=True)
class Request:
    """What is asked for, complete: one video. Frames, height, width and fps are those of the result."""

    prompt: str
    negative: str
    frames: int
    height: int
    width: int
    fps: float
    fit: str
    seed: int
    steps: int
    guidance: float | tuple[float, ...]  # one for each expert if there are several, the one for the most noise first
    sampler: str
    step_cache: float = 0.0  # how far from the step before the first block's part may be for the others to be skipped


class Video:
    """A generated clip (3,T,H,W) float32 in [-1,1], its frames per second, and the record of how it was made."""

    def __init__(self, clip: Tensor, fps: float, record: dict[str, Any]) -> None:
        self.clip, self.fps, self.record = clip, fps, record

    @property
    def frames(self) -> np.ndarray:
        """uint8 (T,H,W,3)."""
        return to_frames(self.clip)

    def save(self, path: str | Path) -> Path:
        """Write an mp4 that carries its record, and the record again as a .json beside it."""
        path = Path(path)
        record = json.dumps(self.record, ensure_ascii=False, indent=2)
        write(path, self.frames, self.fps, metadata={"comment": record})
        with replacing(path.with_suffix(".json")) as temporary:
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
        """Keys: negative width height size frames seconds fps aspect preset fit seed steps guidance sampler step_cache.

        Prompt i of a list uses seed + i. Raises InputError, naming the key, for what cannot be made.
        """
        if isinstance(prompt, str):
            return self.run([self.request(prompt, **request)], progress)[0]
        asked = [self.request(text, **request) for text in prompt]
        return self.run([replace(one, seed=one.seed + i) for i, one in enumerate(asked)], progress)

    def run(self, requests: Sequence[Request], progress: Progress | None = None) -> list[Video]:
        """Requests of any sizes -> videos."""
        return self.decode(self.denoise(requests, progress), requests)

    @torch.no_grad()
    def denoise(
        self, requests: Sequence[Request], progress: Progress | None = None, tell: Tell | None = None
    ) -> list[Tensor]:
        """Requests of any sizes -> latents, each (C,t,h,w), denoised as one pack."""
        if len({(one.sampler, one.steps, one.step_cache) for one in requests}) != 1:
            raise InputError("requests made together need one sampler, one number of steps and one step_cache")
        texts = self.encode([one.prompt for one in requests] + [one.negative for one in requests])

        shapes = [self.native(one) for one in requests]
        latent_shapes = [shape.latent(self.parts.sizes("vae").stride) for shape in shapes]
        pairs = list(zip(requests, latent_shapes, strict=True))
        noise = [self.noise(one.seed, shape).to(self.parts.device) for one, shape in pairs]
        times = [linear(one.steps, self.shift(shape)) for one, shape in pairs]

        visited = self.path.own(visits(requests[0].sampler, times))
        caches: list[StepCache] = []

        def new_cache() -> StepCache:
            caches.append(StepCache(threshold=requests[0].step_cache))
            return caches[-1]

        cached = new_cache if requests[0].step_cache else None
        experts = [
            self.expert(name, texts, visited, [_own(one.guidance, number) for one in requests], cached)
            for number, name in enumerate(self.parts.experts)
        ]
        guided = by_time(experts, self.parts.pipeline["boundary"]) if len(experts) > 1 else experts[0]
        velocity = rectified(self.path, guided)
        report = None if progress is None else lambda step, steps, x: progress(step, steps)
        latents = sampler(requests[0].sampler)(velocity, noise, times, report)
        if tell is not None and caches:
            tell(summary(caches))
        return latents

    @torch.no_grad()
    def decode(self, latents: Sequence[Tensor], requests: Sequence[Request], tell: Tell | None = None) -> list[Video]:
        """Denoised latents of requests -> videos. Where memory runs out it goes on in smaller pieces, and tells."""
        videos = []
        for x, one in zip(latents, requests, strict=True):
            down = ways(tuple(x.shape[1:]), self.parts.device, self.way)
            clip = decode_stepping_down(partial(self.parts.network, "vae"), x, down, tell)
            videos.append(self.finish(clip, one))
        return videos

    def encode(self, prompts: Sequence[str]) -> Text:
        """B prompts -> text states, in one pass, no padding. Where networks come and go, states are kept on disk."""
        ids, lengths = self.parts.tokenizer(prompts)
        if self.parts.offload == "none":
            return finite(self.parts.text(ids.to(self.parts.device), lengths))
        made_by = f"{self.parts.parts['text'].weights.fingerprint}/{self.parts.dtype}/{self.parts.quantize}"
        text = encode_cached(
            cache_dir() / "text", made_by, ids, lengths, lambda ids, n: self.parts.text(ids.to(self.parts.device), n)
        )
        return Text(text.states.to(self.parts.device), text.lengths)

    def noise(self, seed: int, shape: LatentShape) -> Tensor:
        """The starting noise (C,t,h,w) of a seed: float32 from the CPU's generator, whatever the device."""
        size = (1, self.parts.sizes("vae").latent_channels, shape.frames, shape.height, shape.width)
        return torch.randn(size, generator=torch.Generator("cpu").manual_seed(seed))[0]

    def shift(self, shape: LatentShape) -> float:
        """How far the schedule leans to the noise for latents of this shape."""
        return shift_of(self.parts.pipeline["shift"], shape.grid(self.patch).count)

    @property
    def patch(self) -> Triple:
        """Latent frames, rows and columns of a token."""
        return self.parts.sizes("dit").patch

    def expert(
        self, name: str, texts: Text, times: Tensor, scales: list[float], cached: NewCache | None = None
    ) -> Velocity:
        """A DiT under the first half of the texts, guided away from the second: both in one pack, or in two passes."""
        conditional = self.network(name, _half(texts, 0), times, cached)
        if self.passes == 2:
            unconditional = self.network(name, _half(texts, 1), times, cached)

            def both(x: list[Tensor], t: Tensor) -> tuple[list[Tensor], list[Tensor]]:
                return conditional(x, t), unconditional(x, t)

        else:
            paired = self.network(name, texts, times, cached)

            def both(x: list[Tensor], t: Tensor) -> tuple[list[Tensor], list[Tensor]]:
                out = paired(x + x, torch.cat([t, t]))
                return out[: len(x)], out[len(x) :]

        return classifier_free(conditional, both, lambda t: torch.tensor(scales, dtype=torch.float64))

    def network(self, name: str, texts: Text, times: Tensor, cached: NewCache | None = None) -> Velocity:
        """A DiT under these texts as a function of (x, t); what stays the same at all these times is computed once."""
        ready: list[Prepared | Text] = []
        skipping = {} if cached is None else {"cache": cached()}

        def predict(x: list[Tensor], t: Tensor) -> list[Tensor]:
            dit = self.parts.network(name)
            pack = patchify([one.to(dit.embed.weight.dtype) for one in x], self.patch)
            if not ready:  # where blocks come and go, so would the keys that are made of their weights
                ready.append(texts if self.parts.offload == "block" else dit.prepare(pack, times, texts))
            # Times that are known beforehand are looked up on the CPU: to ask a GPU for them would be to wait for it.
            known = isinstance(ready[0], Prepared)
            tokens = dit(pack, t if known else t.to(self.parts.device), ready[0], **skipping)
            return unpatchify(tokens, [LatentShape(*one.shape[1:]) for one in x], self.patch)

        return predict

    def native(self, request: Request) -> VideoShape:
        """The shape to denoise at: the asked duration at the model's own rate, the asked shape at a size it knows."""
        native_fps, area = self.defaults["fps"], request.height * request.width
        low, high = self.parts.pipeline["area"]
        zoom = (min(max(area, low), high) / area) ** 0.5
        frames = 1 if request.frames == 1 else max(1, round(request.frames / request.fps * native_fps))
        wanted = VideoShape(frames, max(1, round(request.height * zoom)), max(1, round(request.width * zoom)))
        return wanted.nearest(self.parts.sizes("vae").stride, self.patch)

    def finish(self, clip: Tensor, request: Request) -> Video:
        """Exactly the size, rate and number of frames asked for, with the record. The clip itself may change."""
        clip = clip.float().cpu().clamp_(-1, 1)
        _, frames, height, width = clip.shape
        record = {
            **asdict(request),
            "generated": {"frames": frames, "height": height, "width": width, "fps": self.defaults["fps"]},
            "made_with": {
                **{"dtype": str(self.parts.dtype).removeprefix("torch."), "quantize": self.parts.quantize},
                **{"passes": self.passes, "device": self.parts.device.type},
            },
            "model": self.parts.name,
            "lora": self.parts.lora,
            "weights": self.parts.fingerprints,
            "versions": {"videodit": videodit.__version__, "torch": torch.__version__},
        }
        clip = resize(clip, request.height, request.width, fit=request.fit)
        return Video(retime(clip, self.defaults["fps"], request.fps, request.frames), request.fps, record)

    def request(
        self,
        prompt: str,
        *,
        size: str | None = None,
        preset: str | None = None,
        aspect: str | None = None,
        seconds: float | None = None,
        **given: Any,
    ) -> Request:
        """A complete request from what the caller gave and the model's defaults."""
        unknown = sorted(given.keys() - {field.name for field in fields(Request)})
        if unknown:
            raise InputError(f"unknown request key {unknown[0]!r}")
        given = {key: value for key, value in given.items() if value is not None}
        if size is not None:
            given["height"], given["width"] = parse_size(size)
        elif preset is not None:
            if preset not in PRESETS:
                raise InputError(f"preset={preset}: it is one of {', '.join(PRESETS)}")
            given["height"], given["width"] = PRESETS[preset]
        elif aspect is not None:
            given["height"] = given.get("height", self.defaults["height"])
            given["width"] = round(given["height"] * _ratio(aspect))
        request = Request(**{"prompt": prompt, "negative": "", "fit": "crop", "seed": 0, **self.defaults, **given})
        request = replace(request, guidance=as_guidance(request.guidance, len(self.parts.experts)))
        if seconds is not None:
            if not seconds > 0:
                raise InputError(f"seconds={seconds}: must be above 0")
            request = replace(request, frames=max(1, round(seconds * request.fps)))
        _check(request)
        return request


def load(
    model: str = "toy",
    *,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    offload: str = "auto",
    quantize: str = "",
    compiled: bool = False,
    lora: str | Path | Mapping[Any, float] | Iterable[Any] | None = None,
) -> Pipe:
    """Open a model: a bundled or public name, a run folder, a folder or file of weights, or a hub id.

    float32 on a CPU and bfloat16 on a GPU unless `dtype` says else. `lora`: adapters, {path: strength} or a list of
    paths; they are added to the weights as these are read. The others: see `checkpoint.find.open_pipeline`.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or (torch.float32 if device == "cpu" else torch.bfloat16)
    how = {"offload": offload, "quantize": quantize, "compiled": compiled}
    return Pipe(open_pipeline(model, device=device, dtype=dtype, lora=parse(lora), **how))


def _half(texts: Text, which: int) -> Text:
    """The prompts, or the negatives."""
    middle = len(texts.lengths) // 2
    lengths = texts.lengths[:middle], texts.lengths[middle:]
    return Text(texts.states.split([sum(part) for part in lengths])[which], lengths[which])


def _own(guidance: float | tuple[float, ...], expert: int) -> float:
    """One expert's guidance."""
    return guidance[expert] if isinstance(guidance, tuple) else guidance


def as_guidance(given: Any, experts: int = 0) -> float | tuple[float, ...]:
    """A number, or one for each expert (0: however many), as a list or as text: 4,3."""
    try:
        values = [float(v) for v in (given.split(",") if isinstance(given, str) else _listed(given))]
    except (TypeError, ValueError):
        values = []
    if len(values) not in (1, experts or len(values)) or not values or not all(map(isfinite, values)):
        many = f", or {experts} of them with the one for the most noise first" if experts > 1 else ""
        raise InputError(f"guidance={given}: expected a number{many}")
    return values[0] if len(values) == 1 else tuple(values)


def _listed(given: Any) -> Sequence[Any]:
    return given if isinstance(given, Sequence) else [given]


def _ratio(aspect: str) -> float:
    width, _, height = str(aspect).partition(":")
    try:
        ratio = float(width) / float(height or 1)
    except (ValueError, ZeroDivisionError):
        ratio = 0.0
    if not 0.05 <= ratio <= 20:
        raise InputError(f"aspect={aspect}: expected width:height, such as 16:9")
    return ratio


def _check(request: Request) -> None:
    if not request.prompt.strip():
        raise InputError("prompt: it is empty; say what the video shows")
    for key in ("frames", "height", "width", "steps"):
        value = getattr(request, key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= 16384:
            raise InputError(f"{key}={value}: must be a whole number from 1 to 16384")
    if not 0 < request.fps <= 240:
        raise InputError(f"fps={request.fps}: must be above 0 and at most 240")
    if not 0 <= request.seed < 2**63:
        raise InputError(f"seed={request.seed}: must be a whole number from 0 to 2^63 - 1")
    if not isinstance(request.step_cache, int | float) or not 0 <= request.step_cache < 1:
        raise InputError(f"step_cache={request.step_cache}: must be a number from 0 to below 1, such as 0.1")
    if request.fit not in ("crop", "pad", "stretch"):
        raise InputError(f"fit={request.fit}: it is crop, pad or stretch")
    if request.sampler not in SAMPLERS:
        raise InputError(f"sampler={request.sampler}: it is one of {', '.join(SAMPLERS)}")
