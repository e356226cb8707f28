"""The files of a folder or of any fsspec URL: which there are, the captions beside them, and a local path to each.

Captions are found in `metadata.jsonl` or `.csv` (Hugging Face's "videofolder": file_name and caption, text or prompt),
in a `.txt` or `.json` of a video's name beside it, and in tars (WebDataset) in those of a member's name.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import posixpath
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videodit.data.tars import members
from videodit.errors import InputError
from videodit.untrusted import KIB, MIB, MOST, opened

# What a URL may begin with. Local files are named by their paths; no URL may stand inside another ("::").
PROTOCOLS = ("http", "https", "s3", "gs", "gcs", "az", "abfs", "hf", "memory")
TABLES = ("metadata.jsonl", "metadata.csv")
CAPTIONS = ("caption", "text", "prompt")  # names of a caption in a table or JSON file, the first that is there
BESIDE = (".txt", ".json")  # what may hold a video's caption under its name
SET = {"set.json", "manifest.parquet"}  # what a folder holds that `videodit ingest` made
MISSING = "named in a table, not there"
ENDING = re.compile(r"(\.\w{0,15})?$", re.ASCII)  # of a name
INSIDE = "!"  # between a tar and its member


@dataclass(frozen=True)
class File:
    """Something that may be a video. path: relative to the root. stamp: changes when its content does."""

    path: str
    stamp: str
    caption: str = ""
    origin: str = ""  # what its table says that it was cut from


@dataclass
class Listing:
    """What a root holds."""

    files: list[File] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)  # files that describe others
    faults: list[tuple[str, str]] = field(default_factory=list)  # (path, why) of what could not be looked into


class Root:
    """A folder or a URL that fsspec opens. Nothing that is opened lies outside it, whatever a path says."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.remote = is_url(url)
        if self.remote and (url.partition("://")[0] not in PROTOCOLS or "::" in url):
            known = ", ".join(f"{one}://" for one in PROTOCOLS)
            raise InputError(f"{url}: give a folder's path, or one URL that begins with one of {known}")

    def system(self) -> Any:
        """The file system of a URL, None of a folder."""
        if not self.remote:
            return None
        import fsspec

        try:
            return fsspec.core.url_to_fs(self.url)[0]
        except Exception as error:  # every kind of file system has its own
            raise InputError(f"{self.url}: {_first_line(error)}") from None

    def list(self, *, without: Path) -> Listing:
        """All that may be videos, in order of their names; `without`: a folder that is left out."""
        found = dict(self._remote() if self.remote else _local(Path(self.url), without.resolve()))
        listing = Listing(faults=[(path, fault) for path, (_, fault) in sorted(found.items()) if fault])
        stamps = {path: stamp for path, (stamp, fault) in sorted(found.items()) if not fault}
        told: dict[str, tuple[str, str]] = {}
        for path in [path for path in stamps if posixpath.basename(path) in TABLES]:
            listing.beside.append(path)
            try:
                lines = self._table(path, listing)
            except InputError as error:  # no file stops the others
                listing.faults.append((path, f"no table of captions: {_without(str(error), path)}"))
                continue
            listing.faults += [(name, f"{MISSING}: {path}") for name in lines.keys() - found]
            told |= lines
        media = [path for path in stamps if posixpath.splitext(path)[1].lower() not in BESIDE]
        stems = {*media, *(posixpath.splitext(path)[0] for path in media)}  # a.mp4 has a.txt, or a.mp4.json
        for path, stamp in stamps.items():
            stem, ending = posixpath.splitext(path)
            if path in listing.beside:
                continue
            if ending.lower() in BESIDE and stem in stems:
                listing.beside.append(path)
            elif ending.lower() == ".tar":
                self._members(path, stamp, listing)
            else:
                caption, origin = told.get(path) or (self._beside((stem, path), stamps, listing), "")
                listing.files.append(File(path, stamp, caption, origin))
        listing.faults = sorted(set(listing.faults))
        listing.beside = sorted(set(listing.beside) - {path for path, _ in listing.faults})
        return listing

    @contextmanager
    def open(self, path: str) -> Iterator[Path]:
        """A local path to a file, while the `with` block runs. A remote one, or a tar's member, is copied for it."""
        outer, _, member = path.partition(f".tar{INSIDE}")
        plain = not member or (not self.remote and _stays(path) and os.path.lexists(Path(self.url) / path))
        self._check(path if plain else outer)
        if plain and not self.remote:
            yield Path(self.url) / path
            return
        with tempfile.TemporaryDirectory(prefix="videodit-") as scratch:
            copy = Path(scratch) / f"file{ENDING.search(path)[0]}"  # the name itself goes nowhere
            with self._binary(path if plain else f"{outer}.tar") as file, copy.open("wb") as target:
                shutil.copyfileobj(file if plain else _member(file, member, path), target)
            yield copy

    @contextmanager
    def _binary(self, path: str) -> Iterator[Any]:
        self._check(path)
        system, place = self.system(), posixpath.join(self.url, path)
        with system.open(place) if system else open(opened(place), "rb") as file:
            yield file

    def _check(self, path: str) -> None:
        if not _stays(path):
            raise InputError(f"{path}: leads out of {self.url}")

    def _text(self, path: str, listing: Listing) -> str:
        """What a file beside a video says; nothing, and a fault, where it cannot be read."""
        try:
            with self._binary(path) as file:
                return _read(file, path)
        except (OSError, InputError) as error:
            why = getattr(error, "strerror", None) or _without(str(error), path)
            listing.faults.append((path, f"cannot be read: {why}"))
            return ""

    def _remote(self) -> Iterator[tuple[str, tuple[str, str]]]:
        system = self.system()
        base = system._strip_protocol(self.url).rstrip("/")
        try:
            found = system.find(base, detail=True)
        except Exception as error:  # as above
            raise InputError(f"{self.url}: cannot be listed: {_first_line(error)}") from None
        for name, info in found.items():
            path = name.removeprefix(base).lstrip("/")
            if not any(part.startswith(".") for part in path.split("/")):
                kept = {key: info.get(key) for key in ("size", "ETag", "etag", "md5Hash", "mtime", "LastModified")}
                yield path, (json.dumps(kept, default=str), "")

    def _table(self, path: str, listing: Listing) -> dict[str, tuple[str, str]]:
        """{path: (caption, origin)} of a table's lines."""
        folder, told = posixpath.dirname(path), {}
        try:
            with self._binary(path) as file:
                rows = (_rows if path.endswith(".csv") else _lines)(_bounded(file, path), path)
                for number, row in enumerate(rows, 1):
                    name, caption = row.get("file_name"), _caption(row)
                    if not isinstance(name, str):
                        raise InputError(f"{path}, line {number}: should have a file_name")
                    if _size(caption) > MOST.caption:
                        raise InputError(f"{path}, line {number}: a caption of more than {MOST.caption // KIB} KiB")
                    origin = _whole(str(row.get("source") or ""))
                    told[posixpath.normpath(posixpath.join(folder, name))] = (caption, origin)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
        return told

    def _beside(self, names: tuple[str, str], stamps: dict[str, str], listing: Listing) -> str:
        """The caption in a text file of a video's name, with or without its ending."""
        for path, ending in ((name + ending, ending) for name in names for ending in BESIDE):
            if path in stamps:
                try:
                    return _told(self._text(path, listing), ending)
                except InputError as error:
                    listing.faults.append((path, str(error)))
        return ""

    def _members(self, path: str, stamp: str, listing: Listing) -> None:
        """The videos of a WebDataset tar: members that share a name up to its first dot are one sample."""
        captions: dict[str, str] = {}
        videos: list[tuple[str, int]] = []
        faults: list[tuple[str, str]] = []
        try:
            with self._binary(path) as file:
                for member, content in members(file):
                    ending = posixpath.splitext(member.name)[1].lower()
                    try:
                        if content is None:
                            raise InputError("holds gaps (a sparse member)")
                        if ending in BESIDE:
                            captions[_stem(member.name)] = _told(_read(content, ""), ending)
                        elif ending != ".cls":
                            videos.append((member.name, member.offset_data))
                    except InputError as error:  # of one member; the others go on
                        faults.append((f"{path}{INSIDE}{member.name}", _without(str(error), "")))
        except Exception as error:  # a broken tar brings out every kind
            listing.faults.append((path, f"not a readable tar: {error}"))
            return
        listing.faults += faults
        for name, offset in videos:
            listing.files.append(File(f"{path}{INSIDE}{name}", f"{stamp}/{offset}", captions.get(_stem(name), "")))


def is_url(text: str) -> bool:
    """Whether a text is a URL and no path."""
    return "://" in text


def _stays(path: str) -> bool:
    """Whether a relative path leads to something below where it begins, by its own words."""
    absolute = path.startswith("/") or re.match(r"[a-zA-Z][\w+.-]*://", path)
    return bool(path) and not absolute and ".." not in path.split("/") and "\0" not in path


def _member(file: Any, name: str, path: str) -> Any:
    """The content of a tar's last plain member of this name."""
    places = [member.offset_data for member, content in members(file) if member.name == name and content]
    if not places:
        raise InputError(f"{path}: no plain file of the tar")
    file.seek(0)
    return next(content for member, content in members(file) if member.offset_data == places[-1])


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _stem(name: str) -> str:
    folder, base = posixpath.split(name)
    return posixpath.join(folder, base.split(".")[0])


def _local(root: Path, without: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    """(path, (stamp, fault)) of all that a folder holds, links followed, each folder once; without hidden names."""
    if not root.is_dir():
        raise InputError(f"videos={root}: {'it is a file; name its folder' if root.exists() else 'no such folder'}")
    seen, todo = {without}, [root]
    while todo:
        folder = todo.pop()
        real = folder.resolve()
        if real in seen:
            continue
        seen.add(real)
        try:
            names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
        except OSError as error:
            yield os.path.relpath(folder, root), ("", f"cannot be listed: {error.strerror}")
            continue
        if SET <= set(names):  # one that was made of other videos
            continue
        for name in names:
            path = os.path.relpath(folder / name, root)
            try:
                about = os.stat(folder / name)
            except OSError as error:
                yield path, ("", str(error.strerror))
                continue
            if stat.S_ISDIR(about.st_mode):
                todo.append(folder / name)
            elif stat.S_ISREG(about.st_mode):
                yield path, (f"{about.st_size}/{about.st_mtime_ns}/{about.st_ctime_ns}", "")
            else:
                yield path, ("", "not a plain file")


def _bounded(file: Any, path: str) -> Iterator[str]:
    """The lines of a table, none of which is too long, nor all of them."""
    wide, size = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), 0
    file.seek(0)
    text = io.TextIOWrapper(file, "utf-16" if wide else "utf-8-sig", "replace", newline="\n")  # U+2028 ends no line
    while line := text.readline(MOST.line + 1):
        size += len(line)
        if len(line) > MOST.line or size > MOST.table:
            long = f"a line of more than {MOST.line // KIB} KiB"
            raise InputError(f"{path}: {long if len(line) > MOST.line else f'more than {MOST.table // MIB} MiB'}")
        yield line


def _lines(lines: Iterator[str], path: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path}, line {number}: not JSON: {error}") from None
            if not isinstance(row, dict):
                raise InputError(f"{path}, line {number}: should be a JSON object of file_name and caption")
            yield row


def _rows(lines: Iterator[str], path: str) -> Iterator[dict[str, Any]]:
    taken = 0  # characters of a row, which may go over many lines

    def counted() -> Iterator[str]:
        nonlocal taken
        for line in lines:
            taken += len(line)
            if taken > MOST.line:
                raise InputError(f"{path}, line {reader.line_num}: a row of more than {MOST.line // KIB} KiB")
            yield line

    reader = csv.DictReader(counted())
    try:
        for row in reader:
            yield row
            taken = 0
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not CSV: {error}") from None


def _read(file: Any, path: str) -> str:
    """The text in a file beside a video."""
    content = file.read(MOST.line + 1)
    if len(content) > MOST.line:
        raise InputError(f"{path}: larger than {MOST.line // KIB} KiB")
    return _decoded(content)


def _without(text: str, path: str) -> str:
    return text.removeprefix(path).lstrip(", :")


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _decoded(content: bytes) -> str:
    """Text as it is, whatever it was written with: UTF-8 unless a mark says UTF-16; what is neither shows as such."""
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if wide else "utf-8-sig", "replace")


def _whole(text: str) -> str:
    """Text without the halves of characters that JSON can hold and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


def _caption(row: dict[str, Any]) -> str:
    return next((_whole(row[key].strip()) for key in CAPTIONS if isinstance(row.get(key), str)), "")


def _told(text: str, ending: str) -> str:
    """The caption that a file beside a video holds. InputError for one that is longer than any caption."""
    try:
        row = {CAPTIONS[0]: text} if ending == ".txt" else json.loads(text)
    except (ValueError, RecursionError):
        return ""
    caption = _caption(row) if isinstance(row, dict) else ""
    if _size(caption) > MOST.caption:
        raise InputError(f"a caption of more than {MOST.caption // KIB} KiB")
    return caption
