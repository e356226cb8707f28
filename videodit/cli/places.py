"""Where videos go: the names of one, of a folder's, of one prompt's under several seeds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from videodit.atomic import check_output
from videodit.checkpoint.store import sole
from videodit.data.video import KINDS, beside, check_kind, check_place, probe
from videodit.errors import InputError
from videodit.generate import waiting
from videodit.generate.model import Model
from videodit.generate.record import read_record
from videodit.generate.request import Request
from videodit.generate.video import Video
from videodit.generate.waiting import ENDING
from videodit.printable import say

NUMBERED = re.compile(r"(\d{4,})\.(mp4|latents\.safetensors|mp4\.json)")
MANY = 10_000  # seeds of one prompt


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Be the only run that gives names to videos in a folder. InputError where another one does."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        with sole(out / ".lock", f"out={out}"):
            yield
    finally:
        with suppress(OSError):
            out.rmdir()  # where nothing came of it


def names_in(out: Path, requests: Sequence[Request], model: Model) -> list[Path]:
    """Names of videos in a folder, one for each request, none of which holds what another run made or left to decode.

    The same requests have the names that they had: after a kill the same command makes the same folder.
    """
    there = [int(found[1]) for path in out.glob("*") if (found := NUMBERED.fullmatch(path.name))]
    end = max(there, default=-1) + 1
    for first in range(end + 1):
        paths = [out / f"{first + number:04d}.mp4" for number in range(len(requests))]
        mine = all(holds(path, one, model) for path, one in zip(paths, requests, strict=True))
        if mine and end <= first + len(requests):
            break
    if first:
        say(f"out={out} holds other videos already; these are {first:04d}.mp4 and on")
    return paths


def holds(path: Path, request: Request, model: Model) -> bool:
    """Whether a name is free, or has this request's video as it would be made now, or latents that wait for it."""
    records = []
    try:
        if path.exists():
            records.append(read_record(path))
        if (latents := path.with_suffix(ENDING)).exists():
            records += waiting.read(latents).records[:1]
    except InputError:  # what is not of this program
        return False
    generated = {**asdict(model.native(request)), "fps": model.defaults["fps"]}
    own = json.loads(json.dumps({**asdict(request), "generated": generated, "weights": model.parts.fingerprints}))
    how = model.made_with
    return all(
        {key: one.get(key) for key in own} == own and {key: one.get("made_with", {}).get(key) for key in how} == how
        for one in records
    )


def is_done(paths: Sequence[Path], requests: Sequence[Request], model: Model) -> bool:
    """Whether all of a pack is there from an earlier run, and nothing of it waits."""
    pairs = zip(paths, requests, strict=True)
    there = all(path.exists() and beside(path).exists() and holds(path, one, model) for path, one in pairs)
    return there and not paths[0].with_suffix(ENDING).exists()


def names_by_seed(out: Path, requests: Sequence[Request], model: Model) -> list[Path]:
    """ball-seed1.mp4, ball-seed2.mp4, … for ball.mp4: InputError where one of them holds another video."""
    paths = [out.with_name(f"{out.stem}-seed{one.seed}{out.suffix}") for one in requests]
    check_output(max(paths, key=lambda path: len(path.name)))
    for path, one in zip(paths, requests, strict=True):
        if not holds(path, one, model):
            raise InputError(f"{path}: another video has this name; give another out=")
    return paths


def sheet_of(paths: Sequence[Path], requests: Sequence[Request]) -> Path:
    """The contact sheet of several seeds, beside them. InputError where another picture has its name."""
    stem = paths[0].stem.removesuffix(f"-seed{requests[0].seed}")
    seeds = [one.seed for one in requests]
    path = paths[0].with_name(f"{stem}-seeds{min(seeds)}-{max(seeds)}-sheet.png")
    check_output(path, "sheet")
    if path.exists() and probe(path).comment != "\n".join(labels(requests)):
        raise InputError(f"{path}: another picture has this name; give sheet=")
    return path


def check_sheet(path: Path) -> None:
    """InputError for a contact sheet that could not be written, or is to be no PNG."""
    if path.suffix.lower() != ".png":
        raise InputError(f"sheet={path}: a contact sheet is a .png")
    check_output(path, "sheet")


def labels(requests: Sequence[Request]) -> list[str]:
    """What a sheet says of each video."""
    alike = len({one.prompt for one in requests}) == 1 and len(requests) > 1
    return [f"seed {one.seed}: {one.prompt}" if alike else one.prompt for one in requests]


def saved(video: Video, path: Path) -> str:
    """Write a video -> its name, as it is answered: a folder's with its stroke."""
    return str(video.save(path)) if path.suffix else f"{video.save(path)}/"


def check_paths(paths: Sequence[Path], requests: Sequence[Request]) -> None:
    """InputError, before any work, where a video could not be kept as what it is called, or would replace another's."""
    for path, one in zip(paths, requests, strict=True):
        check_kind(path, one.frames, one.height, one.width, one.fps)
        check_place(path)


def check_folder(out: Path) -> None:
    """InputError for the name of a file where several videos go."""
    if out.suffix.lower() in [*KINDS][:-1]:
        raise InputError(f"out={out}: many videos need a folder")


def seeds_of(typed: Any, count: int | None) -> list[int] | int | None:
    """What seed= says: several, 1,2,3, one, or nothing. InputError for anything else, and for several beside count=."""
    if isinstance(count, bool) or not (count is None or (isinstance(count, int) and 1 <= count <= MANY)):
        raise InputError(f"count={count}: how many videos of one prompt, 1 to {MANY}")
    if not isinstance(typed, str) or not typed:
        return typed if typed != "" else None
    if not re.fullmatch(r"\s*\d{1,19}\s*(,\s*\d{1,19}\s*)*", typed):
        raise InputError(f"seed={typed[:60]}: expected a whole number, or several such as 1,2,3")
    seeds = [int(one) for one in typed.split(",")]
    if len(set(seeds)) < len(seeds) or len(seeds) > MANY:
        raise InputError(f"seed={typed[:60]}: each seed once, at most {MANY}")
    if count is not None:
        raise InputError(f"seed={typed[:60]} and count={count} both say how many videos are made; give one of them")
    return seeds


def several(asked: Mapping[str, Any], seed: list[int] | int | None, count: int | None) -> list[dict[str, Any]]:
    """A request under each of several seeds, or under as many as are counted up from its own; else alone."""
    first = asked.get("seed", 0)
    seeds = seed if isinstance(seed, list) else range(first, first + count) if count else None
    return [dict(asked)] if seeds is None else [{**asked, "seed": one} for one in seeds]
