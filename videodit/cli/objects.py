"""Whether the objects that a config names can be made: seen before a command does anything."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from videodit.cli.values import dotted
from videodit.errors import InputError
from videodit.factory import found, parameters
from videodit.shapes import Sizes

if TYPE_CHECKING:
    from omegaconf import DictConfig

DATA = ("data.train.", "data.heldout.")  # keys of data sets
FOLLOWS = "sizes are those that the VAE and the DiT take: leave it out"


def check_objects(cfg: DictConfig) -> None:
    """InputError, naming the key, for a `_target_` that cannot be imported, or does not take the arguments beside it.

    Nothing is called. Values are left to who takes them.
    """
    from omegaconf import OmegaConf

    for key, node in dotted(OmegaConf.to_container(cfg, resolve=False), ""):
        if isinstance(node, dict) and "_target_" in node:
            _check(key, node)


def _check(key: str, node: dict[str, Any]) -> None:
    name = node["_target_"]
    if isinstance(name, str) and "${" in name:  # another key's value, which is seen there
        return
    try:
        target = found(str(name).split("."))
    except Exception as error:  # whatever a module raises that is imported
        raise InputError(f"{key}._target_={name}: cannot be imported: {error or type(error).__name__}") from None
    if not callable(target):
        raise InputError(f"{key}._target_={name}: it makes no objects; name a class or a function")
    arguments = {argument: value for argument, value in node.items() if not argument.startswith("_")}
    if key.startswith(DATA):
        for own in sorted(arguments.keys() & set(Sizes._fields)):
            raise InputError(f"{key}.{own}: {FOLLOWS}")
        arguments |= dict.fromkeys(parameters(str(name)) & set(Sizes._fields))
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):  # see `parameters`
        return
    try:
        partly = node.get("_partial_") or node.get("_args_")
        (signature.bind_partial if partly else signature.bind)(**arguments)
    except TypeError as error:
        raise InputError(f"{key}: {name}: {error}") from None
