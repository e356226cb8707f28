"""The keys of an adapter's file: which of our parameters each one changes, and as which tensor of its change."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from videodit.checkpoint.families import lora, of_network
from videodit.checkpoint.families.record import Adapters
from videodit.checkpoint.keymap import SAME, SHOWN, Form, places
from videodit.checkpoint.pretrained import Part
from videodit.checkpoint.weights import Weights
from videodit.errors import InputError

_ENDS = [
    (re.compile(r"(.+)\." + re.escape(end).replace(r"\*", "[^.]+")), end, which)
    for end, which in sorted(lora.ENDS.items(), key=lambda row: -len(row[0]))  # "lora_A.weight" before "weight"
]


@dataclass(frozen=True)
class Key:
    """A tensor's name, taken apart: a module's name, which tensor of its change this is, and how that is spelt."""

    name: str
    module: str
    which: str
    end: str


Group = dict[str, Key]  # which tensor -> its key


@dataclass
class Keys:
    """A file's keys for one DiT: by the parameter of ours that they change, and those that are left out.

    `forms`: how the values of each of these parameters are arranged in the file.
    """

    groups: dict[str, Group] = field(default_factory=dict)
    forms: dict[str, Form] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def adapters_of(spec: Mapping[str, Any]) -> Adapters:
    """How adapters of such a network are spelt."""
    found = of_network(spec)
    return found[0].adapters if found else Adapters()


def by_expert(weights: Weights, named: Sequence[str], experts: Sequence[str], spelt: Adapters) -> dict[str, list[str]]:
    """The experts that a file changes, with its keys for each: those that the keys say, else that are `named`, or all.

    `experts`: those of the model. InputError where keys say one and the model has a single one.
    """
    said = {name: _bare(name, spelt)[1] for name in weights.names}
    marked = next((name for name, expert in said.items() if expert), None)
    if marked is None:
        wanted = [name for name in named if name in experts]
        return dict.fromkeys(wanted or experts, weights.names)
    if len(experts) == 1:
        raise InputError(f"{weights.source} is for a model of two experts ({marked}); this one has a single one")
    rest = lora.HIGH if lora.LOW in said.values() else lora.LOW  # what keys that say none are for
    found = {expert: [name for name, of in said.items() if (of or rest) == expert] for expert in experts}
    return {expert: names for expert, names in found.items() if names}


def says_expert(names: Collection[str], spelt: Adapters) -> bool:
    """Whether keys say which expert they are for."""
    return any(_bare(name, spelt)[1] for name in names)


def sort_keys(weights: Weights, names: Sequence[str], part: Part, values: Collection[str]) -> Keys:
    """Find a place in a DiT for each of these keys. InputError that names those without one, but for absent modules.

    `values`: the tensors that stand for whole parameters, "value" and "bias_value", as far as the file may have them.
    """
    spelt, known, found, unknown = adapters_of(part.spec), _places(part), Keys(), []
    tails_of = {**lora.TAILS, "table_difference": spelt.tables}
    absent = re.compile(rf"(^|[._])({'|'.join(map(re.escape, spelt.absent))})([._]|$)") if spelt.absent else None
    for name in names:
        if kind := next((kind for mark, kind in lora.OTHERS.items() if f".{mark}" in name), None):
            raise InputError(f"{weights.source}: {name} is of a kind that is not read: {kind}; LoRA and DoRA are")
        key = _taken_apart(name, spelt)
        if key is None or (key.which.endswith("value") and key.which not in values):
            unknown.append(name)
            continue
        tails = [tail for tail in tails_of[key.which] if key.module + tail in known]
        if not tails:
            (found.left_out if absent and absent.search(key.module) else unknown).append(name)
            continue
        ours, form = known[key.module + tails[0]]
        group, found.forms[ours] = found.groups.setdefault(ours, {}), form
        if key.which in group:
            raise InputError(f"{weights.source}: {group[key.which].name} and {name} are for the same matrix")
        group[key.which] = key
    if unknown or not found.groups:
        lacking = some(unknown or found.left_out) or "an empty one"
        raise InputError(f"{weights.source} is no adapter for this model, which has no place for {lacking}")
    return found


def some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _bare(name: str, spelt: Adapters) -> tuple[str, str]:
    """A name without what others put before it, and the expert that this says, if any."""
    expert, prefixes = "", {**dict.fromkeys(lora.PREFIXES, ""), **spelt.prefixes}
    while prefix := next((prefix for prefix in prefixes if name.startswith(prefix)), ""):
        name, expert = name.removeprefix(prefix), prefixes[prefix] or expert
    return name.removeprefix(next((prefix for prefix in lora.FLAT if name.startswith(prefix)), "")), expert


def _taken_apart(name: str, spelt: Adapters) -> Key | None:
    bare, _ = _bare(name, spelt)
    hits = ((pattern.fullmatch(bare), end, which) for pattern, end, which in _ENDS)
    return next((Key(name, hit[1], which, end) for hit, end, which in hits if hit), None)


def spelling(names: Iterable[str], spec: Mapping[str, Any], layout: str) -> Mapping[str, tuple[str, Form]]:
    """A layout's name of each of a network's parameters -> ours, and how the values are arranged there.

    Adapters of an architecture that nobody else has go by our own names.
    """
    found = of_network(spec)
    if found is None:
        return {name: (name, SAME) for name in names}
    return places(names, found[1].table(layout, spec["arguments"]))


def _places(part: Part) -> Mapping[str, tuple[str, Form]]:
    """Every name that a denoiser's parameters have in files -> ours, and how the values are arranged there."""
    found = {}
    for layout in adapters_of(part.spec).layouts:
        for theirs, place in spelling(part.skeleton.state_dict(), part.spec, layout).items():
            module, _, last = theirs.rpartition(".")
            found[theirs] = found[f"{module.replace('.', '_')}.{last}"] = place
    return found
