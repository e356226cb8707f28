"""What `videodit info` says of a model, by whatever name `model=` takes, and of a run: a few lines each."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from videodit.checkpoint.adapters import FILE as ADAPTER
from videodit.checkpoint.family import is_exact, nearest_family, settings
from videodit.checkpoint.find import described
from videodit.checkpoint.folder import is_folder
from videodit.checkpoint.loose import identify_all, loose_parts
from videodit.checkpoint.parts import NAMES, ROLES, first, name_of, of_role
from videodit.checkpoint.pretrained import Part, check_parts, lacking
from videodit.checkpoint.random_weights import TOLD, is_random
from videodit.checkpoint.resolve import families, files_of, from_hub, is_hub_id, read_family
from videodit.checkpoint.store import is_held, load_tensors
from videodit.checkpoint.weights import Weights, open_weights
from videodit.config import assets_dir
from videodit.errors import InputError
from videodit.models.build import role_of
from videodit.models.interfaces import DENOISER, TEXT_ENCODER, VAE
from videodit.parallel.store import STATE
from videodit.track.progress import duration, number
from videodit.track.story import Story, tell
from videodit.train.made import MODEL
from videodit.untrusted import read_json

KINDS = {DENOISER: "transformer", TEXT_ENCODER: "text encoder", VAE: "VAE"}
RUN = ("config.json", "metrics.jsonl")  # what makes a folder a run's
FIRST = ("heldout/loss", "heldout/psnr", "psnr", "tokens/s", "memory GiB")  # of a run's last numbers, beside the loss
MOST = 3  # of a run's last numbers

Lines = Iterator[tuple[str, str]]  # a name and what is said of it


class Model(NamedTuple):
    """What is known of a model. where: its files, or in words that they are not here."""

    where: str
    pipeline: Mapping[str, Any]
    parts: Mapping[str, Part]
    family: str


def find_model(name: str) -> Model | None:
    """The model of a name that `model=` takes, None for what is none; nothing is downloaded.

    InputError for a model that cannot be opened.
    """
    plain, path = "/" not in name and "\\" not in name, Path(name)
    if plain and (assets_dir() / name / "pipeline.json").is_file():
        return _whole(assets_dir() / name, None)
    for place in (path, path / MODEL):
        if (place / "pipeline.json").is_file() or is_folder(place):
            return _whole(place, None)
    if path.exists():
        return _loose(path)
    if plain and name in families():
        return _named(name)
    if not is_hub_id(name):
        return None
    try:
        return _whole(from_hub(name, name, cached=True), None)
    except InputError as error:
        if "not in the hub's cache" not in str(error):
            raise
        raise InputError(f"{name}: its files are not in the hub's cache, and info downloads nothing") from None


def model_lines(model: Model) -> Lines:
    """What it is made of, and what it makes."""
    yield "files", model.where
    if is_random(Path(model.where)):
        yield "weights", TOLD
    if base := _base(Path(model.where)):
        yield "a change of", base
    if (adapter := Path(model.where) / ADAPTER).is_file():
        yield "by an adapter", f"{_size(adapter)}, {_settings(adapter)}"
    if model.family:
        yield "family", model.family
    for role, kind in KINDS.items():
        for count, name in enumerate(of_role(model.parts, role), 1):
            yield kind if count == 1 else f"{kind} {count}", _part(model.parts[name])
    defaults = model.pipeline.get("defaults")
    if not defaults:
        yield "makes", "nothing by itself: other parts of a model are not beside it"
        return
    size = f"{defaults['width']}x{defaults['height']}, {defaults['frames']} frames, {defaults['fps']:g} fps"
    low, high = model.pipeline["area"]
    yield "makes", f"{size} unless asked otherwise; it knows {low} to {high} pixels a frame"
    how = f"{defaults['steps']} steps of {defaults['sampler']}, guidance {defaults['guidance']}"
    shift = model.pipeline["shift"]
    yield "samples in", f"{how}, shift {shift if isinstance(shift, int | float) else json.dumps(shift)}"


def is_run(folder: Path) -> bool:
    """Whether a training made this folder."""
    return all((folder / name).is_file() for name in RUN)


def run_lines(folder: Path) -> Lines:
    """What was trained, how far it is, what came of it, and how to go on: ten lines at most."""
    story = tell(folder)
    said, state = story.config, state_of(folder, story)
    yield "trains", _trained(said)
    steps = said.get("loop", {}).get("steps", "?")
    yield "steps", f"{story.step} of {steps}: {state}"
    yield "last numbers", ", ".join(_last(story)) or "none are recorded yet"
    yield "time", duration(story.seconds)
    yield "data", _data(said)
    if (weights := list((folder / MODEL).glob("*.safetensors"))) and state != "goes on now":
        yield "model", ", ".join(f"{path.stem} {_part(Part.own(path)) if path.name != ADAPTER else _size(path)}"
                                 for path in sorted(weights))  # fmt: skip
    saved = sorted(path.parent for path in (folder / "checkpoints").glob(f"*/{STATE}"))
    sizes = sum(file.stat().st_size for place in saved for file in place.rglob("*") if file.is_file())
    yield "checkpoints", f"{', '.join(place.name for place in saved) or 'none'}{_bytes(sizes) * bool(saved)}"
    if (folder / "samples").is_dir():
        yield "samples", f"{folder / 'samples'}; all of it on a page: videodit report {folder}"
    yield "to go on", _advice(folder, state, bool(weights))


def state_of(folder: Path, story: Story) -> str:
    """In a word or two: complete, goes on now, diverged, or stopped."""
    if is_held(folder / ".lock"):
        return "goes on now"
    steps = story.config.get("loop", {}).get("steps", math.inf)
    if story.step >= steps:
        return "complete"
    losses, skipped = (story.curves.get(name) for name in ("loss", "skipped updates"))
    last = losses[1][-1] if losses else 0.0
    lost = skipped is not None and skipped[1][-1] > 0 and (losses is None or skipped[0][-1] > losses[0][-1])
    return "diverged" if lost or not math.isfinite(last) else "stopped"


def _advice(folder: Path, state: str, model: bool) -> str:
    use = f"videodit generate … model={folder}" if model and (folder / MODEL / "pipeline.json").is_file() else ""
    more = {
        "complete": "the same command with a larger loop.steps=",
        "goes on now": "wait, or stop it: the same command goes on from there",
        "diverged": "a lower learning rate; the same command starts from the last checkpoint",
        "stopped": "the same command again",
    }[state]
    return f"{more}; to use it: {use}" if use else more


def _trained(said: Mapping[str, Any]) -> str:
    """What trains, from what, in which way, as a run's config.json says."""
    adapter = "_target_" in _mapping(said.get("adapter"))
    what = "a VAE" if said.get("stage") == "vae" else "an adapter of a DiT" if adapter else "a DiT"
    start = f"from {said['init']}" if said.get("init") else "from nothing"
    frozen = f", frozen: {said['freeze']}" if said.get("freeze") else ""
    return f"{what}, {start}, {said.get('precision', '?')}, seed {said.get('seed', '?')}{frozen}"


def _last(story: Story) -> list[str]:
    """The last loss, and the last of a few other numbers that there are."""
    told = ["loss", *[name for name in FIRST if name in story.curves][:MOST]]
    return [f"{name} {number(float(story.curves[name][1][-1]))}" for name in told if name in story.curves]


def _data(said: Mapping[str, Any]) -> str:
    """Which sets, and how many clips of them."""
    sets = [_mapping(one) for one in _mapping(said.get("data")).get("train") or []]
    names = Counter(f"{str(one.get('_target_', '?')).rpartition('.')[2]} {one.get('root', '')}".strip() for one in sets)
    told = ", ".join(f"{count} of {name}" if count > 1 else name for name, count in names.items()) or "not told"
    held = {split: _mapping(one).get("count") for split, one in _mapping(said.get("clips")).items()}
    return f"{told}{f': {_counted(held)} clips' * bool(held)}"


def _mapping(value: Any) -> Mapping[str, Any]:
    """A part of a file that should be one, or nothing."""
    return value if isinstance(value, dict) else {}


def _counted(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _base(folder: Path) -> str:
    """What a pipeline.json says that its folder is a change of, as JSON; or nothing."""
    file = folder / "pipeline.json"
    base = read_json(file, dict[str, Any]).get("base") if file.is_file() else None
    return json.dumps(base, ensure_ascii=False) if base else ""


def _whole(folder: Path, family: str | None) -> Model:
    pipeline, parts, _ = described(folder, family)[0]
    check_parts(parts)
    return Model(str(folder), pipeline, parts, family or _family(parts))


def _family(parts: Mapping[str, Part]) -> str:
    """The name in conf/pretrained that has this very transformer, or nothing."""
    arguments = first(parts, DENOISER).spec["arguments"]
    return next((name for name in families() if is_exact(name, arguments)), "")


def _named(name: str) -> Model:
    """A name in conf/pretrained: by its files where they are here or can be made here, else by its numbers."""
    family = read_family(name)
    try:
        return _whole(files_of(name, name, cached=True), name)
    except InputError:
        if "hub" not in family:
            raise
        parts = {part: Part(family[part], Weights([])) for part in ROLES if _known(family.get(part))}
        parts |= {NAMES[DENOISER][1]: first(parts, DENOISER)} if "boundary" in family else {}
        there = f"not here; generate takes them from https://huggingface.co/{family['hub']}"
        return Model(there, settings(name, exact=True), parts, name)


def _known(spec: Any) -> bool:
    return isinstance(spec, dict) and "architecture" in spec


def _loose(path: Path) -> Model | None:
    """Public weights in a file or a folder: what is there, whatever a model would need besides."""
    try:
        parts, _ = loose_parts(path)
    except InputError:
        if path.is_dir():
            raise
        parts = {}
    if not parts and path.is_file():  # a text encoder or a VAE alone
        parts = {name_of(role_of(part.spec)): part for part in identify_all(open_weights(path))}
    if not parts:
        return None
    whole = not lacking(parts)
    family = nearest_family(parts) if of_role(parts, DENOISER) else ""
    exact = bool(family) and is_exact(family, first(parts, DENOISER).spec["arguments"])
    return Model(str(path), settings(family, exact=exact) if whole else {}, parts, family if exact else "")


def _part(part: Part) -> str:
    """A network's size, and how its weights are stored."""
    weights = part.weights
    if not weights.files:
        count = sum(p.numel() for p in part.skeleton.parameters())
        return f"{_millions(count)} parameters, {part.spec['architecture']}"
    kinds = ", ".join(name for name, _ in Counter(weights.dtypes[name] for name in weights.names).most_common())
    size = sum(path.stat().st_size for path in set(weights.files))
    return f"{_millions(part.count)} parameters, {kinds}, {size / 1e6:.1f} MB"


def _millions(count: int) -> str:
    return f"{count / 1e9:.1f} billion" if count >= 1e9 else f"{count / 1e6:.2f} million"


def _size(path: Path) -> str:
    """Of an adapter's file: how many numbers, in how many bytes."""
    weights = Weights([path])
    count = sum(math.prod(shape) for shape in weights.shapes.values())
    return f"{_millions(count)} parameters, {path.stat().st_size / 1e6:.1f} MB"


def _settings(path: Path) -> str:
    """What an adapter's file says of how it was made, without its base."""
    said = _mapping(load_tensors(path)[1].get("adapter"))
    return json.dumps({key: value for key, value in said.items() if key != "base"}, ensure_ascii=False)


def _bytes(size: int) -> str:
    return f" ({size / 1e6:.1f} MB)"
