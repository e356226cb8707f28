"""Models of conf/pretrained whose weights are random numbers: the path of public weights, without a download.

A YAML that says `random` instead of `hub` is made on this machine when it is first asked for, as a folder of another
library's layout in the user's cache, which is then opened as any public folder is. Its videos are noise.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videodit.alive import doing
from videodit.atomic import atomic_folder, scratch_folder
from videodit.checkpoint.export import export_diffusers
from videodit.checkpoint.families import FAMILIES
from videodit.checkpoint.folder import INDEX
from videodit.checkpoint.parts import FILES, NAMES, ROLES, TOKENIZERS, first, of_role
from videodit.checkpoint.pretrained import Part
from videodit.checkpoint.store import save_tensors
from videodit.config import cache_dir
from videodit.errors import InputError
from videodit.models.build import without_weights
from videodit.models.interfaces import DENOISER, TEXT_ENCODER
from videodit.models.text import byte_tokenizer

VERSION = 1  # of how they are made: another number makes new folders beside the old ones
TOLD = "its weights are random, so its videos are noise: they show that the path runs, and no more"
FOLDER = "random"  # in the cache


def folder_of(name: str, numbers: Mapping[str, Any]) -> Path:
    """The folder of a model of random weights, which is made if it is not there. `numbers`: its YAML, complete.

    A folder appears whole or not at all, also where several processes make it at once: the first one stays.
    """
    digest = sha256(json.dumps([VERSION, numbers], sort_keys=True).encode()).hexdigest()[:16]
    folder = _parent() / f"{name}-{digest}"
    if not folder.is_dir():
        with (
            doing(f"make random weights for {name}"),
            scratch_folder(folder) as ours,
            atomic_folder(folder, keep=True) as out,
        ):
            _write(name, numbers, ours, out)
    return folder


def is_random(path: Path) -> bool:
    """Whether a folder is one of these."""
    return path.parent.name == FOLDER and path.parent == _parent()


def _parent() -> Path:
    return cache_dir() / FOLDER


def _write(name: str, numbers: Mapping[str, Any], ours: Path, out: Path) -> None:
    """Write our layout to the folder `ours`, and export it to `out`."""
    family, where = FAMILIES[numbers["family"]], f"model={name}"
    if not family.pipeline:
        raise InputError(f"{where}: no folder of the family {family.name} can be written, so it cannot be random")
    said = {part: numbers[part] for part in ROLES if part in numbers}
    if "boundary" in numbers:
        said[NAMES[DENOISER][1]] = first(said, DENOISER)
    generator, parts = torch.Generator("cpu").manual_seed(numbers["random"]["seed"]), {}
    for part in (name for name in ROLES if name in said):
        spec = {key: said[part][key] for key in ("architecture", "arguments")}
        save_tensors(ours / FILES[part], dict(_drawn(spec, said[part], generator)), spec)
        parts[part] = Part.own(ours / FILES[part])
    tokenizers = {part: byte_tokenizer(ours / TOKENIZERS[part]) for part in of_role(parts, TEXT_ENCODER)}
    for part, words in tokenizers.items():
        if len(words) > (room := said[part]["arguments"]["vocabulary"]):
            raise InputError(f"{where}: {part}.arguments.vocabulary={room}: the tokenizer has {len(words)} tokens")
    told: list[str] = []
    paths = {part: words.path for part, words in tokenizers.items()}
    export_diffusers(numbers, parts, paths, out, torch.float32, told.append, family)
    if not (out / INDEX).is_file():
        raise InputError(f"{where}: {'; '.join(line for line in told if 'left out' in line)}")


def _drawn(
    spec: Mapping[str, Any], said: Mapping[str, Any], generator: torch.Generator
) -> Iterator[tuple[str, Tensor]]:
    """A network's tensors with random values, by our names; those that the YAML gives, such as statistics, as there.

    A product with any of the matrices keeps the size of numbers. Uniform numbers are the same bits on every
    processor, and torch's normal ones are not.
    """
    for name, tensor in without_weights(spec).state_dict().items():
        shape = tensor.shape
        if name in said:
            yield name, torch.tensor(said[name], dtype=torch.float32)
            continue
        values = 2 * torch.rand(shape, generator=generator) - 1
        if len(shape) > 1:
            yield name, values * (3 / prod(shape[1:])) ** 0.5
        else:
            yield name, 0.1 * values + (not name.endswith("bias"))  # a norm's gain is near one
