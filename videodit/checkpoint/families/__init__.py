"""Families of public weights, a record each; to add one is to add its file and its line here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

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


def by_architecture(name: str) -> Network | None:
    """The first family's network of this architecture of ours."""
    networks = (network for family in FAMILIES.values() for network in family.networks.values())
    return next((network for network in networks if network.architecture == name), None)


def of_parts(architectures: Mapping[str, str]) -> Family | None:
    """The first family that another library has a pipeline of, and whose parts are of these architectures."""
    for family in FAMILIES.values():
        own = {part: network.architecture for part, network in family.networks.items()}
        if family.pipeline and architectures.items() <= own.items():
            return family
    return None
