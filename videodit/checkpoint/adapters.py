"""Adapters in files: which weights of which DiT they change, read in the spellings in which people pass them on.

They become part of a DiT's weights as these are read: `changes` has the mathematics, `scales` how strong they are,
`experts` which DiT they are for, `adapter_keys` which of its parameters, the family's record and `families/lora` the
spellings. All of a file has a place in the model, or the file is refused; only keys of modules that the record calls
absent, such as those of a branch for images, are left out, and named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from videodit.checkpoint import scales
from videodit.checkpoint.adapter_keys import Group, Keys, adapters_of, by_expert, says_expert, some, sort_keys, spelling
from videodit.checkpoint.changes import Difference, LowRank, Value, alpha_of, check_low_rank, check_whole
from videodit.checkpoint.experts import FILE, adapter_files, experts_named
from videodit.checkpoint.families import of_network
from videodit.checkpoint.families.lora import HIGH, KOHYA, KOHYA_ALPHA, LOW
from videodit.checkpoint.keymap import Form
from videodit.checkpoint.pretrained import Delta, Part
from videodit.checkpoint.scales import Said
from videodit.checkpoint.store import save_tensors
from videodit.checkpoint.weights import Weights
from videodit.errors import InputError
from videodit.models.build import without_weights
from videodit.printable import note

__all__ = ["FILE", "attach", "matrices", "parse", "save_adapter"]

LOW_RANK = {"down", "up", "magnitude", "alpha"}  # the tensors of one matrix


@dataclass
class Told:
    """What is said of a file: how many layers of each expert it changes, which keys were left out, and notes."""

    layers: dict[str, int] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def line(self, file: object, strength: float, experts: int) -> str:
        """All of it in a line."""
        names = {HIGH: "high noise", LOW: "low noise"}
        where = " and ".join(f"{count} of the expert for {names[name]}" for name, count in self.layers.items())
        layers = where if experts > 1 else str(sum(self.layers.values()))
        left = f"{len(self.left_out)} ({some(self.left_out)}): this model has no branch for images"
        return "; ".join([
            f"lora={file}: layers changed: {layers}",
            f"strength: {strength:g}",
            f"keys left out: {left if self.left_out else 'none'}",
            *self.notes,
        ])  # fmt: skip


def attach(parts: Mapping[str, Part], lora: Mapping[str, float], *, quiet: bool = False) -> dict[str, Part]:
    """Parts whose DiTs have these adapters, files or folders, at these strengths, in this order.

    A file changes the expert that its keys or its name say, else every one there is. What became of it is said in a
    line; `quiet`: only where keys were left out.
    """
    found, experts = dict(parts), [name for name in (HIGH, LOW) if name in parts]
    files = [(file, path, strength) for path, strength in lora.items() for file in adapter_files(path)]
    given = [file for file, _, _ in files]
    named = [experts_named([file, file.parent, Path(path)], given) for file, path, _ in files]
    if len(experts) == 1 and [HIGH] in named and [LOW] in named:
        pair = some([str(file) for file in given])
        raise InputError(f"lora={pair}: they are for a model of two experts; this one has a single one")
    for (file, _, strength), names in zip(files, named, strict=True):
        weights, told = Weights([file]), Told()
        for name, keys in by_expert(weights, names, experts, adapters_of(parts[experts[0]].spec)).items():
            found[name] = _with(found[name], name, weights, keys, strength, told)
        if told.left_out or not quiet:
            note(__name__, told.line(file, strength, len(experts)))
    return found


def parse(given: str | Path | Mapping[Any, float] | Iterable[Any] | None) -> dict[str, float]:
    """Adapters and their strengths from "a.safetensors:0.8,b.safetensors", {path: strength} or [path or pair, …]."""
    if isinstance(given, str):
        given = [_pair(text.strip()) for text in given.split(",") if text.strip()]
    given = [given] if isinstance(given, Path) else () if given is None else given
    if not isinstance(given, Iterable):
        raise InputError(f"lora={given}: expected paths of adapters, each perhaps with its strength")
    found: dict[str, float] = {}
    for one in given.items() if isinstance(given, Mapping) else given:
        match (one, 1.0) if isinstance(one, str | Path) else one:
            case (str() | Path() as path, strength):
                if isinstance(strength, bool) or not isinstance(strength, int | float) or not isfinite(strength):
                    raise InputError(f"lora={path}:{strength}: its strength must be a number")
            case _:
                raise InputError(f"lora={one}: expected a path, or a path and its strength")
        if str(path) in found:
            raise InputError(f"lora={path}: it is there twice")
        found[str(path)] = float(strength)
    return found


def matrices(spec: Mapping[str, Any], layout: str) -> dict[str, tuple[str, Form]]:
    """A layout's name of each matrix of a network -> our name, and how its values change to ours."""
    modules = without_weights(spec).named_modules()
    linears = [f"{name}.weight" for name, part in modules if isinstance(part, nn.Linear)]
    return {theirs.removesuffix(".weight"): place for theirs, place in spelling(linears, spec, layout).items()}


def save_adapter(
    path: Path, changes: Mapping[str, Mapping[str, Tensor]], spec: Mapping[str, Any], header: Mapping[str, Any]
) -> None:
    """Write "down", "up" and perhaps "magnitude" of a network's matrices by our names, such as blocks.0.attention.q.

    The names are those that diffusers and ComfyUI read, without an alpha: the scale belongs into "up". DoRA's go by
    diffusers' names, which ComfyUI does not read, since diffusers takes them under no others.
    """
    dora = any("magnitude" in change for change in changes.values())
    spelt = adapters_of(spec)
    prefix, layout = spelt.dora if dora else spelt.plain
    theirs = {ours.removesuffix(".weight"): name for name, (ours, _) in matrices(spec, layout).items()}
    ends = {"down": "lora_A.weight", "up": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
    tensors = {
        f"{prefix}{theirs[ours]}.{ends[which]}": tensor
        for ours, change in changes.items()
        for which, tensor in change.items()
    }
    save_tensors(path, tensors, header)


def _with(part: Part, expert: str, weights: Weights, names: Sequence[str], strength: float, told: Told) -> Part:
    """A part with one more adapter: a file's keys of these names."""
    family = of_network(part.spec)
    folders = family[0].folders if family and says_expert(names, family[0].adapters) else {}
    said = scales.sources(weights, folders.get(expert, "transformer"))
    values = {"value": any(one.modules for one in said), "bias_value": any(one.modules or one.bias for one in said)}
    keys = sort_keys(weights, names, part, [which for which, there in values.items() if there])
    shapes = {name: tuple(tensor.shape) for name, tensor in part.skeleton.state_dict().items()}
    scaled = {
        ours: _scale(weights, group, ours, shapes[ours], said)
        for ours, group in keys.groups.items()
        if group.keys() & LOW_RANK
    }
    added = dict(part.added)
    for ours in keys.groups:
        added[ours] = [*added.get(ours, ()), *_deltas(weights, keys, ours, shapes[ours], scaled, strength)]
    told.layers[expert] = len({ours.rpartition(".")[0] for ours in keys.groups})
    told.left_out = list(dict.fromkeys([*told.left_out, *keys.left_out]))  # both experts may lack the same
    if any(one.kohya for one in said) and not any(_kohya(group) for group in keys.groups.values()):
        told.notes = [f"{KOHYA_ALPHA} of its header: not applied, whoever respells such a file puts it into B·A"]
    return replace(part, added=added, adapters=(*part.adapters, f"{scales.fingerprint(weights)}:{strength}"))


def _scale(weights: Weights, group: Group, ours: str, shape: Sequence[int], said: Sequence[Said]) -> float:
    """Of an adapter's B·A, by all that its files say."""
    rank = check_low_rank(weights, _names(group), ours, shape)
    module, found = group["down"].module, {}
    if "alpha" in group:
        name = group["alpha"].name
        found[f"{weights.source}: {name}"] = alpha_of(weights, name) / rank
    for one in said:
        if one.dora is not None and one.dora != ("magnitude" in group):
            lengths = "no lengths of rows" if one.dora else "lengths of rows"
            raise InputError(f"{one.where} says use_dora={str(one.dora).lower()}, but there are {lengths} of {module}")
        if not one.kohya or _kohya(group):
            found[one.where] = one.scale(module, rank)
    return scales.scale_of(found, module)


def _deltas(
    weights: Weights, keys: Keys, ours: str, shape: Sequence[int], scaled: Mapping[str, float], strength: float
) -> Iterator[Delta]:
    """What a file adds to our parameter of this name and shape. `scaled`: scales of matrices."""
    group, form = keys.groups[ours], keys.forms[ours]
    if ours in scaled:
        yield LowRank(weights, _names(group), form, strength * scaled[ours])
    for which in [which for which in group if which not in LOW_RANK]:
        name, factor = group[which].name, strength
        check_whole(weights, name, form, ours, shape)
        if which == "up_bias":
            matrix = ours.removesuffix("bias") + "weight"
            if matrix not in scaled:
                raise InputError(f"{weights.source}: {name} lacks its partner")
            if "magnitude" in keys.groups[matrix]:
                raise InputError(f"{weights.source}: {name} stands beside lengths of rows; PEFT's DoRA has no bias")
            factor *= scaled[matrix]
        make = Value if which.endswith("value") else Difference
        yield make(weights, name, form, factor)


def _names(group: Group) -> dict[str, str]:
    return {which: key.name for which, key in group.items() if which in LOW_RANK}


def _kohya(group: Group) -> bool:
    return any(key.end in KOHYA for key in group.values())


def _pair(text: str) -> tuple[str, float]:
    path, _, strength = text.rpartition(":")
    try:
        return (path, float(strength)) if path else (text, 1.0)
    except ValueError:
        return text, 1.0
