"""What a network's arguments may be: types and ranges, held beside its architecture before anything is built."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Len
from pydantic import AfterValidator
from typing_extensions import TypedDict

Width = Annotated[int, Ge(1), Le(2**17)]  # channels, or values a token
Number = Annotated[int, Ge(1), Le(2**10)]  # layers, heads, blocks
Positive = Annotated[float, Gt(0), Le(2**20)]
Epsilon = Annotated[float, Gt(0), Le(1)]
Switches = Annotated[list[bool], Len(0, 7)]
CLOSED = {"extra": "forbid"}


def _heads(dit: DiT) -> DiT:
    if dit["dim"] % (2 * dit["heads"]):
        raise ValueError(f"dim={dit['dim']} should divide into heads={dit['heads']} of an even width")
    if dit["frequency_dim"] % 2:
        raise ValueError(f"frequency_dim={dit['frequency_dim']} should be even")
    return dit


def _levels(vae: VideoVAE) -> VideoVAE:
    levels = len(vae["multipliers"])
    if not len(vae["spatial"]) == len(vae["temporal"]) == levels - 1:
        raise ValueError(f"spatial and temporal should have a value for each of {levels} multipliers but the last")
    return vae


class DiT(TypedDict):
    """Of `models.dit.DiT`."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]
    channels: Width
    out_channels: Width
    patch: Annotated[list[Annotated[int, Ge(1), Le(16)]], Len(3, 3)]
    dim: Width
    layers: Number
    heads: Number
    ffn: Width
    text_dim: Width
    text_length: Annotated[int, Ge(0), Le(2**14)]
    frequency_dim: Annotated[int, Ge(2), Le(2**14)]
    time: Literal["adaln_single", "adaln_zero", "adaln", "cross", "in_context"]
    norm: Literal["layer", "rms"]
    qk_norm: Literal["full", "head"]
    qk_eps: Epsilon
    cross_norm: bool
    fractions: Annotated[list[Annotated[list[Positive], Len(2, 2)]], Len(3, 3)] | None


class T5(TypedDict):
    """Of `models.text.SmallT5`."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]
    vocabulary: Annotated[int, Ge(1), Le(2**22)]
    dim: Width
    layers: Number
    heads: Number
    head_dim: Width
    ffn: Width
    bias_per_layer: bool


class VideoVAE(TypedDict):
    """Of `models.vae.VideoVAE`."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]
    latent_channels: Width
    base: Annotated[int, Ge(1), Le(2**12)]
    decoder_base: Annotated[int, Ge(1), Le(2**12)]
    multipliers: Annotated[list[Annotated[int, Ge(1), Le(64)]], Len(1, 8)]
    spatial: Switches
    temporal: Switches
    blocks: Annotated[int, Ge(0), Le(64)]
    shortcuts: bool
    linear: bool
    patch: Annotated[int, Ge(1), Le(16)]


ARGUMENTS = {
    "dit": Annotated[DiT, AfterValidator(_heads)],
    "t5": T5,
    "video_vae": Annotated[VideoVAE, AfterValidator(_levels)],
}
