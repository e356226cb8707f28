"""What a run's folder tells of it: curves, samples with their prompts, skipped clips, config; for the report page."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired

from annotated_types import Ge, Le, Len
from typing_extensions import TypedDict

from videodit.errors import InputError
from videodit.printable import warn
from videodit.track.curves import Curve, metrics_file, read
from videodit.track.jsonl import records
from videodit.track.names import PROMPTS
from videodit.untrusted import check, json_lines, leads_out, read_json

BREAK = 600.0  # seconds between records that count as a pause of the run, unless records are always so far apart
SAMPLE = re.compile(r"step-(\d+)(?:-(\d+))?\.(mp4|png)")
OPEN = {"extra": "allow"}  # other keys are shown as they are


class Prompts(TypedDict):
    """The table of samples: a prompt and a file in each row."""

    columns: list[str]
    rows: list[Annotated[list[str], Len(2, 2)]]


class Skipped(TypedDict):
    """A line of skipped.jsonl."""

    path: str
    reason: str


class Steps(TypedDict):
    """What the loop's settings say of a run's length."""

    __pydantic_config__ = OPEN  # type: ignore[misc]
    steps: NotRequired[Annotated[int, Ge(1), Le(2**53)]]


class Git(TypedDict):
    """The checkout that a run's code came from."""

    commit: str
    dirty: bool | None


class Origin(TypedDict):
    """What a run was made with."""

    __pydantic_config__ = OPEN  # type: ignore[misc]
    git: NotRequired[Git | None]
    versions: NotRequired[dict[str, str]]


class Data(TypedDict):
    """The data sets of a run's config."""

    __pydantic_config__ = OPEN  # type: ignore[misc]
    train: NotRequired[list[Any] | None]
    heldout: NotRequired[list[Any] | None]


class RunConfig(TypedDict):
    """A run's config.json, as far as its page speaks of it."""

    __pydantic_config__ = OPEN  # type: ignore[misc]
    name: NotRequired[str]
    loop: NotRequired[Steps]
    origin: NotRequired[Origin]
    data: NotRequired[Data]


@dataclass(frozen=True)
class Story:
    """A run as its folder has it.

    step: the last one recorded. seconds: spent on its training, pauses left out. ended: the last record's Unix time.
    videos: by prompt, then by step. sheets: by step. skipped: by reason, then the paths. config: {} where unknown.
    """

    folder: Path
    curves: Mapping[str, Curve]
    step: int
    seconds: float
    ended: float
    videos: Mapping[str, Mapping[int, Path]]
    sheets: Mapping[int, Path]
    skipped: Mapping[str, Sequence[str]]
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What the run is called: in its config, else its folder."""
        return str(self.config["name"]) if "name" in self.config else self.folder.resolve().name


def tell(folder: Path) -> Story:
    """Read a run's folder, also while the run goes on. Raises InputError, naming it, for one without metrics.jsonl."""
    metrics, step = _own(metrics_file(folder), folder), 0
    times: list[float] = []
    known = (0.0, 0)  # what the run itself says of its time, and which record says it
    prompts: dict[str, str] = {}
    for record in records(metrics):
        step = record["step"]
        times.append(record.get("time", 0.0))
        if isinstance(said := record.get("seconds"), int | float) and math.isfinite(said):
            known = said, len(times) - 1
        if PROMPTS in record:
            table = check(record[PROMPTS], Prompts, f"{metrics}: {PROMPTS} of step {step}")
            prompts |= {file: prompt for prompt, file in table["rows"]}
    videos, sheets = _samples(folder, prompts)
    return Story(
        folder=folder,
        curves=read(metrics),
        step=step,
        seconds=known[0] + busy(times[known[1] :]),  # runs of older versions say nothing
        ended=times[-1] if times else 0.0,
        videos=videos,
        sheets=sheets,
        skipped=_skipped(_own(folder / "skipped.jsonl", folder)),
        config=read_json(config, RunConfig) if (config := _own(folder / "config.json", folder)).is_file() else {},
    )


def busy(times: Sequence[float]) -> float:
    """Seconds between the first and the last of `times`, less what must have been a pause between two sessions."""
    gaps = sorted(max(0.0, later - earlier) for earlier, later in zip(times, times[1:], strict=False))
    usual = gaps[len(gaps) // 2] if gaps else 0.0
    return sum(gap for gap in gaps if gap <= max(BREAK, 20 * usual))


def _own(path: Path, folder: Path) -> Path:
    """The path; InputError where it is a link out of the folder: a page shows nothing from elsewhere."""
    if leads_out(path, folder):
        raise InputError(f"{path} is a link out of the run's folder, and its page shows nothing from elsewhere")
    return path


def _samples(folder: Path, prompts: Mapping[str, str]) -> tuple[dict[str, dict[int, Path]], dict[int, Path]]:
    """Videos by prompt and step, where the prompt is known, else by their number; sheets by step."""
    videos: dict[str, dict[int, Path]] = {}
    sheets: dict[int, Path] = {}
    for path in sorted((folder / "samples").glob("step-*")):
        if leads_out(path, folder) or not path.is_file():
            warn(__name__, f"{path} is left out: it is no file of this run's folder")
        elif match := SAMPLE.fullmatch(path.name):
            step, number, kind = int(match[1]), match[2], match[3]
            if kind == "png":
                sheets[step] = path
            else:
                prompt = prompts.get(f"samples/{path.name}", f"sample {number}")
                videos.setdefault(prompt, {})[step] = path
    return videos, sheets


def _skipped(path: Path) -> dict[str, list[str]]:
    """Paths of clips that could not be read, by reason; a damaged line is left out."""
    found: dict[str, list[str]] = {}
    for _, entry in json_lines(path, Skipped) if path.is_file() else ():
        if not isinstance(entry, InputError):
            found.setdefault(entry["reason"], []).append(entry["path"])
    counts = Counter({reason: len(paths) for reason, paths in found.items()})
    return {reason: found[reason] for reason, _ in counts.most_common()}
