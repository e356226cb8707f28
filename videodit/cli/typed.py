"""The settings of each command: the class whose fields are its keys, and a config made into an instance of it.

A command's YAML takes the keys on by `- <command>_settings` in its defaults, and adds groups and its examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from videodit.config import conf_dir
from videodit.errors import InputError
from videodit.settings import Before, Factory, defaults_of, read

if TYPE_CHECKING:
    from omegaconf import DictConfig

SUFFIX = "_settings"  # of the names under which hydra finds them
# Where the class of each command's settings is, in modules that are light to import.
CLASSES: Mapping[str, str] = MappingProxyType(
    {
        command: f"videodit.cli.settings.{command.title()}"
        for command in ("generate", "plan", "decode", "evaluate", "export", "info", "report")
    }
    | {command: f"videodit.train.settings.{command.title()}" for command in ("train", "doctor", "encode")}
)


def settings_of(name: str) -> type | None:
    """The class of a command's settings, or of what its YAML calls `<command>_settings`; None where it has none."""
    place = CLASSES.get(name.removesuffix(SUFFIX))
    if place is None:
        return None
    module, _, kind = place.rpartition(".")
    return getattr(import_module(module), kind)


def register() -> None:
    """Let hydra find the settings of all commands."""
    from hydra.core.config_store import ConfigStore

    for command in CLASSES:
        ConfigStore.instance().store(name=f"{command}{SUFFIX}", node=own_defaults(command))


def own_defaults(command: str) -> dict[str, Any]:
    """The defaults of a command's keys, but for those of another command that it extends, whose YAML its own takes on.
    """
    kind = settings_of(command)
    if kind is None:
        return {}
    others = [one for one in map(settings_of, CLASSES) if one is not kind and issubclass(kind, one)]
    taken = {field.name for one in others for field in fields(one)} - set(kind.__annotations__)
    return {name: default for name, default in defaults_of(kind).items() if name not in taken}


def settings(command: str, overrides: Sequence[str]) -> Any:
    """A command's settings with these overrides, in hydra's grammar."""
    from videodit.cli.compose import Line, config
    from videodit.cli.objects import check_objects

    cfg = config(conf_dir(), command, Line(list(overrides), {}))
    check_objects(cfg)
    return typed(command, cfg)


def typed(command: str, cfg: DictConfig) -> Any:
    """A command's settings from its config, interpolations resolved; of a command that has none, the config itself.

    What has a `_target_` becomes a Factory. InputError names the key that is wrong.
    """
    kind = settings_of(command)
    if kind is None:
        return cfg
    tree = _with_factories(_tree(cfg), "")
    if "after" in tree:
        tree["after"] = [_before(overrides) for overrides in tree["after"]]
    tree.pop("hydra", None)
    return read(kind, tree)


def _tree(node: Any) -> Any:
    """A config's plain values, interpolations resolved. In what describes an object, text that refers to keys that the
    command has not stays: encode asks a DiT for its patch, and has no VAE that would tell its channels.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import InterpolationKeyError

    if OmegaConf.is_list(node):
        return [_tree(one) for one in node]
    if not OmegaConf.is_dict(node):
        return node
    found = {}
    for name in node:
        try:
            found[name] = _tree(node[name])
        except InterpolationKeyError:
            if "_target_" not in node:
                raise
            found[name] = OmegaConf.to_container(node, resolve=False)[name]
    return found


def _before(overrides: Any) -> Before:
    """A run of `after`: a training with these overrides."""
    if not isinstance(overrides, list):
        raise InputError(f"after=[{overrides},…]: each run that comes first is a list of its keys: after=[[stage=vae]]")
    return Before(overrides, settings("train", overrides))


def _with_factories(tree: Any, key: str) -> Any:
    """The same tree in which each outermost node with a `_target_` is a Factory."""
    from videodit.cli.compose import make

    if isinstance(tree, list):
        return [_with_factories(one, f"{key}.{number}") for number, one in enumerate(tree)]
    if not isinstance(tree, dict):
        return tree
    if "_target_" in tree:
        return Factory(key, tree, make)
    return {name: _with_factories(one, f"{key}.{name}" if key else name) for name, one in tree.items()}
