"""Requests: what one video should be, in the one schema that Python, the command line, files and recipes share.

A key is one field of `Request`: its type, limits, sentence and default. All surfaces read them there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from math import isfinite
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args, get_type_hints

from videodit.errors import InputError, did_you_mean
from videodit.settings import key, value
from videodit.shapes import PRESETS, Fit, parse_size
from videodit.untrusted import MOST, json_lines

GUIDANCE = 1000.0  # the largest; a model's own are below 20
SIDE = 16384  # the most frames, steps, rows and columns


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


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for, complete: one video. Frames, height, width and fps are those of the result.

    A key without a default here has the model's own. Experts have one guidance, or one each, that for the most noise
    first.
    """

    prompt: str = key("what the video shows", max_length=MOST.caption)
    negative: str = key("what to steer away from", "", max_length=MOST.caption)
    frames: int = key("how many, else the model's own number", ge=1, le=SIDE)
    height: int = key("pixels, else the model's own", ge=1, le=SIDE)
    width: int = key("pixels, else the model's own", ge=1, le=SIDE)
    fps: float = key("frames a second, else the model's own", ge=0.01, le=240, allow_inf_nan=False)
    fit: Fit = key(
        "crop (if nothing is said), pad or stretch: how the model's shape becomes the size asked for", "crop"
    )
    seed: int = key(
        "of the noise, else 0; the same gives the same video (but for rounding); lines without one count up from it; "
        "1,2,3: a video each", 0, ge=0, lt=2**63,
    )  # fmt: skip
    steps: int = key("of the sampler, else the model's own", ge=1, le=SIDE)
    guidance: float | tuple[float, ...] = key(
        "how strongly the prompt counts, else the model's own; 1: without guidance",
        written=as_guidance,
    )
    sampler: Literal["euler", "heun", "unipc", "dpmpp"] = key("euler, heun, unipc or dpmpp, else the model's own")
    step_cache: float = key(
        "such as 0.05: blocks are skipped at steps where the first of them changes less; the error is told",
        0.0, ge=0, lt=1, allow_inf_nan=False,
    )  # fmt: skip
    shift: float | None = key(
        "how far the times lean to the noise, such as 5; else as the model says", None, gt=0, le=1000,
        allow_inf_nan=False,
    )  # fmt: skip

    @property
    def way(self) -> tuple[str, int, float, float | None]:
        """What requests that are made together have in common."""
        return self.sampler, self.steps, self.step_cache, self.shift


@dataclass(frozen=True, kw_only=True)
class ByIntent:
    """Keys that say the same by intent: they become some of a request's own."""

    size: str = key("WIDTHxHEIGHT in pixels")
    aspect: str | float = key("width:height, with height, width or the model's own height")
    preset: Literal[tuple(PRESETS)] = key(f"{', '.join([*PRESETS][:-1])} or {[*PRESETS][-1]}")
    seconds: float = key("how long, instead of frames", gt=0, le=2**24, allow_inf_nan=False)


OWN = tuple(field.name for field in fields(Request))
INTENTS = tuple(field.name for field in fields(ByIntent))
KEYS = (*OWN, *INTENTS)  # what a caller may give

FREE = ("prompt", "negative")  # texts that may be empty

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
    for name, one in given.items():
        if name not in KEYS:
            raise InputError(f"unknown request key {name!r}{did_you_mean(name, KEYS)}")
        value(Request if name in OWN else ByIntent, name, one)


def read_requests(path: Path) -> list[dict[str, Any]]:
    """The keys of requests from a .jsonl file. InputError names file and line."""
    requests = []
    for number, request in json_lines(path, Any):
        if isinstance(request, InputError):
            raise request
        if not isinstance(request, dict) or not isinstance(request.get("prompt"), str):
            raise InputError(f'{path}, line {number}: expected an object such as {{"prompt": "a red ball"}}')
        if unknown := sorted(request.keys() - set(KEYS)):
            raise InputError(f"{path}, line {number}: unknown key {unknown[0]!r}{did_you_mean(unknown[0], KEYS)}")
        request = given_of(request)
        try:
            check_keys(request)
            check_contrary(request)
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from None
        requests.append(request)
    if not requests:
        raise InputError(f"{path}: there is no request in it")
    return requests


def given_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """What was given: None, and a choice of "", was not. A prompt may be "", which no default takes the place of."""
    return {name: one for name, one in values.items() if one is not None and (one != "" or name in FREE)}


def with_defaults(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, and for the rest the defaults: one that says the same in another way does not count."""
    displaced = {other for name in given for other in DISPLACED.get(name, ())}
    return {**{name: one for name, one in defaults.items() if name not in displaced}, **given}


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
    own = {field.name: field.default for field in fields(Request) if field.default is not MISSING}
    wanted = {**own, **{name: defaults[name] for name in OWN if name in defaults}}
    wanted |= {name: one for name, one in given.items() if name in OWN}
    if "size" in given:
        wanted["height"], wanted["width"] = parse_size(given["size"])
    elif "preset" in given:
        wanted["height"], wanted["width"] = PRESETS[given["preset"]]
    elif "aspect" in given and "width" in given:
        wanted["height"] = round(wanted["width"] / _ratio(given["aspect"]))
    elif "aspect" in given:
        wanted["width"] = round(wanted["height"] * _ratio(given["aspect"]))
    if lacking := [name for name in OWN if name not in wanted]:
        raise InputError(f"{lacking[0]}: neither the request nor the model says what it is")
    request = Request(**{**wanted, "guidance": as_guidance(wanted["guidance"], experts)})
    if "seconds" in given:
        check_keys({"fps": request.fps})
        request = replace(request, frames=max(1, round(given["seconds"] * request.fps)))
    check_keys(asdict(request))
    return replace(request, **{name: float(getattr(request, name)) for name in _decimal(request)})


def _decimal(request: Request) -> list[str]:
    """The keys whose whole numbers are decimal ones, too: a record says 5.0 for 5."""
    hints = get_type_hints(Request)
    kinds = {name: get_args(hints[name]) or (hints[name],) for name in OWN}
    return [name for name in OWN if float in kinds[name] and isinstance(getattr(request, name), int)]


def _ratio(aspect: str | float) -> float:
    width, _, height = str(aspect).partition(":")
    try:
        ratio = float(width) / float(height or 1)
    except (ValueError, ZeroDivisionError):
        ratio = 0.0
    if not 0.05 <= ratio <= 20:
        raise InputError(f"aspect={str(aspect)[:60]}: expected width:height, such as 16:9")
    return ratio
