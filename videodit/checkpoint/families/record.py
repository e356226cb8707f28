"""What a family of public weights is: one record, which is all that the rest of the house knows of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from videodit.checkpoint.keymap import Table

Arguments = dict[str, Any]
Shapes = Mapping[str, tuple[int, ...]]  # of the tensors in a file, by name


class Detected(NamedTuple):
    """What a file of weights is, by the names and shapes of its tensors."""

    layout: str
    arguments: Arguments
    constants: Mapping[str, Any] = {}  # values that the file lacks, such as a VAE's statistics


class Theirs(NamedTuple):
    """A class of another library: the type of its config, what absent keys mean, and keys that have no other value
    here.
    """

    kind: Any
    defaults: Mapping[str, Any]
    fixed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Network:
    """One network as a family's files have it.

    Args:
        architecture: which of ours it is (`models.build.ARCHITECTURES`).
        table: the names of its tensors in a layout, "diffusers" or "vendor", for a network of these arguments.
        signs: tensors that only files of it hold, one a layout.
        detect: shapes, and the channels of a head if a config beside the file says them, -> what the file is.
        classes: the other library's classes that it may be in a folder, by their names.
        arguments: their config.json, complete -> our arguments. `source` names the file in errors.
        config: our arguments, and values of its buffers -> their config.json. InputError for what it cannot express.
        buffers: our buffers that their config.json holds -> the keys.
        library, stem: of the class, and of its files.
        always: arguments that all of the family's own have, which tell it from other families of this architecture.
    """

    architecture: str
    table: Callable[[str, Mapping[str, Any]], Table]
    signs: tuple[str, ...]
    detect: Callable[[Shapes, int | None], Detected]
    classes: Mapping[str, Theirs] = field(default_factory=dict)
    arguments: Callable[..., Arguments] | None = None
    config: Callable[[Mapping[str, Any], Mapping[str, list[float]]], dict[str, Any]] | None = None
    buffers: Mapping[str, str] = field(default_factory=dict)
    library: str = "diffusers"
    stem: str = "diffusion_pytorch_model"
    always: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Adapters:
    """How a family's adapters are spelt, beside what trainers write for any (families/lora.py).

    Args:
        layouts: of the names between a prefix and an end.
        prefixes: before a module's name -> the part, one of several denoisers, that they name.
        tables: what makes a table's name of its module's.
        absent: modules, such as a branch for images, that adapters may change and no model here has: left out, told.
        plain, dora: prefix and layout with which an adapter is written, without and with lengths of rows.
    """

    layouts: tuple[str, ...] = ("vendor", "diffusers")
    prefixes: Mapping[str, str] = field(default_factory=dict)
    tables: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    plain: tuple[str, str] = ("diffusion_model.", "vendor")
    dora: tuple[str, str] = ("transformer.", "diffusers")


@dataclass(frozen=True)
class Family:
    """Public weights that share names.

    Args:
        name: what conf/pretrained calls it.
        networks: by the names that we give to the parts of a model.
        folders: where another library's folder has each part; empty if no such folder is read.
        tokenizers: where it has that of each text encoder.
        pipeline: the class that such a folder's index names.
        text_length: states of a text that its pipeline gives a denoiser, zero ones included; 0: a prompt's own.
        adapters: how changes of its denoisers are spelt.
    """

    name: str
    networks: Mapping[str, Network]
    folders: Mapping[str, str] = field(default_factory=dict)
    tokenizers: Mapping[str, str] = field(default_factory=dict)
    pipeline: str = ""
    text_length: int = 0
    adapters: Adapters = Adapters()


def count_blocks(shapes: Shapes, prefix: str) -> int:
    """How many blocks there are whose tensors' names begin so, before a number."""
    return 1 + max(int(name[len(prefix) :].split(".")[0]) for name in shapes if name.startswith(prefix))
