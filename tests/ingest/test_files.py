"""What a folder holds: which files may be videos, their captions in every layout, and a path to each."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from videodit.data.files import PROTOCOLS, Root
from videodit.errors import InputError


def put(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def listed(root: Path | str, out: str = "/nowhere") -> dict[str, str]:
    return {file.path: file.caption for file in Root(str(root)).list(without=Path(out)).files}


def test_captions_of_every_layout(tmp_path: Path) -> None:
    put(tmp_path / "a.mp4"), put(tmp_path / "a.txt", " a cat\n")
    put(tmp_path / "deep" / "b.mp4"), put(tmp_path / "deep" / "b.json", json.dumps({"prompt": "a dog"}))
    put(tmp_path / "folder" / "c.mp4"), put(tmp_path / "folder" / "d.mp4")
    lines = [{"file_name": "c.mp4", "caption": "a\u2028line", "source": "film"}]
    lines += [{"file_name": "d.mp4", "text": "a sea"}]
    put(tmp_path / "folder" / "metadata.jsonl", "\n".join(map(json.dumps, lines)))
    put(tmp_path / "table" / "metadata.csv", 'file_name,caption\ne.mp4,"one, two"\n')
    put(tmp_path / "table" / "e.mp4"), put(tmp_path / "bare.mp4"), put(tmp_path / ".hidden" / "f.mp4")
    listing = Root(str(tmp_path)).list(without=tmp_path / "out")
    assert {file.path: file.caption for file in listing.files} == {
        "a.mp4": "a cat", "deep/b.mp4": "a dog", "folder/c.mp4": "a\u2028line", "folder/d.mp4": "a sea",
        "table/e.mp4": "one, two", "bare.mp4": "",
    }  # fmt: skip
    assert [file.path for file in listing.files] == sorted(file.path for file in listing.files)
    assert listing.beside == ["a.txt", "deep/b.json", "folder/metadata.jsonl", "table/metadata.csv"]
    assert {file.origin for file in listing.files} == {"", "film"}


def test_a_record_of_a_video_made_here_is_its_caption(tmp_path: Path) -> None:
    put(tmp_path / "a.mp4"), put(tmp_path / "a.mp4.json", json.dumps({"prompt": "a ball", "weights": {}}))
    put(tmp_path / "b.mp4"), put(tmp_path / "b.mov"), put(tmp_path / "b.mov.txt", "a sea")
    assert listed(tmp_path) == {"a.mp4": "a ball", "b.mp4": "", "b.mov": "a sea"}
    assert Root(str(tmp_path)).list(without=tmp_path / "out").beside == ["a.mp4.json", "b.mov.txt"]


def test_a_webdataset_tar(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard-000.tar", "w") as tar:
        for name, content in (("k/1.mp4", b"one"), ("k/1.txt", b"first"), ("k/2.mp4", b"two"),
                              ("k/2.json", b'{"caption": "second"}'), ("../3.mp4", b"out")):  # fmt: skip
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    assert listed(tmp_path) == {
        "shard-000.tar!k/1.mp4": "first", "shard-000.tar!k/2.mp4": "second", "shard-000.tar!../3.mp4": "",
    }  # fmt: skip
    for name, content in (("k/2.mp4", "two"), ("../3.mp4", "out")):
        with Root(str(tmp_path)).open(f"shard-000.tar!{name}") as path:
            assert path.read_text() == content and path.suffix == ".mp4"
        assert not path.exists()
    assert not (tmp_path.parent / "3.mp4").exists()


def test_links_loops_and_what_is_no_file(tmp_path: Path) -> None:
    put(tmp_path / "real" / "a.mp4")
    (tmp_path / "again").symlink_to(tmp_path / "real")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "fifo.mp4")
    listing = Root(str(tmp_path)).list(without=tmp_path / "out")
    assert len(listing.files) == 1  # a folder is looked into once, by whichever name comes first
    assert [path for path, _ in listing.faults] == ["fifo.mp4", "gone.mp4", "loop"]
    assert dict(listing.faults)["fifo.mp4"] == "not a plain file"


def test_the_set_itself_is_left_out(tmp_path: Path) -> None:
    put(tmp_path / "a.mp4"), put(tmp_path / "set" / "b.mp4")
    assert list(listed(tmp_path, str(tmp_path / "set"))) == ["a.mp4"]


def test_a_url_is_listed_and_copied_when_it_is_read() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/videos/x/a.mp4", b"bytes")
    memory.pipe("/videos/x/a.txt", b"told")
    try:
        assert listed("memory://videos") == {"x/a.mp4": "told"}
        with Root("memory://videos").open("x/a.mp4") as path:
            assert path.read_bytes() == b"bytes"
        assert not path.exists()
    finally:
        memory.rm("/videos", recursive=True)


def test_stamps_change_with_the_content(tmp_path: Path) -> None:
    def stamp() -> str:
        return Root(str(tmp_path)).list(without=tmp_path / "out").files[0].stamp

    path = put(tmp_path / "a.mp4", "one")
    before = stamp()
    assert stamp() == before
    put(path, "two")
    os.utime(path, ns=(1, 1))
    assert stamp() != before


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("metadata.jsonl", "{", "a caption was lost: line 1: not valid JSON"),
        ("metadata.jsonl", '{"caption": "x"}', "line 1: lacks file_name; it has 'caption'"),
        ("metadata.jsonl", "[1]", "line 1: should be a JSON object"),
    ],
)
def test_a_table_that_is_wrong_is_told_and_stops_nothing(tmp_path: Path, name: str, text: str, told: str) -> None:
    put(tmp_path / name, text)
    put(tmp_path / "a.mp4", "one")
    listing = Root(str(tmp_path)).list(without=tmp_path / "out")
    assert listing.faults == [(name, listing.faults[0][1])] and told in listing.faults[0][1]
    assert [file.path for file in listing.files] == ["a.mp4"] and not listing.beside


@pytest.mark.parametrize("url", ["nowhere", "no-such-protocol://x"])
def test_a_root_that_is_not_there(tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError, match=url):
        Root(url if "://" in url else str(tmp_path / url)).list(without=tmp_path / "out")


@pytest.mark.parametrize("path", ["../a.mp4", "/etc/passwd", "x/../../a.mp4", "http://127.0.0.1/a", "a\0.mp4", "",
                                  "../x.tar!a.mp4", "/x.tar!a.mp4", "x.tar!/../../a.mp4"])  # fmt: skip
def test_a_path_cannot_lead_out_of_its_root(tmp_path: Path, path: str) -> None:
    put(tmp_path / "a.mp4")
    (tmp_path / "root" / "x.tar!").mkdir(parents=True)
    for url in (str(tmp_path / "root"), "memory://root"):
        with pytest.raises((InputError, OSError)), Root(url).open(path) as found:
            raise AssertionError(found)


@pytest.mark.parametrize("url", ["file:///etc", "ftp://x", "simplecache::http://x", "reference::http://x/y",
                                 "http://x::memory://y", "zip://x::http://y", "github://a:b@c"])  # fmt: skip
def test_only_some_protocols_are_opened(url: str) -> None:
    with pytest.raises(InputError, match="http://") as caught:
        Root(url)
    assert all(f"{one}://" in str(caught.value) for one in PROTOCOLS)
