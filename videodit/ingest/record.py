"""What goes from stage to stage: a record, plain values under the names of COLUMNS; and why one goes no further."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from videodit.errors import InputError, Stop

Record = dict[str, Any]  # values that JSON holds
Stage = Callable[[Record], list[Record]]  # raises Dropped or InputError for this record, Stop for all of them


class Column(NamedTuple):
    """A column of the manifest: its name, Arrow's name of its type, and what it means."""

    name: str
    type: str
    meaning: str


COLUMNS = (
    Column("id", "string", "of the clip: a hash of its shot, its times and its sizes"),
    Column("source", "string", "the file, relative to the folder taken in; a tar's member after an exclamation mark"),
    Column("start", "double", "seconds of the clip's first frame after the file's"),
    Column("frames", "int64", "how many it has at `fps`"),
    Column("fps", "double", "frames a second of the clip; the file's nearest ones are taken"),
    Column("sizes", "list<list<int64>>", "[height, width] of each size that it is trained at"),
    Column("caption", "string", "the one that came with it; empty if none"),
    Column("caption_short", "string", "of the main subject"),
    Column("caption_long", "string", "of all that is seen"),
    Column("captioned_by", "string", "what wrote these two: a model with its prompts, or given"),
    Column("split", "string", "train or heldout"),
    Column("group", "string", "alike for clips of one file or origin and for near-duplicates: one side of the split"),
    Column("shards", "list<string>", "the file of latents for each of `sizes`; empty where none were made"),
    Column("shot", "string", "what it was cut from: a hash of the file's bytes and of the shot's frames"),
    Column("first", "int64", "the shot's first frame in the file, in order of time, from 0"),
    Column("last", "int64", "its last frame"),
    Column("count", "int64", "how many of the shot's frames can be decoded"),
    Column("corrupt", "int64", "frames of the file that cannot"),
    Column("shot_start", "double", "seconds of the shot's first frame after the file's"),
    Column("seconds", "double", "how long the shot is"),
    Column("height", "int64", "of the file's frames, upright and of square pixels"),
    Column("width", "int64", "of the file's frames"),
    Column("source_fps", "double", "the file's frames a second, on average where the rate varies"),
    Column("length", "double", "seconds of the file"),
    Column("codec", "string", "the file's"),
    Column("pixel_format", "string", "the file's, as FFmpeg calls it"),
    Column("hdr", "string", "its transfer function where it is HDR, else null"),
    Column("variable", "bool", "whether its frames are unevenly spaced in time"),
    Column("interlaced", "bool", "whether it is; its frames are read deinterlaced"),
    Column("origin", "string", "what the file itself was cut from, where a table says so"),
    Column("sha256", "string", "of the file's bytes"),
)


class Dropped(Exception):
    """A record goes no further. reason: in a few words, alike for all that have it; detail: what was measured.

    `again`: it may be another time, so nothing is remembered of it.
    """

    def __init__(self, reason: str, detail: str = "", *, again: bool = False) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail, self.again = reason, detail, again


@contextmanager
def stopping() -> Iterator[None]:
    """Make a Stop of each InputError inside: the fault is not the record's."""
    try:
        yield
    except InputError as error:
        raise Stop(str(error)) from error


def digest(*parts: Any) -> str:
    """16 hexadecimal digits that depend on every part's text and on their order."""
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "surrogatepass")).hexdigest()[:16]
