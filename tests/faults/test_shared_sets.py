"""A set that somebody shares: what its files may name, and how much of them is believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from tests.data.clips import numbered
from videodit.data import video
from videodit.data.sample import BadSample
from videodit.data.set import SetClips, read_manifest, training_set
from videodit.errors import InputError
from videodit.untrusted import MOST

ROW: dict[str, Any] = {
    "id": "a", "source": "x.mp4", "start": 0.0, "frames": 5, "fps": 8.0, "sizes": [[32, 64]], "caption": "a",
    "caption_short": "", "caption_long": "", "split": "train",
}  # fmt: skip


def shared(folder: Path, sources: Any, *rows: dict[str, Any]) -> Path:
    """A set of such rows, and the video that they name, in a folder beside it."""
    (folder / "set").mkdir(exist_ok=True)
    video.write(folder / "videos" / "x.mp4", numbered(8), 8)
    table = pyarrow.Table.from_pylist([ROW | row for row in rows or ({},)])
    parquet.write_table(table, folder / "set" / "manifest.parquet")
    (folder / "set" / "set.json").write_text(json.dumps({"sources": sources}))
    return folder / "set"


def clips(root: Path, sources: str | None = None) -> SetClips:
    return training_set(root=root, split="train", captions="raw", sources=sources, reader="av")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x", "memory://videos", "simplecache::http://x", "file:///etc"])
def test_a_url_is_fetched_for_who_types_it_alone(tmp_path: Path, url: str) -> None:
    made = clips(shared(tmp_path, url))
    assert len(made) == 1 and made.fingerprint(0), "latents need no file"
    with pytest.raises(InputError, match="data.sources=") as caught:
        made[0]
    assert url in str(caught.value)


def test_a_url_of_the_command_line() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    rows = pyarrow.Table.from_pylist([ROW])
    try:
        memory.pipe("/shared/x.mp4", b"no video")
        with pytest.raises(BadSample, match="not a readable video"):
            SetClips(rows=rows, captions=[""], sources="memory://shared", reader="av")[0]
        with pytest.raises(InputError, match="memory://"):
            SetClips(rows=rows, captions=[""], sources="ftp://shared", reader="av")[0]
    finally:
        memory.rm("/shared", recursive=True)


def test_folders_inside_and_outside_the_set(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A relative one is the set's; one outside is read, and told once."""
    root = shared(tmp_path, str(tmp_path / "videos"))
    assert clips(root)[0].clip.shape == (3, 5, 32, 64)
    (told,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "videos") in told and "data.sources=" in told
    training_set(root=root, split="heldout", captions="raw", sources=None, reader="av")
    assert clips(root, str(tmp_path / "videos"))[0].clip.shape == (3, 5, 32, 64)
    assert not capsys.readouterr().err
    (root / "set.json").write_text('{"sources": "in/it"}')
    video.write(root / "in" / "it" / "x.mp4", numbered(8), 8)
    assert clips(root)[0].clip.shape == (3, 5, 32, 64) and not capsys.readouterr().err


@pytest.mark.parametrize("source", ["../videos/x.mp4", "/etc/passwd", "http://127.0.0.1:9/x", "x/../../y", "\0", ""])
def test_a_source_cannot_lead_out(tmp_path: Path, source: str) -> None:
    (tmp_path / "inner").mkdir()
    made = clips(shared(tmp_path, str(tmp_path / "inner"), {"source": source}))
    with pytest.raises(BadSample, match="leads out"):
        made[0]


@pytest.mark.parametrize("about", ["[]", "{}", '{"sources": 3}', "[" * 100_000, '{"sources": "\\ud800"}', "\0"])
def test_a_set_json_that_is_wrong_is_one_line(tmp_path: Path, about: str) -> None:
    (shared(tmp_path, "") / "set.json").write_text(about)
    with pytest.raises(InputError, match="set.json"):
        clips(tmp_path / "set")


@pytest.mark.parametrize("name", [b"caption_long", b"source", b"sizes"])
def test_a_column_whose_name_is_no_text_is_one_line(tmp_path: Path, name: bytes) -> None:
    manifest = shared(tmp_path, "") / "manifest.parquet"
    table = parquet.read_table(manifest).replace_schema_metadata(None)
    parquet.write_table(table, manifest, store_schema=False)
    manifest.write_bytes(manifest.read_bytes().replace(name, b"\xff" + name[1:]))
    with pytest.raises(InputError, match=r"manifest\.parquet"):
        read_manifest(tmp_path / "set")


@pytest.mark.parametrize(
    "row",
    [{"start": -1.0}, {"start": float("nan")}, {"start": float("inf")}, {"start": None}, {"start": "0"}, {"frames": 0},
     {"frames": 2**40}, {"frames": 5.0}, {"frames": None}, {"fps": 0.0}, {"fps": float("nan")}, {"fps": 1e9},
     {"sizes": [[32]]}, {"sizes": [[0, 32]]}, {"sizes": [[-1, 32]]}, {"sizes": [[2**15, 2**15]]}, {"sizes": None},
     {"sizes": [None]}, {"sizes": [[None, 32]]}, {"sizes": 32}, {"id": None}, {"source": None}, {"source": 3},
     {"caption": [1]}, {"split": None}],
    ids=str,
)  # fmt: skip
def test_a_row_of_the_wrong_values_is_one_line(tmp_path: Path, row: dict[str, Any]) -> None:
    root = shared(tmp_path, str(tmp_path / "videos"), row)
    with pytest.raises(InputError, match="manifest.parquet"):
        clips(root)


def test_texts_that_are_repeated_are_counted_before_they_are_written_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dictionary holds a text once, whatever number of rows show it."""
    root = shared(tmp_path, ".")
    rows, text = 20_000, "x" * MOST.caption
    columns = {name: pyarrow.array([value] * rows) for name, value in ROW.items()}
    columns["caption"] = pyarrow.DictionaryArray.from_arrays(np.zeros(rows, np.int32), [text])
    parquet.write_table(pyarrow.table(columns), root / "manifest.parquet", compression="zstd")
    assert (root / "manifest.parquet").stat().st_size < 2**20
    with pytest.raises(InputError, match=r"its texts are 1250 MiB; at most 1024"):
        clips(root)
    columns["caption"] = pyarrow.array([text + "x"] + [""] * (rows - 1))
    parquet.write_table(pyarrow.table(columns), root / "manifest.parquet")
    with pytest.raises(InputError, match="caption: a text of 64 KiB"):
        clips(root)
    monkeypatch.setattr("videodit.data.set.MOST", MOST._replace(rows=rows - 1))
    with pytest.raises(InputError, match="40000 rows or values"):
        read_manifest(root)
