"""The closed table of architectures: what a checkpoint may name, and what the configuration builds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from videodit.errors import InputError
from videodit.models.dit import DiT
from videodit.models.interfaces import Stacked
from videodit.models.text import SmallT5
from videodit.models.vae import VideoVAE
from videodit.untrusted import check

ARCHITECTURES: dict[str, type[Stacked]] = {"dit": DiT, "t5": SmallT5, "video_vae": VideoVAE}

# Arguments that came after the first checkpoints, with what files that lack them mean.
ADDED: dict[str, dict[str, Any]] = {
    "dit": {"text_length": 0, "norm": "layer", "qk_eps": 1e-6, "fractions": None},
}


def checked(spec: Mapping[str, Any], where: object) -> dict[str, Any]:
    """A checkpoint's architecture and arguments, complete however old it is, with what else its header says.

    InputError, which begins with `where`, for one that no network of this version has: nothing is built before.
    """
    from videodit.models.arguments import ARGUMENTS  # pydantic's types, which building a network does not need

    architecture, arguments = spec.get("architecture"), spec.get("arguments")
    told = f"{where} describes no architecture of this version"
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES or not isinstance(arguments, dict):
        raise InputError(f"{told}; there are {', '.join(ARCHITECTURES)}")
    complete = ADDED.get(architecture, {}) | arguments
    return {**spec, "arguments": check(complete, ARGUMENTS[architecture], told)}


def rebuild(architecture: str, arguments: Mapping[str, Any]) -> Stacked:
    """`build` from what a checkpoint says, however old it is."""
    return build(architecture, **ADDED.get(architecture, {}) | dict(arguments))


def without_weights(spec: Mapping[str, Any]) -> Stacked:
    """Build the network of a checkpoint on the meta device, for its sizes and the names of its tensors."""
    with torch.device("meta"):
        return rebuild(spec["architecture"], spec["arguments"])


def role_of(spec: Mapping[str, Any]) -> str:
    """What the network of a checkpoint is for: DENOISER, TEXT_ENCODER or VAE."""
    return ARCHITECTURES[spec["architecture"]].ROLE


def with_depths(spec: Mapping[str, Any], depths: Mapping[str, int] | None = None) -> dict[str, Any]:
    """What `rebuild` takes, for the same network with so many blocks in each stack; one in those not named."""
    stacks = ARCHITECTURES[spec["architecture"]].STACKS
    counts = {argument: (depths or {}).get(stack, 1) for stack, argument in stacks.items()}
    return {**spec, "arguments": {**spec["arguments"], **counts}}


def depths_of(spec: Mapping[str, Any]) -> dict[str, int]:
    """How many blocks each stack of a network has."""
    stacks = ARCHITECTURES[spec["architecture"]].STACKS
    return {stack: spec["arguments"][argument] for stack, argument in stacks.items()}


def build(architecture: str, **arguments: Any) -> Stacked:
    """Build an architecture by name. The module remembers both in `.spec`, which its checkpoints carry."""
    if architecture not in ARCHITECTURES:
        raise InputError(f"unknown architecture '{architecture}'; there are {', '.join(sorted(ARCHITECTURES))}")
    module = ARCHITECTURES[architecture](**arguments)
    module.spec = {"architecture": architecture, "arguments": arguments}
    return module
