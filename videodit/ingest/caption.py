"""Captions of clips: what a captioner is given, what it gives back, and the captioner that keeps what came with a clip.

A long, detailed caption and a short one of the main subject for every clip are DALL·E 3's (Betker et al. 2023,
"Improving Image Generation with Better Captions"). Which of them, or of the original, a training sees is not decided
here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import numpy as np

from videodit.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

PLACE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Request:
    """One clip to caption.

    frames: a few of it, uint8 (H,W,3) RGB, in order of time. seconds: how long the clip lasts. given: the caption that
    came with it, or "".
    """

    frames: Sequence[np.ndarray]
    seconds: float
    given: str


@dataclass(frozen=True)
class Captions:
    """The captions of one clip.

    raw: the one that came with it, never changed. made_by: what wrote the others, a name that stays the same as long as
    the model and its prompts do, or "given".
    """

    raw: str
    long: str
    short: str
    made_by: str


@dataclass(frozen=True)
class Failed:
    """Why one clip has no captions. again: whether the same request may succeed later."""

    reason: str
    again: bool


class Captioner(Protocol):
    """Writes captions. A clip that cannot be captioned is Failed and stops no other; Stop stops all of them.

    looks: whether it needs the frames.
    """

    looks: bool

    @property
    def fingerprint(self) -> str:
        """What captions depend on beside the request: model, prompts, parameters. A key under which to keep them."""

    @property
    def usage(self) -> Mapping[str, float]:
        """What was used since it was made, under names such as "answers"; empty where nothing is counted."""

    def __call__(self, requests: Sequence[Request]) -> list[Captions | Failed]:
        """One answer for each request, in their order."""


class Given:
    """Keeps the caption that came with a clip, for long and short alike."""

    fingerprint = "given"
    looks = False
    usage: Mapping[str, float] = MappingProxyType({})

    def __call__(self, requests: Sequence[Request]) -> list[Captions | Failed]:
        """Captions, or Failed where none came."""
        return [self._one(request.given) for request in requests]

    def _one(self, given: str) -> Captions | Failed:
        if not given.strip():
            return Failed("has no caption", again=False)
        return Captions(raw=given, long=given, short=given, made_by="given")


class Prompts:
    """What a model is asked, and how many tokens it may answer with.

    Args:
        long: asked with the frames. May hold {frames}, their number, and {seconds}.
        given: follows it where a caption came with the clip, which stands for {given}.
        short: asked next, without frames, so that both captions agree: {long} is the long one.
        tokens_long, tokens_short: at most. A sentence that is cut off there is dropped.
    """

    def __init__(self, *, long: str, given: str, short: str, tokens_long: int, tokens_short: int) -> None:
        self._check("long", long, may={"frames", "seconds"}, must=set())
        self._check("given", given, may=set(), must={"given"})
        self._check("short", short, may=set(), must={"long"})
        for name, tokens in (("tokens_long", tokens_long), ("tokens_short", tokens_short)):
            if tokens < 1:
                raise InputError(f"captioner.prompts.{name}={tokens}: it is 1 or more")
        self.long, self.given, self.short = long, given, short
        self.tokens_long, self.tokens_short = tokens_long, tokens_short

    def ask_long(self, request: Request) -> str:
        """The text that goes with the frames."""
        known = {"frames": str(len(request.frames)), "seconds": f"{request.seconds:.1f}"}
        asked = [_fill(self.long, known)]
        if given := " ".join(request.given.split()):
            asked.append(_fill(self.given, {"given": given}))
        return "\n".join(asked)

    def ask_short(self, long: str) -> str:
        """The question that the long caption leads to."""
        return _fill(self.short, {"long": long})

    @property
    def parts(self) -> tuple[object, ...]:
        """All that answers depend on."""
        return self.long, self.given, self.short, self.tokens_long, self.tokens_short

    @staticmethod
    def _check(key: str, text: str, *, may: set[str], must: set[str]) -> None:
        found = set(PLACE.findall(text))
        if unknown := found - may - must:
            raise InputError(f"captioner.prompts.{key}: {{{min(unknown)}}} is not known there")
        if lacking := must - found:
            raise InputError(f"captioner.prompts.{key}: it lacks {{{min(lacking)}}}")


def _fill(template: str, known: Mapping[str, str]) -> str:
    """Put values in their places, once: braces in a caption stay what they are."""
    return PLACE.sub(lambda place: known[place[1]], template)


def digest(*parts: object) -> str:
    """16 hexadecimal digits of SHA-256 for plain values, by how they print."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def pictures(request: Request, edge: int) -> list[Image] | Failed:
    """The frames as images of which no side is longer than `edge` pixels; none is enlarged. Failed for no frames."""
    from PIL import Image

    images = []
    for frame in request.frames:
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or not frame.size:
            return Failed(f"a frame is {frame.dtype} {frame.shape}, not uint8 (H,W,3)", again=False)
        image = Image.fromarray(frame)
        scale = min(1.0, edge / max(image.size))
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        images.append(image if size == image.size else image.resize(size, Image.Resampling.LANCZOS))
    return images or Failed("has no frames", again=False)


def finished(request: Request, long: str | Failed, short: str | Failed, made_by: str) -> Captions | Failed:
    """The captions of one clip from both answers, or the first failure of them."""
    for answer in (long, short):
        if isinstance(answer, Failed):
            return answer
    return Captions(raw=request.given, long=str(long), short=str(short), made_by=made_by)
