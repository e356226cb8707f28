"""What a run's folder tells of it: curves, samples with their prompts, skipped clips, config; for the report page."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videodit.errors import InputError
from videodit.track.curves import Curve, metrics_file, read
from videodit.track.jsonl import records
from videodit.track.names import PROMPTS

BREAK = 600.0  # seconds between records that count as a pause of the run, unless records are always so far apart
SAMPLE = re.compile(r"step-(\d+)(?:-(\d+))?\.(mp4|png)")


@dataclass(frozen=True)
class Story:
    """A run as its folder has it.

    step: the last one recorded. seconds: spent on it, pauses left out. ended: the last record's time (Unix seconds).
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
    metrics, step = metrics_file(folder), 0
    times: list[float] = []
    prompts: dict[str, str] = {}
    for record in records(metrics):
        step = record["step"]
        times.append(record.get("time", 0.0))
        if isinstance(table := record.get(PROMPTS), dict):
            prompts |= {file: prompt for prompt, file in table["rows"]}
    videos, sheets = _samples(folder, prompts)
    return Story(
        folder=folder,
        curves=read(metrics),
        step=step,
        seconds=busy(times),
        ended=times[-1] if times else 0.0,
        videos=videos,
        sheets=sheets,
        skipped=_skipped(folder / "skipped.jsonl"),
        config=_json(folder / "config.json"),
    )


def busy(times: Sequence[float]) -> float:
    """Seconds between the first and the last of `times`, less what must have been a pause between two sessions."""
    gaps = sorted(max(0.0, later - earlier) for earlier, later in zip(times, times[1:], strict=False))
    usual = gaps[len(gaps) // 2] if gaps else 0.0
    return sum(gap for gap in gaps if gap <= max(BREAK, 20 * usual))


def _samples(folder: Path, prompts: Mapping[str, str]) -> tuple[dict[str, dict[int, Path]], dict[int, Path]]:
    """Videos by prompt and step, where the prompt is known, else by their number; sheets by step."""
    videos: dict[str, dict[int, Path]] = {}
    sheets: dict[int, Path] = {}
    for path in sorted((folder / "samples").glob("step-*")):
        if match := SAMPLE.fullmatch(path.name):
            step, number, kind = int(match[1]), match[2], match[3]
            if kind == "png":
                sheets[step] = path
            else:
                prompt = prompts.get(f"samples/{path.name}", f"sample {number}")
                videos.setdefault(prompt, {})[step] = path
    return videos, sheets


def _skipped(path: Path) -> dict[str, list[str]]:
    """Paths of clips that could not be read, by reason; a line torn by a crash is left out."""
    found: dict[str, list[str]] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
                found.setdefault(str(entry["reason"]), []).append(str(entry["path"]))
            except (ValueError, KeyError, TypeError):
                continue
    counts = Counter({reason: len(paths) for reason, paths in found.items()})
    return {reason: found[reason] for reason, _ in counts.most_common()}


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
    return content if isinstance(content, dict) else {}
