"""Small files that would take gigabytes, or that say sizes of themselves that they do not have."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.ingest.test_files import put
from videodit.data.files import Root
from videodit.errors import InputError
from videodit.untrusted import MOST


def tarred(path: Path, *members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> None:
    with tarfile.open(path, "w", format=format) as tar:
        for about, content in members:
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))


def member(name: str, **about: object) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    for key, value in about.items():
        setattr(found, key, value)
    return found


def sparse_header(name: bytes, size: int) -> bytes:
    """An old GNU sparse member: no data, any size."""
    header = bytearray(512)
    header[: len(name)] = name
    header[100:108] = b"0000644\0"
    header[124:136] = b"00000000000\0"
    header[156:157], header[257:265], header[483:495] = b"S", b"ustar  \0", b"%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def test_a_tar_of_all_that_is_no_plain_file(tmp_path: Path) -> None:
    """What is at fault is told with its name; the other members go on."""
    long = b"x" * (MOST.caption + 1)
    link = member("l.mp4", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    hard = member("h.mp4", type=tarfile.LNKTYPE, linkname="/etc/passwd")
    tarred(tmp_path / "t.tar", (member("a.mp4"), b"one"), (member("a.txt"), long), (member("b.mp4"), b"two"),
           (member("b.json"), json.dumps({"caption": "two"}).encode()), (link, b""), (hard, b""),
           (member("f.mp4", type=tarfile.FIFOTYPE), b""), (member("s.mp4", pax_headers={"GNU.sparse.size": str(2**40),
            "GNU.sparse.numblocks": "0"}), b""), (member("c.mp4"), b"three"), format=tarfile.PAX_FORMAT)  # fmt: skip
    with (tmp_path / "t.tar").open("r+b") as file:  # a member more, before the two empty blocks at the end
        content = file.read().rstrip(b"\0")
        whole = content + bytes(-len(content) % 512) + sparse_header(b"o.txt", 2**34) + bytes(1024)
        file.seek(0)
        file.write(whole)
    listing = Root(str(tmp_path)).list(without=tmp_path / "out")
    assert {file.path: file.caption for file in listing.files} == {
        "t.tar!a.mp4": "", "t.tar!b.mp4": "two", "t.tar!c.mp4": ""}  # fmt: skip
    faults = dict(listing.faults)
    assert sorted(faults) == ["t.tar!a.txt", "t.tar!o.txt", "t.tar!s.mp4"]
    assert "a caption of more than 64 KiB" in faults["t.tar!a.txt"] and "sparse" in faults["t.tar!o.txt"]
    for name in ("l.mp4", "h.mp4", "f.mp4", "s.mp4", "o.txt", "nothing"):
        with pytest.raises(InputError, match="no plain file"), Root(str(tmp_path)).open(f"t.tar!{name}"):
            pass


def test_a_tar_is_not_decompressed_nor_believed(tmp_path: Path) -> None:
    tarred(tmp_path / "plain", (member("a.mp4"), b"one"))
    plain = (tmp_path / "plain").read_bytes()
    (tmp_path / "plain").unlink()
    tarred(tmp_path / "long.tar", (member("n" * (MOST.member + 100) + ".mp4"), b""), format=tarfile.GNU_FORMAT)
    tarred(tmp_path / "pax.tar", (member("a.mp4", pax_headers={"comment": "c" * (MOST.member + 1)}), b""))
    (tmp_path / "zipped.tar").write_bytes(gzip.compress(plain))
    backwards = bytearray(plain)  # a size below 0, in base 256: the next header would be this one
    backwards[124:136] = (2**96 - 1024).to_bytes(12, "big")
    backwards[148:156] = b" " * 8
    backwards[148:156] = b"%06o\0 " % sum(backwards[:512])
    (tmp_path / "back.tar").write_bytes(bytes(backwards))
    pax = member("a.mp4", pax_headers={"size": "-1024"})
    tarred(tmp_path / "back-pax.tar", (pax, b""))
    listing = Root(str(tmp_path)).list(without=tmp_path / "out")
    assert listing.files == [] and all("not a readable tar" in why for _, why in listing.faults)
    assert [path for path, _ in listing.faults] == ["back-pax.tar", "back.tar", "long.tar", "pax.tar", "zipped.tar"]


def test_texts_beside_videos_are_bounded(tmp_path: Path) -> None:
    for name in "abcd":
        put(tmp_path / f"{name}.mp4")
    put(tmp_path / "a.txt", "x" * (MOST.caption + 1)), put(tmp_path / "b.json", " " * (MOST.line + 1))
    put(tmp_path / "c.json", json.dumps({"caption": "x" * (MOST.caption + 1)}))
    put(tmp_path / "d.json", json.dumps({"caption": "x" * MOST.caption, "more": "y" * MOST.caption}))
    listing = Root(str(tmp_path)).list(without=tmp_path / "out")
    assert [path for path, _ in listing.faults] == ["a.txt", "b.json", "c.json"]
    assert [len(file.caption) for file in listing.files] == [0, 0, 0, MOST.caption]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_tables_are_read_in_bounds(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a.mp4")

    def fault(text: str) -> str:
        put(tmp_path / f"metadata.{kind}", text)
        ((path, why),) = Root(str(tmp_path)).list(without=tmp_path / "out").faults
        assert path == f"metadata.{kind}"
        return why

    head = "file_name,caption\n" if kind == "csv" else ""
    row = (lambda text: f'a.mp4,"{text}"\n') if kind == "csv" else (
        lambda text: json.dumps({"file_name": "a.mp4", "caption": text}) + "\n")  # fmt: skip
    assert "a caption of more than 64 KiB" in fault(head + row("x" * (MOST.caption + 1)))
    assert "1024 KiB" in fault(head + "," * (MOST.line + 1))
    if kind == "csv":
        assert "a row of more than" in fault(head + ",".join('"x\n"' for _ in range(MOST.line // 4)))
    monkeypatch.setattr("videodit.data.rows.MOST", MOST._replace(table=10_000))
    assert "more than 0 MiB" in fault(head + row("x" * 100) * 1000)
