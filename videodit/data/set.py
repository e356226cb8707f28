"""A training set that `videodit ingest` made: a manifest, and for training on pixels the files it was made from.

    C, T, H, W channels, frames, height, width
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch.utils.data import Dataset

from videodit.data import video
from videodit.data.files import Root
from videodit.data.resize import resize
from videodit.data.sample import BadSample, Sample, to_clip
from videodit.errors import InputError

MANIFEST, ABOUT = "manifest.parquet", "set.json"
READ = ["id", "source", "start", "frames", "fps", "sizes"]  # what reading a clip needs
Captions = Literal["long", "short", "raw"]


def read_manifest(root: Path) -> Any:
    """The manifest as an Arrow table, a row a clip; `ingest.record.COLUMNS` says what its columns mean."""
    import pyarrow
    from pyarrow import parquet

    if ":/" in str(root):  # as a path, a URL has lost a slash
        raise InputError(f"data.root={root}: a set is read memory-mapped; copy its folder to this machine")
    if not (root / MANIFEST).is_file():
        why = f"holds no {MANIFEST}: `videodit ingest` without dry_run makes a set"
        raise InputError(f"data.root={root}: {why if root.is_dir() else 'no such folder'}")
    try:
        return parquet.read_table(root / MANIFEST, memory_map=True)
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{root / MANIFEST}: cannot be read: {str(error).splitlines()[0]}") from None


class SetClips(Dataset[Sample]):
    """Rows of a manifest as clips, each once for every size that it has.

    Args:
        rows: with the columns of READ.
        captions: one for each row.
        sources: the folder or URL of the files.
        reader: of these files.
    """

    def __init__(self, *, rows: Any, captions: Sequence[str], sources: str, reader: video.Reader) -> None:
        self.rows, self.captions, self.reader = rows.select(READ), list(captions), reader
        counts = [len(sizes) for sizes in rows["sizes"].to_pylist()]
        self.places = [(row, size) for row, count in enumerate(counts) for size in range(count)]
        self.sources = Root(sources)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Sample:
        """The clip. Raises BadSample where its file is gone or cannot be read."""
        place, size = self.places[index]
        row = self.rows.slice(place, 1).to_pylist()[0]
        height, width = row["sizes"][size]
        try:
            with self.sources.open(row["source"]) as path:
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


def training_set(
    *, root: str | Path, split: str, captions: Captions, sources: str | None, reader: video.Reader
) -> SetClips:
    """The clips of a set's split, train or heldout.

    captions: long, short or raw, the ones that came with the clips; where a clip lacks it, another one serves.
    sources: where the files are; None: where they were when the set was made.
    """
    import pyarrow

    if captions not in get_args(Captions) or reader not in get_args(video.Reader):
        kinds, readers = ", ".join(get_args(Captions)), ", ".join(get_args(video.Reader))
        raise InputError(f"data.captions={captions} is one of {kinds}; data.reader={reader} one of {readers}")
    table = read_manifest(Path(root))
    wanted = [value == split for value in table["split"].to_pylist()]
    table = table.filter(pyarrow.array(wanted, type=pyarrow.bool_()))
    where = sources or json.loads((Path(root) / ABOUT).read_text(encoding="utf-8"))["sources"]
    return SetClips(rows=table, captions=pick(table, captions), sources=where, reader=reader)


def pick(table: Any, kind: Captions) -> list[str]:
    """The wanted caption of each row, or the next one that is there."""
    names = {"long": "caption_long", "short": "caption_short", "raw": "caption"}
    order = [names.pop(kind), *names.values()]
    columns = [table[name].to_pylist() for name in order]
    return [next((text for text in row if text), "") for row in zip(*columns, strict=True)]
