"""Families of public weights, a record each; to add one is to add its file and its line here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from videodit.checkpoint.families import ltx, wan
from videodit.checkpoint.families.record import Family, Network

FAMILIES: Mapping[str, Family] = MappingProxyType({family.name: family for family in (wan.FAMILY, ltx.FAMILY)})


def by_pipeline(name: str | None) -> Family | None:
    """The family whose folders name this class of pipeline."""
    return next((family for family in FAMILIES.values() if family.pipeline and family.pipeline == name), None)


def by_sign() -> dict[str, Network]:
    """The networks by the tensors that only their files hold."""
    networks = [network for family in FAMILIES.values() for network in family.networks.values()]
    return {sign: network for network in networks for sign in network.signs}


def of_network(spec: Mapping[str, Any]) -> tuple[Family, Network] | None:
    """The family that a network of ours (models/build.py) is of, and its record there.

    It is the first of this architecture whose own all have such arguments, else the first of this architecture.
    """
    found = [(f, network) for f in FAMILIES.values() for network in f.networks.values()]
    found = [one for one in found if one[1].architecture == spec["architecture"]]
    own = [one for one in found if all(spec["arguments"].get(key) == x for key, x in one[1].always.items())]
    return next(iter(own or found), None)


def of_parts(architectures: Mapping[str, str]) -> Family | None:
    """The first family that another library has a pipeline of, and whose parts are of these architectures."""
    for family in FAMILIES.values():
        own = {part: network.architecture for part, network in family.networks.items()}
        if family.pipeline and architectures.items() <= own.items():
            return family
    return None
