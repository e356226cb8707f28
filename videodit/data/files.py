"""The files of a folder or of any fsspec URL: which there are, the captions that come with them (found by `captions`),
and a local path to each.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videodit.data.captions import LOST, MISSING, Captions, Told, is_beside, is_table, pairs
from videodit.data.tars import members
from videodit.data.video import RECORD, in_order
from videodit.errors import InputError
from videodit.untrusted import opened

# What a URL may begin with. Local files are named by their paths; no URL may stand inside another ("::").
PROTOCOLS = ("http", "https", "s3", "gs", "gcs", "az", "abfs", "hf", "memory")
SET = {"set.json", "manifest.parquet"}  # what a folder holds that `videodit ingest` made
ENDING = re.compile(r"(\.\w{0,15})?$", re.ASCII)  # of a name
INSIDE = "!"  # between a tar and its member
MEMBER = re.compile(rf"(?<=\.tar){INSIDE}", re.IGNORECASE)
HIDDEN = re.compile(r"(^|/)\.[^./]")  # of a member; "." and ".." hide nothing
GAPS = "holds gaps (a sparse member)"


@dataclass(frozen=True)
class File:
    """Something that may be a video. path: relative to the root. stamp: changes when its content does."""

    path: str
    stamp: str
    caption: str = ""
    origin: str = ""  # what its table says that it was cut from


@dataclass
class Listing:
    """What a root holds.

    beside: files that describe others. faults: (path, why) of what could not be looked into, and of captions that were
    lost. changed: where captions stand that could not be kept to the letter.
    """

    files: list[File] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)


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
        stamps = {path: stamp for path, (stamp, fault) in sorted(found.items()) if not fault}
        captions = Captions(self._binary)
        tables = [path for path in stamps if is_table(path)]
        for path in tables:
            captions.read_table(path)
        stamps, records = (stamps, {}) if self.remote else gathered(stamps, captions.tables)
        found |= dict.fromkeys(records, ("", ""))
        videos = [path for path in stamps if not is_beside(path) and path not in tables]
        texts = pairs((path for path in stamps if is_beside(path)), videos, samples=False)
        for folder, record in records.items():
            texts.setdefault(folder, []).extend(record)
        listing = Listing(beside=[*tables, *(text for several in texts.values() for text in several)])
        others = set(listing.beside)
        for path, stamp in stamps.items():
            if path in others:
                continue
            if posixpath.splitext(path)[1].lower() == ".tar":
                self._members(path, stamp, listing.files, captions)
            elif told := captions.of(path, texts.get(path, ())):
                listing.files.append(File(path, stamp, told.caption, told.source))
        gone = [(path, told[0].where) for path, told in captions.tables.items() if path not in found]
        listing.faults = [(path, fault) for path, (_, fault) in found.items() if fault] + captions.faults
        listing.faults = sorted({*listing.faults, *((path, f"{MISSING}: {where}") for path, where in gone)})
        listing.beside = sorted(set(listing.beside) - {path for path, _ in listing.faults})
        listing.changed = sorted(captions.changed)
        return listing

    @contextmanager
    def open(self, path: str) -> Iterator[Path]:
        """A local path to a file, while the `with` block runs. A remote one, or a tar's member, is copied for it."""
        outer, member = (*MEMBER.split(path, maxsplit=1), "")[:2]
        plain = not member or (not self.remote and _stays(path) and os.path.lexists(Path(self.url) / path))
        self._check(path if plain else outer)
        if plain and not self.remote:
            yield Path(self.url) / path
            return
        with tempfile.TemporaryDirectory(prefix="videodit-") as scratch:
            copy = Path(scratch) / f"file{ENDING.search(path)[0]}"  # the name itself goes nowhere
            with self._binary(path if plain else outer) as file, copy.open("wb") as target:
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

    def _members(self, path: str, stamp: str, files: list[File], captions: Captions) -> None:
        """Add the videos of a WebDataset tar, with what its texts tell of them; hidden members are left out."""
        told: dict[str, list[Told]] = {}
        videos: list[tuple[str, int]] = []
        try:
            with self._binary(path) as file:
                for member, content in members(file):
                    name, where = member.name, f"{path}{INSIDE}{member.name}"
                    if HIDDEN.search(name):
                        continue
                    if content is None:
                        captions.faults.append((where, f"{LOST}: {GAPS}" if is_beside(name) else GAPS))
                    elif is_beside(name):
                        told.setdefault(name, []).append(captions.text(where, content))
                    elif not name.lower().endswith(".cls"):
                        videos.append((name, member.offset_data))
        except Exception as error:  # a broken tar brings out every kind
            captions.faults.append((path, f"not a readable tar: {error}"))
            return
        texts = pairs(told, {name for name, _ in videos}, samples=True)
        for name, offset in videos:
            where = f"{path}{INSIDE}{name}"
            if whole := captions.agree(where, [one for text in texts.get(name, ()) for one in told[text]]):
                files.append(File(where, f"{stamp}/{offset}", whole.caption, whole.source))
        for name in told.keys() - {text for several in texts.values() for text in several}:
            if any(one.caption for one in told[name]):
                captions.faults.append((f"{path}{INSIDE}{name}", f"{LOST}: no video of the tar has its name"))


def gathered(stamps: Mapping[str, str], listed: Collection[str]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """{path: stamp} in which the frames of a folder are one file, and what such folders have of a record inside.

    Numbered pictures are a video where something says so: a table (`listed`), a caption beside the folder or a record
    in it. Other pictures are clips of their own.
    """
    held: dict[str, list[str]] = {}
    for path in stamps:
        folder, name = posixpath.split(path)
        held.setdefault(folder, []).append(name)
    whole, records = dict(stamps), {}
    for folder, names in held.items():
        said = RECORD in names or folder in listed or not stamps.keys().isdisjoint({f"{folder}.txt", f"{folder}.json"})
        if frames := in_order(names) if folder and said else []:
            records[folder] = [posixpath.join(folder, RECORD)] * (RECORD in names)
            parts = [*(whole.pop(posixpath.join(folder, name)) for name in frames), *map(stamps.get, records[folder])]
            whole[folder] = hashlib.sha256("/".join(parts).encode()).hexdigest()[:32]
    return dict(sorted(whole.items())), records


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
