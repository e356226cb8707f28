"""The folder of a run: what is in it, its config, and what another start changes of that."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NotRequired

import torch
from typing_extensions import TypedDict

import videodit
from videodit.checkpoint.parts import TOKENIZERS
from videodit.moved import renamed
from videodit.parallel.mesh import Mesh
from videodit.printable import warn
from videodit.provenance import origin
from videodit.shapes import Sizes
from videodit.train.machine import pick_precision
from videodit.train.made import FILE as MADE
from videodit.untrusted import check, read_json

OF_THIS_START = ("fresh", "memory", "origin", "plan")  # not of the run
# What changes how a run goes, but not what it computes (of `parallel` and `packs.most`: beyond rounding).
SAFE = ("after", "cache", "data.root", "device", "keep", "kernel", "loop.log_every", "loop.sample_every",
        "loop.save_every", "loop.steps", "name", "packs.most", "parallel", "request", "run_dir", "samples", "tracked",
        "tracker", "workers")  # fmt: skip
LATER = {"kernel": "auto"}  # keys that runs of earlier versions lack, and what these did
WRITTEN = ("checkpoints", "config.json", MADE, "metrics.jsonl", "model", "report.html", "samples", "skipped.jsonl",
           "tensorboard", *TOKENIZERS.values(), "wandb", "wandb-id")  # fmt: skip  # what a run leaves in its folder


class Settled(TypedDict):
    """What decides, of the config.json of a run that is resumed."""

    precision: NotRequired[str]


def settle(config: dict[str, Any], folder: Path, mesh: Mesh, *, resuming: bool) -> dict[str, Any]:
    """The config with what `auto` came to and the `origin` of this start, the same for all processes."""
    own = None
    if mesh.main:
        own = settled(config, folder / "config.json", mesh.device, resuming=resuming) | {"origin": origin()}
    return mesh.exchange(own)[0]


def settled(config: dict[str, Any], path: Path, device: torch.device, *, resuming: bool) -> dict[str, Any]:
    """The config with what `auto` came to. Resuming keeps the precision that the run has (`path` is its config.json).

    What else differs from the run's config, or from the clips that it had, is told: it may be meant, such as
    more steps.
    """
    config = {key: value for key, value in config.items() if key not in OF_THIS_START}
    before = read_json(path, dict[str, Any]) if resuming and path.exists() else dict(config)
    check(before, Settled, path)
    before = {key: value for key, value in LATER.items() if key in config} | renamed(before)
    forget_sizes(before)
    known = before.get("precision", "auto")
    if config["precision"] == "auto":
        config["precision"] = pick_precision(known, device)
    if known == "auto":
        before["precision"] = config["precision"]
    now = config if "clips" in before else {key: config[key] for key in config if key != "clips"}  # older runs lack it
    for line in differences(before, now):
        key = line.partition(": ")[0]
        kind = "safe" if is_safe(key) else "from here on another training"
        warn(__name__, f"resuming with another config: {line} ({kind})")
    return config


def forget_sizes(before: dict[str, Any]) -> None:
    """Drop what an older run's config says of its data sets' stride and patch, which the networks say now."""
    data = before.get("data")
    splits = data.values() if isinstance(data, dict) else ()
    for node in (node for split in splits if isinstance(split, list) for node in split):
        for name in Sizes._fields if isinstance(node, dict) else ():
            node.pop(name, None)


def is_safe(key: str) -> bool:
    """Whether a run computes the same with another value of this key."""
    return any(key == safe or key.startswith(f"{safe}.") for safe in SAFE)


def stamp(config: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of what wrote it: versions, and a hash of what the run computes."""
    flat = sorted(line for line in differences({}, config) if not is_safe(line.partition(": ")[0]))
    versions = {"videodit": videodit.__version__, "torch": torch.__version__}
    return {"versions": versions, "config": hashlib.sha256("\n".join(flat).encode()).hexdigest()[:16]}


def differences(before: Any, now: Any, key: str = "") -> Iterator[str]:
    """ "key: before -> now" for every value that differs between two nested configs; None where there is none."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted({*before, *now} - {*OF_THIS_START}):
            yield from differences(before.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif isinstance(now, dict) and before is None and now:
        yield from differences({}, now, key)
    elif before != now:
        yield f"{key}: {before} -> {now}"


def start_over(folder: Path) -> None:
    """Delete what a run wrote into its folder, and nothing else that may lie there."""
    for name in WRITTEN:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
