"""How requests share a pack. Kernels add in an order that depends on what shares a pack, though not on its values: so
a record keeps the layout (shapes and lengths, nothing of another request's content), and a video is made again among
dummies.

B requests; C, t, h, w of latents
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NotRequired

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import TypedDict

from videodit.checkpoint.parts import NAMES
from videodit.errors import InputError
from videodit.generate.model import Model
from videodit.generate.request import Request
from videodit.models.interfaces import DENOISER, TEXT_ENCODER
from videodit.models.pack import Context, Lengths, Ragged
from videodit.models.text import LONGEST, TextEncoder
from videodit.shapes import LatentShape, Triple, VideoShape

MANY = 2**14  # videos made together
Whole = Annotated[int, Field(ge=0, le=2**31)]
Count = Annotated[int, Field(ge=1, le=2**31)]
Shape = Annotated[list[Count], Field(min_length=3, max_length=3)]
PerPlace = Annotated[list[Count], Field(min_length=1, max_length=MANY)]
TEXTS = ("prompts", "negatives")
Guidance = float | tuple[float, ...]  # of all experts, or each one's


class Texts(TypedDict):
    """Lengths of prompts and negatives by a text encoder."""

    prompts: PerPlace
    negatives: PerPlace


class Layout(TypedDict):
    """A pack of videos made together and the place of one: latent shapes (t,h,w), lengths of prompts and negatives by
    the first text encoder and by the others, if there are any, and for each expert whether it was guided.
    """

    shapes: Annotated[list[Shape], Field(min_length=1, max_length=MANY)]
    prompts: PerPlace
    negatives: PerPlace
    others: NotRequired[Annotated[list[Texts], Field(min_length=1, max_length=len(NAMES[TEXT_ENCODER]) - 1)]]
    guided: Annotated[list[bool], Field(min_length=1, max_length=16)]
    place: Whole


@dataclass(frozen=True)
class Start:
    """What a pack is denoised from: for each place its noise (C,t,h,w) and guidance, and the context of all prompts,
    then all negatives. own: the places of the requests; the others are dummies.
    """

    context: Context
    noise: list[Tensor]
    guidance: list[Guidance]
    own: Sequence[int]

    @property
    def shapes(self) -> list[LatentShape]:
        """Of the noise."""
        return [LatentShape(*one.shape[1:]) for one in self.noise]

    def scales(self, expert: int) -> list[float]:
        """How strongly one expert is guided in each place."""
        return [own_guidance(one, expert) for one in self.guidance]


def layouts(model: Model, requests: Sequence[Request]) -> list[Layout]:
    """How requests made together share a pack: the same for all but for the place."""
    if requests[0].step_cache and len(requests) > 1:  # which are made alone: see `Pipe.denoise`
        return [layouts(model, [one])[0] for one in requests]
    shapes = [model.native(one).latent(model.stride) for one in requests]
    first, *others = (_texts(encoder, requests) for encoder in model.parts.text_encoders)
    numbers = range(len(model.parts.experts))
    pack = {
        "shapes": [[shape.frames, shape.height, shape.width] for shape in shapes],
        **first,
        **({"others": others} if others else {}),
        "guided": [any(own_guidance(one.guidance, number) != 1 for one in requests) for number in numbers],
    }
    return [Layout(**pack, place=place) for place in range(len(requests))]


def _texts(encoder: TextEncoder, requests: Sequence[Request]) -> Texts:
    prompts, negatives = [one.prompt for one in requests], [one.negative for one in requests]
    return Texts(prompts=list(encoder.tokenizer(prompts)[1]), negatives=list(encoder.tokenizer(negatives)[1]))


def by_encoder(layout: Layout) -> list[Texts]:
    """The lengths of a layout's prompts and negatives by each text encoder, in order."""
    return [Texts(prompts=layout["prompts"], negatives=layout["negatives"]), *layout.get("others", [])]


def lengths_of(layout: Layout, key: str, encoders: Sequence[TextEncoder]) -> Lengths:
    """How many states each of the "prompts", or of the "negatives", has in every stream."""
    return {encoder.name: tuple(own[key]) for encoder, own in zip(encoders, by_encoder(layout), strict=True)}


def start(model: Model, requests: Sequence[Request], layout: Layout) -> Start:
    """Noise, guidance and context of requests; where the layout has more places than these, one among dummies."""
    context = model.encode([one.prompt for one in requests] + [one.negative for one in requests])
    shapes, guidance = [LatentShape(*shape) for shape in layout["shapes"]], [one.guidance for one in requests]
    if len(shapes) == len(requests):
        noise = [model.noise(one.seed, shape) for one, shape in zip(requests, shapes, strict=True)]
        return Start(context, noise, guidance, range(len(requests)))
    noise = model.noise(requests[0].seed, shapes[layout["place"]])
    return among_dummies(context, noise, guidance[0], layout)


def among_dummies(context: Context, noise: Tensor, guidance: Guidance, layout: Layout) -> Start:
    """Put a request's context (prompt, negative), noise (C,t,h,w) and guidance at their place in a pack of such shapes.

    The other places have states of zeros, and noise of another seed.
    """
    place, shapes = layout["place"], layout["shapes"]
    streams = {}
    for (name, own), texts in zip(context.streams.items(), by_encoder(layout), strict=True):
        lengths = (*texts["prompts"], *texts["negatives"])
        states = [own.states.new_zeros(length, own.states.shape[1]) for length in lengths]
        states[place], states[len(shapes) + place] = own.states.split(own.lengths)
        streams[name] = Ragged(torch.cat(states), lengths)
    draw = torch.Generator("cpu").manual_seed(0)
    clips: list[Tensor] = [
        noise if number == place else torch.randn(len(noise), *shape, generator=draw).to(noise)
        for number, shape in enumerate(shapes)
    ]
    other = tuple(2.0 if on else 1.0 for on in layout["guided"])
    scales = [guidance if number == place else other for number in range(len(shapes))]
    return Start(Context(streams), clips, scales, [place])


def fitting(model: Model, layout: Layout, requests: Sequence[Request], where: str = "layout") -> Layout:
    """The layout, if it can be that of the one request, with more or fewer frames. InputError for any other."""
    check_layout(layout, where)
    if len(requests) != 1:
        raise InputError(f"{where}: it is for one request, not for {len(requests)}")
    for shape in layout["shapes"]:
        LatentShape(*shape).grid(model.patch)
    own, place = layouts(model, requests)[0], layout["place"]
    streams, pairs = model.parts.sizes(DENOISER).streams, list(zip(by_encoder(own), by_encoder(layout), strict=False))
    fits = len(pairs) == len(by_encoder(layout)) == len(by_encoder(own))
    fits = fits and all(mine[key][0] == its[key][place] for mine, its in pairs for key in TEXTS)
    fits = fits and own["shapes"][0][1:] == layout["shapes"][place][1:]
    for encoder, (_, its) in zip(model.parts.text_encoders, pairs, strict=False):
        fits = fits and max(*its["prompts"], *its["negatives"]) <= (streams[encoder.name].length or LONGEST)
    experts = list(zip(own["guided"], layout["guided"], strict=False))
    fits = fits and len(experts) == len(layout["guided"]) == len(own["guided"])
    fits = fits and all(pack or not one for one, pack in experts)
    if not fits:
        raise InputError(f"{where}: it is not of this request and this model")
    return layout


def check_layout(layout: Layout, where: object) -> None:
    """Refuse a layout whose parts do not belong together."""
    counts = {len(layout["shapes"]), *(len(texts[key]) for texts in by_encoder(layout) for key in TEXTS)}
    if len(counts) != 1 or layout["place"] >= len(layout["shapes"]):
        raise InputError(f"{where}: made_with.layout: a pack has a shape, a prompt and a negative for each place")


def made_in(layout: Layout, stride: Triple) -> VideoShape:
    """The clip that the latents in a layout's place decode to."""
    return LatentShape(*layout["shapes"][layout["place"]]).video(stride)


def own_guidance(guidance: Any, expert: int) -> float:
    """One expert's guidance."""
    return guidance[expert] if isinstance(guidance, tuple) else guidance
