"""What our own JSON files hold: types and ranges, compared by `untrusted.check` wherever one is read."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic import AfterValidator
from typing_extensions import TypedDict

from videodit.checkpoint.parts import ROLES

Count = Annotated[int, Ge(1), Le(2**14)]  # frames, rows, columns, steps
Rate = Annotated[float, Gt(0), Le(240)]
Strength = Annotated[float, Ge(-1000), Le(1000)]
CLOSED = {"extra": "forbid"}


class Flow(TypedDict):
    """What a network predicts, on which path."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]
    path: Literal["rectified", "cosine_ddpm", "linear_ddpm"]
    prediction: Literal["velocity", "noise", "clean"]


class ShiftByTokens(TypedDict):
    """A shift that grows with the tokens of a clip."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]
    base_tokens: Annotated[int, Ge(1), Le(2**31)]
    base_shift: Annotated[float, Gt(0), Le(1000)]


class Defaults(TypedDict):
    """What a request has that says nothing else."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]
    frames: Count
    height: Count
    width: Count
    fps: Rate
    steps: Count
    guidance: Strength | Annotated[list[Strength], Len(1, 2)]
    sampler: Literal["euler", "heun", "unipc", "dpmpp"]
    negative: NotRequired[str]
    fit: NotRequired[Literal["crop", "pad", "stretch"]]
    seed: NotRequired[Annotated[int, Ge(0), Le(2**63 - 1)]]
    step_cache: NotRequired[Annotated[float, Ge(0), Le(1)]]


class Base(TypedDict):
    """The model that a folder is a change of, and the fingerprints of what it has of that."""

    model: Annotated[str, Len(1, 4096)]
    weights: dict[Literal[tuple(ROLES)], Annotated[str, Len(1, 64)]]


def _ordered(area: list[int]) -> list[int]:
    if area[0] > area[1]:
        raise ValueError(f"area={area} should be the least and the most pixels of a frame")
    return area


class Schedule(TypedDict):
    """How the times of a generation lie (flow/schedules.py)."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]
    spacing: Literal["unipc", "dpmpp", "euler"]
    final: Annotated[float, Ge(0), Lt(1)] | Literal["last"]


class Solver(TypedDict, total=False):
    """What the default sampler is told, of diffusers' words for it."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]
    solver_order: Annotated[int, Ge(1), Le(3)]
    solver_type: Literal["midpoint", "heun"]
    lower_order_final: bool
    euler_at_final: bool
    disable_corrector: Annotated[list[Annotated[int, Ge(0), Le(2**14)]], Len(0, 2**10)]
    final_sigmas_type: Literal["sigma_min"]


class Pipeline(TypedDict):
    """A pipeline.json: how the networks beside it make a video."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]
    flow: Flow
    shift: Annotated[float, Gt(0), Le(1000)] | ShiftByTokens
    area: Annotated[list[Annotated[int, Ge(1), Le(2**31)]], Len(2, 2), AfterValidator(_ordered)]
    defaults: Defaults
    schedule: NotRequired[Schedule]
    solver: NotRequired[Solver]
    boundary: NotRequired[Annotated[float, Gt(0), Le(1)]]
    vae_dtype: NotRequired[Literal["float32", "bfloat16", "float16"]]
    prompts: NotRequired[Literal["ftfy"]]  # how they are prepared beyond blanks and entities
    base: NotRequired[Base]


class CachedClip(TypedDict):
    """A clip in the header of a shard of latents."""

    key: str
    shape: Annotated[list[Annotated[int, Ge(1), Le(2**16)]], Len(3, 3)]
    caption: str


class Shard(TypedDict):
    """The header of a shard of latents."""

    clips: list[CachedClip]
    faults: NotRequired[dict[str, str]]
