"""Which of two experts, for high noise and for low noise, the name of a file says; and the files of an adapter."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from videodit.checkpoint.families.lora import EXPERTS, FILES, HIGH, LOW, NOISE, SHORT
from videodit.errors import InputError

FILE = "adapter.safetensors"  # in a run's folder
TWO = r"a14b|2[-_. ]?2(?![0-9])"  # in a name: a model of two experts, of which `high` is one
FOLDERS = ("transformer", "transformer_2")  # of diffusers, for high noise and for low noise


def adapter_files(path: str | Path) -> list[Path]:
    """The file of an adapter: itself, or that of a run's or another's folder, or there the two for two experts."""
    folder = Path(path)
    for candidate in (folder / FILE, folder / "model" / FILE, *(folder / name for name in FILES)):
        if candidate.is_file():
            return [candidate]
    if not folder.is_dir():
        return [folder]
    files = sorted(folder.glob("*.safetensors"))
    pair = {tuple(experts_named([file], files)) for file in files}
    if len(files) == 1 or (len(files) == 2 and len(pair) == 2 and all(len(one) == 1 for one in pair)):
        return files
    told = f"several files, {', '.join(file.name for file in files[:4])}: name one" if files else "no other's either"
    raise InputError(f"lora={path}: there is no {FILE} in this folder: {told}")


def experts_named(places: Iterable[Path], given: Collection[Path]) -> list[str]:
    """The experts that a file's name says, or else its folder's: the first of these places that says any.

    `high_noise` and the like say it alone. `high`, `HN` or `h` could be about something else: they count where the
    other one's name is there, among those that were given or beside it, or where there is no more to the name.
    """
    for place in places:
        name = place.stem if place.suffix == ".safetensors" else place.name
        if found := {EXPERTS[hit[1][0]] for hit in re.finditer(NOISE, name.lower())}:
            return sorted(found)
        hits = list(re.finditer(SHORT, name.lower()))
        if len(hits) == 1:
            whole = len(hits[0][0]) > 1 and hits[0][0] == name.lower()
            if whole or any(_partners(name, hits[0], other) for other in _near(place, given)):
                return [EXPERTS[hits[0][0][0]]]
    return []


def expert_of(file: Path) -> str | None:
    """The expert that a transformer's file is, by its name or its folder's; None if it may be a whole model."""
    folder = file.parent
    if folder.name in FOLDERS and (folder.parent / FOLDERS[1]).is_dir():
        return HIGH if folder.name == FOLDERS[0] else LOW
    for name in (file.stem.lower(), folder.name.lower()):
        for words in (NOISE, SHORT) if re.search(TWO, name) else (NOISE,):
            if len(found := {EXPERTS[hit[1][0]] for hit in re.finditer(words, name)}) == 1:
                return found.pop()
    named = experts_named([file, folder], [])
    return named[0] if len(named) == 1 else None


def are_partners(one: Path, other: Path) -> bool:
    """Whether two files are the two experts of one model: their paths differ in the words for that alone."""
    return {expert_of(one), expert_of(other)} == {HIGH, LOW} and _apart(one) == _apart(other)


def _apart(file: Path) -> list[str]:
    """The names of a file and its folder without such words, and with all separators alike."""
    names = [file.stem.lower(), "" if file.parent.name in FOLDERS else file.parent.name.lower()]
    return [re.sub(r"[-_. ]+", "-", re.sub(SHORT, "", re.sub(NOISE, "", name))) for name in names]


def _near(place: Path, given: Collection[Path]) -> set[str]:
    """Names beside a place, and those that were given with it."""
    with suppress(OSError):  # a folder that cannot be listed
        given = [*given, *place.parent.iterdir()]
    return {other.stem if other.suffix == ".safetensors" else other.name for other in given}


def _partners(name: str, hit: re.Match[str], other: str) -> bool:
    """Whether another name has the other word in the same place, with the same before it or, if nothing is, behind."""
    name, other = name.lower(), other.lower()
    for back in re.finditer(SHORT, other):
        if EXPERTS[back[0][0]] != EXPERTS[hit[0][0]] and name[: hit.start()] == other[: back.start()]:
            return hit.start() > 0 or name[hit.end() :] == other[back.end() :]
    return False
