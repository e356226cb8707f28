"""The closed table of architectures: what a checkpoint may name, and what the configuration builds."""

from __future__ import annotations

from typing import Any

from torch import nn

from videodit.errors import InputError
from videodit.models.dit import DiT
from videodit.models.text import SmallT5
from videodit.models.vae import VideoVAE

ARCHITECTURES: dict[str, type[nn.Module]] = {"dit": DiT, "t5": SmallT5, "video_vae": VideoVAE}


def build(architecture: str, **arguments: Any) -> nn.Module:
    """Build an architecture by name. The module remembers both in `.spec`, which its checkpoints carry."""
    if architecture not in ARCHITECTURES:
        raise InputError(f"unknown architecture '{architecture}'; there are {', '.join(sorted(ARCHITECTURES))}")
    module = ARCHITECTURES[architecture](**arguments)
    module.spec = {"architecture": architecture, "arguments": arguments}
    return module
