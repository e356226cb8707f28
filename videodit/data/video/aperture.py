"""The clean aperture of an mp4: which part of the stored frames is to be seen (ISO 14496-12, box `clap`).

H.264 in 4:2:0 has even sizes only, in its own flags of cropping too; a clip of odd size is stored with a row or column
more, and the container says so. Players that know the box show the clip alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, NamedTuple

from videodit.data.video.files import opened

PATH = (b"trak", b"mdia", b"minf", b"stbl")  # below moov, to the boxes of a track's samples
OFFSETS = MappingProxyType({b"stco": "I", b"co64": "Q"})  # tables of where chunks begin, and their numbers
ENTRY = 86  # bytes of a visual sample's entry before the boxes in it: its header and fields
SIZE = 32  # where in them width and height stand, 16 bits each
MOST = 4096  # boxes beside each other that are looked at


class Aperture(NamedTuple):
    """What is seen of stored frames, in pixels."""

    top: int
    left: int
    height: int
    width: int


class _Box(NamedTuple):
    """Where a box stands in a file, and where its content begins."""

    kind: bytes
    start: int
    content: int
    end: int


def aperture(path: str | Path, height: int, width: int) -> Aperture | None:
    """What is to be seen of a file's stored frames of this size; None where that is all of them, or nothing is said."""
    with opened(path) as descriptor, open(descriptor, "rb", closefd=False) as file:
        for _, entry in _entries(file):
            file.seek(entry.start + SIZE)
            if struct.unpack(">HH", file.read(4).ljust(4, b"\0")) != (width, height):
                continue
            for box in _boxes(file, entry.start + ENTRY, entry.end):
                if box.kind == b"clap":
                    file.seek(box.content)
                    return _seen(file.read(32), height, width)
    return None


def crop(path: Path, height: int, width: int) -> None:
    """Say in an mp4, whose `moov` stands before its data, that frames are seen at this size, from the top left."""
    with path.open("rb") as file:
        moov, entry = next(_entries(file))
        file.seek(entry.start + SIZE)
        stored_width, stored_height = struct.unpack(">HH", file.read(4))
        parents = [moov, *_parents(file, moov)]
        samples = parents[-2]
        tables = [box for box in _boxes(file, samples.content, samples.end) if box.kind in OFFSETS]
        file.seek(0)
        content = bytearray(file.read())
    offsets = (width - stored_width, 2, height - stored_height, 2)  # of the centre
    box = struct.pack(">I4s4I4i", 40, b"clap", width, 1, height, 1, *offsets)
    for parent in [*parents, entry]:
        size = struct.unpack_from(">I", content, parent.start)[0]
        struct.pack_into(">I", content, parent.start, size + len(box))
    for table in tables:  # where chunks of the data begin, which are all behind
        layout = f">{struct.unpack_from('>I', content, table.content + 4)[0]}{OFFSETS[table.kind]}"
        places = struct.unpack_from(layout, content, table.content + 8)
        struct.pack_into(layout, content, table.content + 8, *(place + len(box) for place in places))
    content[entry.end : entry.end] = box
    path.write_bytes(content)


def _seen(content: bytes, height: int, width: int) -> Aperture | None:
    """A `clap`'s numbers, where they are a part of frames of this size: whole pixels, rounded."""
    if len(content) < 32:
        return None
    wide, of_wide, high, of_high, across, of_across, down, of_down = struct.unpack(">4I4i", content)
    if 0 in (of_wide, of_high, of_across, of_down):
        return None
    seen_height, seen_width = round(high / of_high), round(wide / of_wide)
    top = round(down / of_down + (height - seen_height) / 2)
    left = round(across / of_across + (width - seen_width) / 2)
    inside = 0 <= top < top + seen_height <= height and 0 <= left < left + seen_width <= width
    part = Aperture(top, left, seen_height, seen_width)
    return part if inside and part != (0, 0, height, width) else None


def _entries(file: BinaryIO) -> Iterator[tuple[_Box, _Box]]:
    """The file's `moov`, and the first entry of each track's samples."""
    file.seek(0, 2)
    for moov in _boxes(file, 0, file.tell()):
        if moov.kind != b"moov":
            continue
        for stsd in _below(file, moov, (*PATH, b"stsd")):
            yield from ((moov, entry) for entry in _boxes(file, stsd.content + 8, stsd.end, most=1))


def _below(file: BinaryIO, box: _Box, path: tuple[bytes, ...]) -> Iterator[_Box]:
    """The boxes that a path of kinds leads to."""
    for inner in _boxes(file, box.content, box.end):
        if inner.kind == path[0]:
            yield from _below(file, inner, path[1:]) if path[1:] else [inner]


def _parents(file: BinaryIO, moov: _Box) -> list[_Box]:
    """What holds the entry of the one track, but for `moov`."""
    paths = [(*PATH, b"stsd")[: count + 1] for count in range(len(PATH) + 1)]
    return [next(_below(file, moov, path)) for path in paths]


def _boxes(file: BinaryIO, start: int, end: int, most: int = MOST) -> Iterator[_Box]:
    """The boxes beside each other in a part of a file, as far as they are whole."""
    for _ in range(most):
        file.seek(start)
        head = file.read(16) if start + 8 <= end else b""
        if len(head) < 8:
            return
        size, kind = struct.unpack_from(">I4s", head)
        content = start + 8
        if size == 1 and len(head) == 16:
            size, content = struct.unpack_from(">Q", head, 8)[0], start + 16
        stop = end if size == 0 else start + size
        if not content <= stop <= end:
            return
        yield _Box(kind, start, content, stop)
        start = stop
