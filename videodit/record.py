"""Records: how a video was made, as its file keeps it, and what of that makes it again to the bit.

Kernels add in an order that depends on what shares a pack, though not on its values. So a record keeps the pack's
layout (shapes and lengths, nothing of another request's content), and the video is made again among dummies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NotRequired

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import TypedDict

from videodit.errors import InputError
from videodit.models.pack import Context
from videodit.shapes import LatentShape, Triple, VideoShape
from videodit.untrusted import check, parse_json

MANY = 2**14  # videos made together
Name = Annotated[str, Field(min_length=1, max_length=4096)]
Whole = Annotated[int, Field(ge=0, le=2**31)]
Count = Annotated[int, Field(ge=1, le=2**31)]
Shape = Annotated[list[Count], Field(min_length=3, max_length=3)]
Lengths = Annotated[list[Count], Field(min_length=1, max_length=MANY)]


class Layout(TypedDict):
    """A pack of videos made together and the place of one: latent shapes (t,h,w), lengths of prompts and negatives,
    and for each expert whether it was guided.
    """

    shapes: Annotated[list[Shape], Field(min_length=1, max_length=MANY)]
    prompts: Lengths
    negatives: Lengths
    guided: Annotated[list[bool], Field(min_length=1, max_length=16)]
    place: Whole


class Decoding(TypedDict):
    """A `decode.Way`."""

    chunk: Whole
    tile: Whole
    device: Literal["", "cpu"]


class MadeWith(TypedDict, total=False):
    """Whatever may change the last bit beside request, weights and versions, in the order that `Pipe` writes."""

    dtype: Name
    vae_dtype: Name
    quantize: Literal["", "int8"]
    passes: Literal[1, 2]
    device: Name
    offload: Literal["none", "model", "block"]
    compiled: bool
    kernel: Name
    threads: Whole  # of a CPU, or 0
    processor: Name  # a GPU's name, or the instructions of a CPU that torch uses
    layout: Layout
    decoding: Decoding


class Generated(TypedDict):
    """The clip before it was brought to what was asked for."""

    frames: Count
    height: Count
    width: Count
    fps: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Record(TypedDict):
    """A record but for the request, whose keys stand beside these. Older ones have fewer."""

    prompt: str
    generated: NotRequired[Generated]
    made_with: NotRequired[MadeWith]
    model: Name
    lora: NotRequired[dict[str, Annotated[float, Field(allow_inf_nan=False)]]]
    weights: dict[Name, Name]
    versions: NotRequired[dict[Name, Name]]


def parse_record(text: str, where: object) -> dict[str, Any]:
    """Read a record, its request included. InputError where it is none."""
    return checked(parse_json(text, where), where)


def checked(record: Any, where: object) -> dict[str, Any]:
    """The same of what was read already."""
    known = check(record, Record, where)
    if "layout" in known.get("made_with", {}):
        check_layout(known["made_with"]["layout"], where)
    return {**record, **known}


def made_in(layout: Layout, stride: Triple) -> VideoShape:
    """The clip that the latents in a layout's place decode to."""
    return LatentShape(*layout["shapes"][layout["place"]]).video(stride)


def check_layout(layout: Layout, where: object) -> None:
    """Refuse a layout whose parts do not belong together."""
    counts = {len(layout[key]) for key in ("shapes", "prompts", "negatives")}
    if len(counts) != 1 or layout["place"] >= len(layout["shapes"]):
        raise InputError(f"{where}: made_with.layout: a pack has a shape, a prompt and a negative for each place")


def among_dummies(
    context: Context, noise: Tensor, guidance: Any, layout: Layout
) -> tuple[Context, list[Tensor], list[Any]]:
    """Put a request's context (prompt, negative), noise (C,t,h,w) and guidance at their place in a pack of such shapes.

    The other places have states of zeros, and noise of another seed.
    """
    place, shapes = layout["place"], layout["shapes"]
    lengths = (*layout["prompts"], *layout["negatives"])
    texts = context.streams["text"]
    states = [texts.states.new_zeros(length, texts.states.shape[1]) for length in lengths]
    states[place], states[len(shapes) + place] = texts.states.split(texts.lengths)
    draw = torch.Generator("cpu").manual_seed(0)
    clips: list[Tensor] = [
        noise if number == place else torch.randn(len(noise), *shape, generator=draw).to(noise)
        for number, shape in enumerate(shapes)
    ]
    other = tuple(2.0 if on else 1.0 for on in layout["guided"])
    scales: Sequence[Any] = [guidance if number == place else other for number in range(len(shapes))]
    return Context.text(torch.cat(states), lengths), clips, list(scales)
