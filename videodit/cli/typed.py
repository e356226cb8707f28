"""A config made into the settings of its command: frozen dataclasses, and factories of what has a `_target_`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from videodit.cli.compose import Line, config, first_line
from videodit.cli.objects import check_objects
from videodit.cli.settings import settings_of
from videodit.cli.values import literal
from videodit.config import conf_dir
from videodit.errors import InputError
from videodit.factory import Factory
from videodit.settings import Before, read

if TYPE_CHECKING:
    from omegaconf import DictConfig


def settings(command: str, overrides: Sequence[str]) -> Any:
    """A command's settings with these overrides, in hydra's grammar."""
    cfg = config(conf_dir(), command, Line(list(overrides), {}))
    check_objects(cfg)
    return typed(command, cfg)


def typed(command: str, cfg: DictConfig) -> Any:
    """A command's settings from its config, interpolations resolved; what has a `_target_` becomes a Factory.

    InputError names the key that is wrong, or was left out.
    """
    from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue

    try:
        plain = _tree(cfg)
    except (MissingMandatoryValue, InterpolationToMissingValueError) as error:
        # Where a key takes another's value, the other one is what a person can give.
        raise InputError(f"{_taken_from(cfg, error.full_key)}=… is needed and was not given") from error
    tree = _with_factories(plain, "")
    if "after" in tree:
        tree["after"] = [_before(overrides) for overrides in tree["after"]]
    tree.pop("hydra", None)
    return read(settings_of(command), tree)


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


def _taken_from(cfg: DictConfig, key: str) -> str:
    """The key that the value of another one comes from, as far as plain interpolations lead."""
    from omegaconf import OmegaConf

    raw = OmegaConf.to_container(cfg, resolve=False)
    for part in re.findall(r"[^.\[\]]+", key):
        raw = raw[int(part) if isinstance(raw, list) else part]
    found = re.fullmatch(r"\$\{([\w.]+)\}.*", raw) if isinstance(raw, str) else None
    return _taken_from(cfg, found[1]) if found else key


def _before(overrides: Any) -> Before:
    """A run of `after`: a training with these overrides."""
    if not isinstance(overrides, list):
        raise InputError(f"after=[{overrides},…]: each run that comes first is a list of its keys: after=[[stage=vae]]")
    return Before(overrides, settings("train", overrides))


def _with_factories(tree: Any, key: str) -> Any:
    """The same tree in which each outermost node with a `_target_` is a Factory."""
    if isinstance(tree, list):
        return [_with_factories(one, f"{key}.{number}") for number, one in enumerate(tree)]
    if not isinstance(tree, dict):
        return tree
    if "_target_" in tree:
        return Factory(key, tree, make)
    return {name: _with_factories(one, f"{key}.{name}" if key else name) for name, one in tree.items()}


def make(node: Mapping[str, Any], key: str, **more: Any) -> Any:
    """The object that a node of plain values describes, with `more` arguments. `key`: where the config has it.

    What its constructor says of its arguments is an InputError.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        return instantiate(_as_it_is(node), _convert_="all", **_as_it_is(more))
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, InputError):
            raise cause from None
        if isinstance(cause, TypeError | ValueError | ImportError):
            inside = str(error).rpartition("full_key: ")[2] if "full_key: " in str(error) else ""
            raise InputError(f"{key}{inside and '.'}{inside}: {first_line(cause)}") from error
        raise


def _as_it_is(value: Any) -> Any:
    """The value, with texts that hydra will give back as they are: it resolves them, and then reads them once more."""
    if isinstance(value, Mapping):
        return {name: _as_it_is(one) for name, one in value.items()}
    return [_as_it_is(one) for one in value] if isinstance(value, list) else literal(literal(value))
