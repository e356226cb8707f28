"""What the parts of a model are called, in files and in records, and what each is for. No other file knows a name.

A text encoder's name is also that of the stream in which a denoiser attends to its states: a model has those that its
denoisers read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TypeVar

from videodit.models.interfaces import DENOISER, TEXT_ENCODER, VAE

T = TypeVar("T")

# In the order of their work: of denoisers the one for the most noise first, of text encoders the one that all have.
NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType({
    DENOISER: ("dit", "dit_low"),
    TEXT_ENCODER: ("text", "text_2", "text_3"),
    VAE: ("vae",),
})  # fmt: skip
ROLES: Mapping[str, str] = MappingProxyType({name: role for role, names in NAMES.items() for name in names})
# In a folder of ours: "text_2.safetensors", and "tokenizer_2.json" for it.
FILES: Mapping[str, str] = MappingProxyType({name: f"{name}.safetensors" for name in ROLES})
TOKENIZERS: Mapping[str, str] = MappingProxyType({
    name: f"{name.replace('text', 'tokenizer')}.json" for name in NAMES[TEXT_ENCODER]
})  # fmt: skip


def name_of(role: str) -> str:
    """What the first part that is there for it is called."""
    return NAMES[role][0]


def of_role(parts: Iterable[str], role: str) -> list[str]:
    """The names of those parts that are there for it, in order."""
    there = set(parts)
    return [name for name in NAMES[role] if name in there]


def first(parts: Mapping[str, T], role: str) -> T:
    """The part that is there for it; of several the first."""
    return parts[of_role(parts, role)[0]]
