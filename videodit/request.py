"""Requests: what one video should be, in the one schema that Python, the command line, files and recipes share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from math import isfinite
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypedDict, get_type_hints

from pydantic import Field

from videodit.data.resize import PRESETS, parse_size
from videodit.errors import InputError, did_you_mean
from videodit.flow.samplers import SAMPLERS
from videodit.untrusted import MOST, check

Words = Annotated[str, Field(max_length=MOST.caption)]
Count = Annotated[int, Field(ge=1, le=16384)]
Rate = Annotated[float, Field(ge=0.01, le=240, allow_inf_nan=False)]
GUIDANCE = 1000.0  # the largest; a model's own are below 20


@dataclass(frozen=True)
class Request:
    """What is asked for, complete: one video. Frames, height, width and fps are those of the result."""

    prompt: Words
    negative: Words
    frames: Count
    height: Count
    width: Count
    fps: Rate
    fit: Literal["crop", "pad", "stretch"]
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    steps: Count
    guidance: float | tuple[float, ...]  # one for each expert if there are several, the one for the most noise first
    sampler: Literal[tuple(SAMPLERS)]
    # How far from the step before the first block's part may be for the others to be skipped.
    step_cache: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0
    # How far the times lean to the noise; None: as the model says.
    shift: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] | None = None

    @property
    def way(self) -> tuple[str, int, float, float | None]:
        """What requests that are made together have in common."""
        return self.sampler, self.steps, self.step_cache, self.shift


class ByIntent(TypedDict, total=False):
    """Keys that say the same by intent: they become some of a request's own."""

    size: str
    preset: Literal[tuple(PRESETS)]
    aspect: str | float
    seconds: Annotated[float, Field(gt=0, le=2**24, allow_inf_nan=False)]


OWN = tuple(field.name for field in fields(Request))
KINDS: Mapping[str, Any] = MappingProxyType(  # what `as_guidance` takes is no type: text, lists, numbers
    {**get_type_hints(Request, include_extras=True), **get_type_hints(ByIntent, include_extras=True), "guidance": Any}
)

# Keys that a key takes the place of: what stands beside it in a list of defaults is then not meant.
DISPLACED: Mapping[str, Sequence[str]] = MappingProxyType({
    **dict.fromkeys(("size", "preset", "aspect"), ("size", "preset", "aspect", "width", "height")),
    **dict.fromkeys(("width", "height"), ("size", "preset", "aspect")),
    **{"frames": ("seconds",), "seconds": ("frames",)},
})  # fmt: skip
# Pairs that say the same thing twice, or two things.
CONTRARY = (
    *(("size", other) for other in ("preset", "aspect", "width", "height")),
    *(("preset", other) for other in ("aspect", "width", "height")),
    ("frames", "seconds"),
)


def check_keys(given: Mapping[str, Any]) -> None:
    """Compare each value of a request, complete or not, with its kind. InputError names the key."""
    for key, value in given.items():
        if key not in KINDS:
            raise InputError(f"unknown request key {key!r}{did_you_mean(key, KINDS)}")
        if key == "guidance":
            as_guidance(value)
        shown = f"={value}" if isinstance(value, int | float | str) else ""
        check(value, KINDS[key], f"{key}{shown[:60]}")


def given_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """What was given: None, and a choice of "", was not. A prompt may be "", which no default takes the place of."""
    return {key: v for key, v in values.items() if v is not None and (v != "" or key in ("prompt", "negative"))}


def with_defaults(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, and for the rest the defaults: one that says the same in another way does not count."""
    displaced = {other for key in given for other in DISPLACED.get(key, ())}
    return {**{key: value for key, value in defaults.items() if key not in displaced}, **given}


def check_contrary(given: Mapping[str, Any]) -> None:
    """InputError where two keys say the same thing, so that one of them would have no effect."""
    pairs = [pair for pair in CONTRARY if given.keys() >= set(pair)]
    if pairs:
        one, other = pairs[0]
        raise InputError(f"{one}={given[one]} and {other}={given[other]} say the same in two ways; give one of them")
    if given.keys() >= {"aspect", "width", "height"}:
        raise InputError(f"aspect={given['aspect']}: width and height say it already; give one of the two beside it")


def complete(given: Mapping[str, Any], defaults: Mapping[str, Any], experts: int) -> Request:
    """Make a request of what was given and a model's defaults. What is None, or a choice of "", was not given."""
    given = given_of(given)
    check_keys(given)
    check_contrary(given)
    if not given.get("prompt", "").strip():
        raise InputError("prompt: it is empty; say what the video shows")
    wanted = {"negative": "", "fit": "crop", "seed": 0, **{key: defaults[key] for key in OWN if key in defaults}}
    wanted |= {key: value for key, value in given.items() if key in OWN}
    if "size" in given:
        wanted["height"], wanted["width"] = parse_size(given["size"])
    elif "preset" in given:
        wanted["height"], wanted["width"] = PRESETS[given["preset"]]
    elif "aspect" in given and "width" in given:
        wanted["height"] = round(wanted["width"] / _ratio(given["aspect"]))
    elif "aspect" in given:
        wanted["width"] = round(wanted["height"] * _ratio(given["aspect"]))
    if lacking := [field.name for field in fields(Request) if field.name not in wanted and field.default is MISSING]:
        raise InputError(f"{lacking[0]}: neither the request nor the model says what it is")
    request = Request(**{**wanted, "guidance": as_guidance(wanted["guidance"], experts)})
    if "seconds" in given:
        check_keys({"fps": request.fps})
        request = replace(request, frames=max(1, round(given["seconds"] * request.fps)))
    check_keys(asdict(request))
    shift = None if request.shift is None else float(request.shift)
    return replace(request, fps=float(request.fps), step_cache=float(request.step_cache), shift=shift)


def as_guidance(given: Any, experts: int = 0) -> float | tuple[float, ...]:
    """A number, or one for each expert (0: however many), as a list or as text: 4,3."""
    try:
        values = [float(v) for v in _listed(given)]
    except (TypeError, ValueError, OverflowError):
        values = []
    sound = all(isfinite(value) and abs(value) <= GUIDANCE for value in values)
    if len(values) not in (1, experts or len(values)) or not values or not sound:
        many = f", or {experts} of them with the one for the most noise first" if experts > 1 else ""
        raise InputError(f"guidance={str(given)[:60]}: expected a number{many}, of at most {GUIDANCE:g}")
    return values[0] if len(values) == 1 else tuple(values)


def _listed(given: Any) -> Sequence[Any]:
    if isinstance(given, str):
        return given.split(",")
    listed = given if isinstance(given, Sequence) else [given]
    if any(isinstance(one, bool) for one in listed):
        raise TypeError
    return listed


def _ratio(aspect: str | float) -> float:
    width, _, height = str(aspect).partition(":")
    try:
        ratio = float(width) / float(height or 1)
    except (ValueError, ZeroDivisionError):
        ratio = 0.0
    if not 0.05 <= ratio <= 20:
        raise InputError(f"aspect={str(aspect)[:60]}: expected width:height, such as 16:9")
    return ratio
