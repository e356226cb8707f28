"""What is known of a family of public weights beside its files: names of tensors, and numbers (conf/pretrained)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from videodit.checkpoint.families import FAMILIES
from videodit.checkpoint.keymap import Table
from videodit.checkpoint.parts import first, of_role
from videodit.checkpoint.pretrained import Part
from videodit.checkpoint.resolve import families, read_family
from videodit.models.interfaces import DENOISER, VAE

EVERYWHERE = [1, 2**31]  # an `area` without limits


def table(family: str, part: str, layout: str, arguments: Mapping[str, Any]) -> Table:
    """The names of a family's part in a layout, "diffusers" or "vendor"."""
    return FAMILIES[family].networks[part].table(layout, arguments)


def settings(family: str, *, exact: bool) -> dict[str, Any]:
    """What a pipeline.json would say: the family's numbers; its limits on sizes only for the very same network."""
    numbers = read_family(family)
    said = ("flow", "shift", "area", "defaults", "boundary", "vae_dtype", "prompts")
    pipeline = {key: numbers[key] for key in said if key in numbers}
    return pipeline if exact else {**pipeline, "area": EVERYWHERE}


def nearest_family(parts: Mapping[str, Part]) -> str:
    """The name in conf/pretrained with this transformer, else the first with as many experts and such a VAE.

    Those of random weights are near to themselves alone.
    """
    known = {name: read_family(name) for name in families()}
    experts = of_role(parts, DENOISER)
    usable = {n: f for n, f in known.items() if "defaults" in f and ("boundary" in f) == (len(experts) > 1)}
    same = [name for name in usable if is_exact(name, parts[experts[0]].spec["arguments"])]
    published = {name: family for name, family in usable.items() if "random" not in family}
    for vae in of_role(parts, VAE):
        patch = parts[vae].spec["arguments"]["patch"]
        same += [name for name, family in published.items() if family[vae]["arguments"]["patch"] == patch]
    return (same or list(published))[0]


def is_exact(family: str, arguments: Mapping[str, Any]) -> bool:
    """Whether these are the arguments of that family's transformer."""
    return first(read_family(family), DENOISER)["arguments"] == dict(arguments)
