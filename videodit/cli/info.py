"""`videodit info [path]`: what this installation is, how a video was made, what weights or a training set hold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videodit.cli.origin import versions
from videodit.config import assets_dir, conf_dir
from videodit.errors import InputError
from videodit.printable import answer, one_line
from videodit.track.progress import duration
from videodit.untrusted import MOST, parse_json, read_json

if TYPE_CHECKING:
    from omegaconf import DictConfig


FRAMES = "record.json"  # in a folder of frames


def run(cfg: DictConfig) -> None:
    """Print what `cfg.path` is: a video's record, weights, a training set, or, when it is empty, the installation."""
    answer(*(describe(Path(cfg.path)) if cfg.path else installation()))


def describe(path: Path) -> list[str]:
    """Lines about a video, a safetensors file, a folder of them or a set; InputError if `path` is none of these."""
    if path.is_dir() and not (path / FRAMES).is_file():
        return list(_folder(path))
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.suffix == ".safetensors":
        return _weights(path)
    return record(path).splitlines()


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
    from videodit.cli.places import record_text

    try:
        return json.dumps(parse_json(record_text(path)[0][: MOST.settings], path), indent=2, ensure_ascii=False)
    except InputError:
        raise InputError(f"{path}: a video, but with no record in it; videodit did not write it") from None


def _folder(folder: Path) -> Iterator[str]:
    from videodit.data.set import MANIFEST

    if (folder / MANIFEST).is_file():
        yield from _set(folder)
        return
    settings = folder / "pipeline.json"
    if settings.is_file() and (base := read_json(settings, dict[str, Any]).get("base")):
        yield from (_line("a change of", base), "")
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        raise InputError(f"{folder}: no safetensors file in it")
    for path in files:
        yield from _weights(path)
        yield ""


def _set(folder: Path) -> Iterator[str]:
    """What a training set holds, and how it was made."""
    from videodit.data.set import ABOUT, read_manifest
    from videodit.untrusted import read_json

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
