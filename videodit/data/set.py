"""A training set that `videodit ingest` made: a manifest, and for training on pixels the files it was made from.

C, T, H, W channels, frames, height, width
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch.utils.data import Dataset
from typing_extensions import TypedDict

from videodit.data import video
from videodit.data.files import Root, is_url
from videodit.data.resize import resize
from videodit.data.sample import BadSample, Sample, to_clip
from videodit.data.video.frame import FASTEST, PIXELS
from videodit.errors import InputError
from videodit.printable import note
from videodit.shapes import Sizes, VideoShape
from videodit.untrusted import KIB, MIB, MOST, check, read_json

MANIFEST, ABOUT = "manifest.parquet", "set.json"
READ = ["id", "source", "start", "frames", "fps", "sizes"]  # what reading a clip needs
TYPES = {
    "id": "string", "source": "string", "start": "double", "frames": "int64", "fps": "double", "split": "string",
    "caption": "string", "caption_short": "string", "caption_long": "string",  # and a list of lists of sizes
}  # fmt: skip
RANGES = {"start": (0.0, 1e9), "frames": (1, 10**5), "fps": (1e-6, FASTEST)}
EDGE = 2**15  # pixels along a side
Captions = Literal["long", "short", "raw"]


class About(TypedDict):
    """What a set says of itself, as far as training goes."""

    sources: str


def read_manifest(root: Path) -> Any:
    """The manifest as an Arrow table, a row a clip; `ingest.record.COLUMNS` says what its columns mean.

    Texts are read as dictionaries, where one that is repeated takes room once, and made plain when their size is known.
    """
    import pyarrow
    from pyarrow import parquet

    if ":/" in str(root):  # as a path, a URL has lost a slash
        raise InputError(f"data.root={root}: a set is read memory-mapped; copy its folder to this machine")
    if not (root / MANIFEST).is_file():
        why = f"holds no {MANIFEST}: `videodit ingest` without dry_run makes a set"
        raise InputError(f"data.root={root}: {why if root.is_dir() else 'no such folder'}")
    try:
        with parquet.ParquetFile(root / MANIFEST, memory_map=True) as file:
            _check_counts(file.metadata, root / MANIFEST)
            names = [field.name for field in file.schema_arrow if _is_text(field.type)]
        table = parquet.read_table(root / MANIFEST, memory_map=True, read_dictionary=names)
        _check_texts(table, root / MANIFEST)
        plain = [(field.name, pyarrow.string() if _is_text(field.type) else field.type) for field in table.schema]
        table = table.cast(pyarrow.schema(plain))
        table.validate(full=True)
    except (OSError, UnicodeError, pyarrow.ArrowException) as error:  # names of columns may be no UTF-8
        raise InputError(f"{root / MANIFEST}: cannot be read: {(str(error) or 'damaged').splitlines()[0]}") from None
    _check_rows(table, root / MANIFEST)
    return table


def _is_text(kind: Any) -> bool:
    import pyarrow

    kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    return pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)


def _check_counts(about: Any, path: Path) -> None:
    """InputError for more rows, or values of a column, than a set has: some bytes may stand for any number."""
    parts = [about.row_group(i) for i in range(about.num_row_groups)]
    columns = zip(*([part.column(i).num_values for i in range(part.num_columns)] for part in parts), strict=True)
    most = max([about.num_rows, *(part.num_rows for part in parts), *map(sum, columns)])
    if not 0 <= most <= MOST.rows:
        raise InputError(f"{path}: {most} rows or values of a column; a set has at most {MOST.rows}")


def _check_texts(table: Any, path: Path) -> None:
    """InputError where texts would be larger, written out, than any set's; or one of them than any caption."""
    from pyarrow import compute, types

    total = 0
    for name in table.column_names:
        for chunk in table[name].chunks if _is_text(table[name].type) else ():
            coded = types.is_dictionary(chunk.type)
            lengths = compute.binary_length(chunk.dictionary if coded else chunk)
            longest = compute.max(lengths).as_py() or 0
            if longest > MOST.caption:
                raise InputError(f"{path}: {name}: a text of {longest // KIB} KiB; at most {MOST.caption // KIB}")
            total += compute.sum(lengths.take(chunk.indices) if coded else lengths).as_py() or 0
    if total > MOST.manifest:
        raise InputError(f"{path}: its texts are {total // MIB} MiB; at most {MOST.manifest // MIB}")


class Refusal(str):
    """Why files are not read, in a line."""


class SetClips(Dataset[Sample]):
    """Rows of a manifest as clips, each once for every size that it has.

    Args:
        rows: with the columns of READ.
        captions: one for each row.
        sources: the folder or URL of the files; a Refusal where that may not be read, which latents may not need.
        reader: of these files.
    """

    def __init__(self, *, rows: Any, captions: Sequence[str], sources: str | Refusal, reader: video.Reader) -> None:
        self.rows, self.captions, self.reader = rows.select(READ), list(captions), reader
        counts = [len(sizes) for sizes in rows["sizes"].to_pylist()]
        self.places = [(row, size) for row, count in enumerate(counts) for size in range(count)]
        self.where = sources

    @cached_property
    def sources(self) -> Root:
        """Where the files are. InputError where nobody said."""
        if isinstance(self.where, Refusal):
            raise InputError(self.where)
        return Root(self.where)

    def __len__(self) -> int:
        return len(self.places)

    def check(self, sizes: Sizes, name: str) -> None:
        """InputError, which begins with `name`, where networks of these sizes do not take a clip."""
        told = "`videodit ingest` makes a set for a model with vae=, or with shape.multiple="
        instead = f"{told}{math.lcm(*sizes.steps[1:])}"
        pairs = zip(self.rows["frames"].to_pylist(), self.rows["sizes"].to_pylist(), strict=True)
        for shape in sorted({(frames, *size) for frames, several in pairs for size in several}):
            sizes.check(VideoShape(*shape), name, instead)

    def __getitem__(self, index: int) -> Sample:
        """The clip. Raises BadSample where its file is gone or cannot be read."""
        place, size = self.places[index]
        row = self.rows.slice(place, 1).to_pylist()[0]
        height, width = row["sizes"][size]
        sources = self.sources
        try:
            with sources.open(row["source"]) as path:
                interval = {key: row[key] for key in ("start", "frames", "fps")}
                # Resized one by one: a long interval of a large video never stands in memory at its own size.
                images = [
                    resize(to_clip(image[None]), height, width, fit="crop")
                    for image in video.stream(path, **interval, reader=self.reader)
                ]
        except (InputError, OSError) as error:
            raise BadSample(row["source"], str(error)) from error
        if len(images) < row["frames"]:
            raise BadSample(row["source"], f"{len(images)} of {row['frames']} frames from {row['start']:g} seconds on")
        return Sample(clip=torch.cat(images, dim=1), caption=self.captions[place], fps=row["fps"], key=row["id"])

    def caption(self, index: int) -> str:
        """Of a clip, without reading it."""
        return self.captions[self.places[index][0]]

    def fingerprint(self, index: int) -> str:
        """What the clip's pixels depend on: its id stands for the file's bytes and the times."""
        place, size = self.places[index]
        row = self.rows.slice(place, 1)
        return fingerprint(row["id"][0].as_py(), row["sizes"][0].as_py()[size])


def fingerprint(clip: str, size: Sequence[int]) -> str:
    """Of a clip of this id at [height, width]."""
    return f"{clip}-{size[0]}x{size[1]}-crop"


def _sources(root: Path, split: str) -> str | Refusal:
    """Where a set says that its files are: only a folder is taken at its word, and one outside the set is told."""
    said = read_json(root / ABOUT, About)["sources"]
    if is_url(said):
        told = f"{root / ABOUT}: names {said}; what a file says is not fetched, data.sources={said} takes it from there"
        return Refusal(told)
    folder = os.path.normpath(root.absolute() / said)
    if split == "train" and not Path(folder).is_relative_to(root.absolute()):  # once for the two parts
        note(__name__, f"{root / ABOUT}: its videos are those in {folder}; data.sources= names others")
    return folder


def _check_rows(table: Any, path: Path) -> None:
    """InputError for a column of another type, or a value out of range."""
    for name, kind in TYPES.items():
        if name not in table.column_names or str(table[name].type) != kind:
            found = f"is {table[name].type}" if name in table.column_names else "is missing"
            raise InputError(f"{path}: column {name} {found}; it should be {kind}")
    for name, (least, most) in RANGES.items():
        values = table[name].to_numpy()
        wrong = np.flatnonzero(~((values >= least) & (values <= most)))  # a null is no number either
        if len(wrong):
            raise InputError(f"{path}, row {wrong[0]}: {name}={values[wrong[0]]} should be {least:g} to {most:g}")
    sizes = check(table["sizes"].to_pylist() if "sizes" in table.column_names else None, list[list[list[int]]], path)
    for row, several in enumerate(sizes):
        for size in several:
            if len(size) != 2 or not all(1 <= edge <= EDGE for edge in size) or size[0] * size[1] > PIXELS:
                raise InputError(f"{path}, row {row}: a size of {size} should be [height, width] in pixels")
    for name in ("id", "source", "split"):
        if table[name].null_count:
            raise InputError(f"{path}: column {name} should have no gaps")


def training_set(
    *, root: str | Path, split: str, captions: Captions, sources: str | None, reader: video.Reader
) -> SetClips:
    """The clips of a set's split, train or heldout.

    captions: long, short or raw, the ones that came with the clips; where a clip lacks it, another one serves.
    sources: where the files are; None: in the folder where they were when the set was made.
    """
    import pyarrow

    if captions not in get_args(Captions) or reader not in get_args(video.Reader):
        kinds, readers = ", ".join(get_args(Captions)), ", ".join(get_args(video.Reader))
        raise InputError(f"data.captions={captions} is one of {kinds}; data.reader={reader} one of {readers}")
    table, root = read_manifest(Path(root)), Path(root)
    wanted = [value == split for value in table["split"].to_pylist()]
    table = table.filter(pyarrow.array(wanted, type=pyarrow.bool_()))
    where = sources or _sources(root, split)
    return SetClips(rows=table, captions=pick(table, captions), sources=where, reader=reader)


def pick(table: Any, kind: Captions) -> list[str]:
    """The wanted caption of each row, or the next one that is there."""
    names = {"long": "caption_long", "short": "caption_short", "raw": "caption"}
    order = [names.pop(kind), *names.values()]
    columns = [table[name].to_pylist() for name in order]
    return [next((text for text in row if text), "") for row in zip(*columns, strict=True)]
