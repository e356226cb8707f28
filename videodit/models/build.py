"""The closed table of architectures: what a checkpoint may name, and what the configuration builds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from videodit.errors import InputError
from videodit.models.dit import DiT
from videodit.models.text import SmallT5
from videodit.models.vae import VideoVAE

ARCHITECTURES: dict[str, type[nn.Module]] = {"dit": DiT, "t5": SmallT5, "video_vae": VideoVAE}

# Arguments that came after the first checkpoints, with what files that lack them mean.
ADDED: dict[str, dict[str, Any]] = {
    "dit": {"text_length": 0, "norm": "layer", "qk_eps": 1e-6, "fractions": None},
}


def rebuild(architecture: str, arguments: Mapping[str, Any]) -> nn.Module:
    """`build` from what a checkpoint says, however old it is."""
    return build(architecture, **ADDED.get(architecture, {}) | dict(arguments))


def build(architecture: str, **arguments: Any) -> nn.Module:
    """Build an architecture by name. The module remembers both in `.spec`, which its checkpoints carry."""
    if architecture not in ARCHITECTURES:
        raise InputError(f"unknown architecture '{architecture}'; there are {', '.join(sorted(ARCHITECTURES))}")
    module = ARCHITECTURES[architecture](**arguments)
    module.spec = {"architecture": architecture, "arguments": arguments}
    return module
