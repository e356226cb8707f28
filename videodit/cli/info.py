"""`videodit info [path]`: what this installation is, how a video was made, what a model, a run or a set is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

from videodit.checkpoint.weights import ENDINGS
from videodit.cli.about import find_model, is_run, model_lines, run_lines
from videodit.cli.settings import Info
from videodit.config import assets_dir, conf_dir
from videodit.data.set import MANIFEST
from videodit.errors import InputError
from videodit.printable import answer, one_line
from videodit.provenance import versions
from videodit.track.progress import duration
from videodit.untrusted import MOST, parse_json, read_json

FRAMES = "record.json"  # in a folder of frames


def run(asked: Info) -> None:
    """Print what `asked.path` is: a video's record, a model, a run, a set, or, when it is empty, the installation."""
    answer(*(describe(asked.path) if asked.path else installation()))


def describe(name: str | Path) -> list[str]:
    """Lines about a set, a run, a model by any name that `model=` takes, weights, or a video that videodit made.

    InputError for what is none of these. Nothing is downloaded.
    """
    path, name = Path(name), str(name)
    if path.is_dir() and (path / FRAMES).is_file():
        return record(path).splitlines()
    if path.is_dir() and (path / MANIFEST).is_file():
        return list(_set(path))
    if path.is_dir() and is_run(path):
        return _said(name, run_lines(path))
    if path.is_file() and path.suffix not in ENDINGS:
        return record(path).splitlines()
    fault = ""
    try:
        if model := find_model(name):
            files = _weights(path) if path.is_file() and path.suffix == ".safetensors" else []
            return [*_said(name, model_lines(model)), *files[1:]]
    except InputError as error:
        if not path.exists() or path.suffix == ".gguf":
            raise
        fault = str(error)
    if not path.exists():
        raise InputError(f"{name}: no such file or folder, and no name that model= takes")
    if path.is_file():
        return _weights(path)
    return list(_folder(path, fault))


def installation() -> list[str]:
    """Lines about versions, the device that would be used, and the shipped files."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
    known = versions()
    lines = [f"videodit {known.pop('videodit')}", "", *(_line(name, found) for name, found in known.items())]
    lines += ["", _line("device", device), _line("configs", conf_dir()), _line("bundled", assets_dir())]
    lines += [
        _line("", f"{path.relative_to(assets_dir())}  {_megabytes(path)}")
        for path in sorted(assets_dir().rglob("*.safetensors"))
    ]
    return lines


def record(path: Path) -> str:
    """The record of a video that videodit wrote, as indented JSON; InputError if there is none."""
    from videodit.data.video import probe
    from videodit.generate.record import record_text

    try:
        return json.dumps(parse_json(record_text(path)[0][: MOST.settings], path), indent=2, ensure_ascii=False)
    except InputError:
        if path.suffix == ".json":
            raise
        probe(path)  # what is no video says so
        raise InputError(f"{path}: a video, but with no record in it; videodit did not write it") from None


def _said(name: str, lines: Iterable[tuple[str, str]]) -> list[str]:
    """A title and named lines."""
    return [name, *(_line(*line) for line in lines)]


def _folder(folder: Path, fault: str) -> Iterator[str]:
    """The files of weights in a folder that is no model; `fault`: why it is none."""
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        raise InputError(fault or f"{folder}: no set, no run, no model, and no safetensors file in it")
    if fault:
        yield from (_line("no model", fault), "")
    for path in files:
        yield from _weights(path)
        yield ""


def _set(folder: Path) -> Iterator[str]:
    """What a training set holds, and how it was made."""
    from videodit.data.set import ABOUT, read_manifest

    captioned = ("caption", "caption_short", "caption_long")
    table = read_manifest(folder)
    wanted = {"source", "split", "frames", "fps", "sizes", "shards", *captioned}
    clips = table.select([name for name in table.column_names if name in wanted]).to_pylist()
    splits = Counter(clip["split"] for clip in clips)
    shapes = Counter(f"{clip['frames']}x{height}x{width}" for clip in clips for height, width in clip["sizes"])
    captions = {name: sum(bool(clip[name]) for clip in clips) for name in captioned}
    seconds = sum(clip["frames"] / clip["fps"] for clip in clips)
    yield str(folder)
    yield _line("clips", f"{len(clips)} of {len({clip['source'] for clip in clips})} files, {duration(seconds)}")
    yield _line("split", _counted(splits))
    yield _line("shapes", _counted(shapes))
    yield _line("captions", _counted(captions))
    yield _line("latents", f"{sum(bool(clip.get('shards')) for clip in clips)} clips")
    yield ""
    yield from (_line(key, value) for key, value in read_json(folder / ABOUT, dict[str, Any]).items())


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda pair: -pair[1]))


def _weights(path: Path) -> list[str]:
    from videodit.checkpoint.weights import read_table

    table = read_table(path)
    count = sum(prod(row["shape"]) for row in table.rows.values())
    kinds = Counter(row["dtype"] for row in table.rows.values())
    return [
        str(path),
        *(_line(key, value) for key, value in _about(table.metadata).items()),
        _line("parameters", f"{count:,} in {len(table.rows)} tensors"),
        _line("types", ", ".join(f"{number} {kind}" for kind, number in kinds.items())),
        _line("size", _megabytes(path)),
    ]


def _about(written: Mapping[str, str]) -> dict[str, Any]:
    """A header's own words, which are strings; ours is JSON: the architecture, its arguments and more."""
    about: dict[str, Any] = dict(written)
    try:
        ours = parse_json(about.pop("videodit", "{}"), "its header", dict[str, Any])
    except InputError as error:
        ours = {"damaged": str(error)}
    return about | ours


def _line(name: str, value: object) -> str:
    return one_line(f"  {name:<14}{value if isinstance(value, str | Path) else json.dumps(value, ensure_ascii=False)}")


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"
