"""Records: how a video was made, as its file keeps it, and what of that makes it again to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from videodit.data.video import beside, probe
from videodit.errors import InputError
from videodit.generate.layout import Count, Layout, Whole, check_layout
from videodit.untrusted import check, parse_json, read_text

Name = Annotated[str, Field(min_length=1, max_length=4096)]


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


def read_record(path: Path) -> dict[str, Any]:
    """The record of a video. InputError if there is none."""
    text, where = record_text(path)
    return parse_record(text, f"{where}: its record")


def record_text(path: Path) -> tuple[str, Path]:
    """The record of a video as text, and where that stands: inside it, else beside it, which may be named itself.

    InputError if there is none.
    """
    if path.suffix == ".json":
        return read_text(path), path
    text = inside(path)
    if not text and beside(path).is_file():
        return read_text(beside(path)), beside(path)
    if not text:
        raise InputError(f"{path}: it has no record of how it was made; videodit did not write it")
    return text, path


def inside(path: Path) -> str:
    """The text in which a file of ours, or a folder of frames, has its record; empty where it has none."""
    text = read_text(beside(path)) if path.is_dir() and beside(path).parent == path else probe(path).comment
    return text if text.lstrip().startswith("{") else ""
