"""A set on disk: its manifest, what was dropped, and where it came from. It changes at once, or not at all.

set/manifest.parquet   a row a clip (record.COLUMNS, then every measure)
set/dropped.parquet    a row for each file or shot that did not get there: stage, reason, detail
set/set.json           what it was made from, and how
set/cache/             latents and text states, by content
set/report.html        the doctor's page
set/.ingest/           what stages have done, for the next run
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from videodit.atomic import clear
from videodit.checkpoint.store import sole
from videodit.data.set import ABOUT, MANIFEST
from videodit.data.video import replacing
from videodit.errors import InputError
from videodit.ingest.record import COLUMNS, Record
from videodit.ingest.run import Outcome

DROPPED = ("stage", "reason", "detail")
OF_CLIPS = ("id", "start", "frames", "fps", "sizes", "split", "shards")  # columns that what was dropped has not


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Be the only run on a set while the `with` block lasts. InputError where another one is."""
    folder = out / ".ingest"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out={out}: cannot be made: {error.strerror or error}") from None
    with sole(folder / "lock", f"out={out}"):
        clear(out)  # what a run has left that was killed
        yield


def table(records: Sequence[Record], measures: Sequence[str], *, dropped: bool) -> Any:
    """Records as an Arrow table."""
    import pyarrow

    lists = {"list<string>": pyarrow.list_(pyarrow.string()),
             "list<list<int64>>": pyarrow.list_(pyarrow.list_(pyarrow.int64()))}  # fmt: skip
    names = [(column.name, column.type) for column in COLUMNS if not (dropped and column.name in OF_CLIPS)]
    names = [(name, "string") for name in DROPPED * dropped] + names + [(name, "double") for name in measures]
    schema = pyarrow.schema([(name, lists.get(kind) or pyarrow.type_for_alias(kind)) for name, kind in names])
    return pyarrow.Table.from_pylist([{name: r.get(name) for name, _ in names} for r in records], schema=schema)


def packed(content: Any) -> bytes:
    """A table as a Parquet file, the same bytes for the same rows."""
    import pyarrow
    from pyarrow import parquet

    file = pyarrow.BufferOutputStream()
    parquet.write_table(content, file, compression="zstd", row_group_size=65536)
    return file.getvalue().to_pybytes()


def write_set(
    out: Path, found: Outcome, measures: Sequence[str], about: dict[str, Any], report: Mapping[str, bytes]
) -> None:
    """The set's files, and a report's."""
    stages = list(found.seen)
    gone = sorted(found.dropped, key=lambda one: (stages.index(one["stage"]), one["source"], one.get("first", 0)))
    contents = {
        MANIFEST: packed(table(found.clips, measures, dropped=False)),
        "dropped.parquet": packed(table(gone, measures, dropped=True)),
        ABOUT: json.dumps(about, indent=2).encode() + b"\n",
    }
    write_files(out, contents | report)


def write_files(out: Path, contents: Mapping[str, bytes]) -> None:
    """Files that take their places once all of them are on disk, the first one last."""
    with ExitStack() as stack:
        places = {name: stack.enter_context(replacing(out / name)) for name in contents}
        for name, content in contents.items():
            try:
                with places[name].open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise InputError(f"{out / name}: cannot be written: {error.strerror or error}") from None
