"""The config tree: every file names things that exist, so a renamed argument cannot leave a stale YAML behind."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from tests.structure.source import ROOT
from videodit.cli.main import COMMANDS
from videodit.cli.settings import COMPOSED, settings_of
from videodit.settings import GROUP

CONF = ROOT / "conf"
FILES = sorted(CONF.rglob("*.yaml"))
HYDRAS_OWN = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_", "defaults"}


def _targets(content: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(content, dict):
        if "_target_" in content:
            yield where, content
        for key, value in content.items():
            yield from _targets(value, f"{where}.{key}")
    elif isinstance(content, list):
        for number, value in enumerate(content):
            yield from _targets(value, f"{where}[{number}]")


def _load(path: Path) -> Any:
    return OmegaConf.to_container(OmegaConf.load(path), resolve=False)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF)))
def test_targets_exist_and_take_these_arguments(path: Path) -> None:
    for where, node in _targets(_load(path), path.stem):
        module, _, name = node["_target_"].rpartition(".")
        target = getattr(importlib.import_module(module), name)
        parameters = inspect.signature(target).parameters
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            assert set(node) - HYDRAS_OWN <= set(parameters), f"{where}: {node['_target_']} has no such arguments"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_module_and_settings(command: str) -> None:
    """And a config where it has groups to choose from, and nowhere else."""
    grouped = any(GROUP in one.metadata for one in fields(settings_of(command)))
    assert grouped == (command in COMPOSED) == (CONF / f"{command}.yaml").is_file()
    run = importlib.import_module(f"videodit.cli.{command}").run
    assert list(inspect.signature(run).parameters) in (["cfg"], ["asked"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF)))
def test_no_group_is_optional(path: Path) -> None:
    """hydra ignores a misspelt choice of an optional group; `- group: null` reports it."""
    for entry in _load(path).get("defaults", []):
        assert not (isinstance(entry, dict) and any(key.startswith("optional ") for key in entry)), entry
