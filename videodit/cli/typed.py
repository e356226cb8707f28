"""The settings of each command: the class whose fields are its keys, and a config made into an instance of it.

A command's YAML takes the keys on by `- <command>_settings` in its defaults, and adds groups and its examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from videodit.settings import defaults_of, read

if TYPE_CHECKING:
    from omegaconf import DictConfig

SUFFIX = "_settings"  # of the names under which hydra finds them
# Where the class of each command's settings is, in modules that are light to import.
CLASSES: Mapping[str, str] = MappingProxyType(
    {
        command: f"videodit.cli.settings.{command.title()}"
        for command in ("generate", "plan", "decode", "evaluate", "export", "info", "report")
    }
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
        ConfigStore.instance().store(name=f"{command}{SUFFIX}", node=defaults_of(settings_of(command)))


def typed(command: str, cfg: DictConfig) -> Any:
    """A command's settings from its config, interpolations resolved; of a command that has none, the config itself.

    InputError names the key that is wrong.
    """
    from omegaconf import OmegaConf

    kind = settings_of(command)
    tree: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True) if kind else {}
    return read(kind, tree) if kind else cfg
