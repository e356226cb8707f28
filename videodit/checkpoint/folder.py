"""A folder that diffusers' pipelines save: a model_index.json, and a folder for each component that it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videodit.checkpoint.families import FAMILIES, by_pipeline
from videodit.checkpoint.families.configs import Class, ModelIndex, read_config
from videodit.checkpoint.families.lora import LOW
from videodit.checkpoint.families.record import Network
from videodit.checkpoint.family import is_exact, nearest_family, settings
from videodit.checkpoint.parts import first
from videodit.checkpoint.pretrained import Part
from videodit.checkpoint.resolve import read_family
from videodit.checkpoint.schedulers import FILE, read_scheduler
from videodit.checkpoint.weights import open_weights
from videodit.errors import InputError
from videodit.models.interfaces import DENOISER
from videodit.printable import note
from videodit.untrusted import check, read_json

INDEX = "model_index.json"
ABSENT = [None, None]  # a component that an index does not name
Described = tuple[dict[str, Any], dict[str, Part], dict[str, Path]]


def is_folder(path: Path) -> bool:
    """Whether diffusers saved a pipeline there."""
    return (path / INDEX).is_file()


def read_folder(folder: Path, family: str | None = None) -> Described:
    """What such a folder says of its pipeline, its parts, and its tokenizers' files.

    `family`: the name in conf/pretrained by which it was asked for, if it was.
    """
    file = folder / INDEX
    index = read_json(file, ModelIndex)
    record = by_pipeline(index.get("_class_name"))
    if record is None:
        known = " or ".join(family.pipeline for family in FAMILIES.values() if family.pipeline)
        kind = index.get("_class_name")
        raise InputError(f"{folder}: it holds a {kind}; only {known}, text to video, can be used yet")
    components = record.folders.values()
    classes = {theirs: check(index.get(theirs, ABSENT), Class, f"{file}: {theirs}") for theirs in components}
    held = {part: theirs for part, theirs in record.folders.items() if classes[theirs][0]}
    if lacking := [theirs for theirs in held.values() if not (folder / theirs).is_dir()]:
        raise InputError(f"{folder} lacks {', '.join(lacking)}, which its model_index.json names")
    if lacking := [theirs for part, theirs in record.folders.items() if part not in held and part != LOW]:
        raise InputError(f"{file} names no {', '.join(lacking)}")
    if index.get("boundary_ratio") is not None and LOW not in held:
        lacking = record.folders[LOW]
        raise InputError(f"{file}: it has a boundary_ratio, but no {lacking}: one expert of two is no model")
    parts = {part: _part(folder / theirs, record.networks[part], classes[theirs][1]) for part, theirs in held.items()}
    nearest = nearest_family(parts)
    exact = is_exact(nearest, first(parts, DENOISER).spec["arguments"])
    pipeline = settings(nearest, exact=exact)
    scheduler = read_scheduler(folder, index.get("scheduler", [None, None])[1])
    pipeline["defaults"]["sampler"] = scheduler.pop("sampler")
    vendors = pipeline["shift"]
    pipeline |= scheduler
    if family is not None or exact:
        pipeline["shift"] = _agreed_shift(folder, family, nearest, vendors, pipeline["shift"])
    if LOW in parts:
        if index.get("boundary_ratio") is None:
            raise InputError(f"{file} lacks boundary_ratio, the time at which its two transformers take turns")
        pipeline["boundary"] = float(index["boundary_ratio"])
    return pipeline, parts, {name: _tokenizer(folder / theirs) for name, theirs in record.tokenizers.items()}


def _agreed_shift(folder: Path, family: str | None, nearest: str, vendors: float, folders: float) -> float:
    """The vendor's shift where the model was asked for by its name, else the folder's. Where they differ, a line."""
    if family is not None:
        vendors = read_family(family)["shift"]
    if vendors != folders:
        ours, other, whose = (vendors, folders, "that file") if family else (folders, vendors, f"{nearest}'s vendor")
        note(__name__, f"{folder / FILE}: shift={ours:g} is taken; {whose} has {other:g}: shift={other:g} is that one")
    return vendors if family else folders


def _part(folder: Path, network: Network, name: str | None) -> Part:
    """A component of this class."""
    file = folder / "config.json"
    config = read_config(file, network, name)
    arguments = network.arguments(config, source=folder)
    constants = {ours: config[theirs] for ours, theirs in network.buffers.items() if theirs in config}
    if constants and {len(values) for values in constants.values()} != {arguments["latent_channels"]}:
        raise InputError(f"{file}: latents_mean and latents_std should have {arguments['latent_channels']} values")
    spec = {"architecture": network.architecture, "arguments": arguments}
    return Part(spec, open_weights(folder), network.table("diffusers", arguments), constants)


def _tokenizer(folder: Path) -> Path:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InputError(f"{folder} lacks tokenizer.json (a spiece.model alone is not read)")
    return path
