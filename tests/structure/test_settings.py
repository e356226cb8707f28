"""Every key has an effect: each field of a settings class is read by the code that is handed the settings."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from typing import NamedTuple

import pytest

from tests.structure.source import ROOT, modules, tree
from videodit.cli.settings import CLASSES, Asked, settings_of
from videodit.settings import GROUP, Key, keys_of

HANDED = ("cfg", "asked")  # what code calls the settings of a command
OF_A_REQUEST = {one.name for one in fields(Asked)}  # are read as one: tests/generate/test_schema.py holds them
SETTINGS = [name for name in modules() if name.endswith(".settings")]


class Read(NamedTuple):
    """A name that is read, and the last name of what it is read from: `cfg.shape.fps` reads fps from shape."""

    base: str
    name: str


@cache
def read() -> frozenset[Read]:
    """What is read outside of settings, and by their own methods. After `how = cfg.shape`, and where `how=cfg.shape` is
    passed, `how.fps` is read from shape as well; `getattr(cfg.shape, name)` reads "".
    """
    nodes = [node for name, path in modules().items() if name not in SETTINGS for node in ast.walk(tree(path))]
    called = defaultdict(set)
    for alias, base in (pair for node in nodes for pair in aliases(node)):
        called[alias].add(base)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            found |= {Read(base, node.attr) for base in {last(node.value), *called[last(node.value)]}}
        elif isinstance(node, ast.Call) and last(node.func) == "getattr":
            found.add(Read(last(node.args[0]), ""))
    own = [node for name in SETTINGS for node in ast.walk(tree(modules()[name])) if isinstance(node, ast.Attribute)]
    return frozenset(found | {Read("self", node.attr) for node in own if last(node.value) == "self"})


def aliases(node: ast.AST) -> Iterator[tuple[str, str]]:
    """(name, last name of what it then stands for) of an assignment, or of an argument."""
    if isinstance(node, ast.keyword):
        yield node.arg or "", last(node.value)
    if isinstance(node, ast.Assign):
        for target in node.targets:
            several = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
            pairs = zip(target.elts, node.value.elts, strict=True) if several else [(target, node.value)]
            yield from ((last(one), last(value)) for one, value in pairs)


def last(node: ast.AST) -> str:
    """The last name of a dotted one."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("command", CLASSES)
def test_every_key_is_read(command: str) -> None:
    configs = "\n".join(path.read_text("utf-8") for path in (ROOT / "conf").rglob("*.yaml"))
    kind = settings_of(command)
    given = [Key(one.name, None, "") for one in fields(kind) if GROUP in one.metadata]
    keys = [*given, *keys_of(kind)]
    names = {one.name for one in keys}
    for one in keys:
        *groups, name = one.name.split(".")
        if not groups:
            known = name in OF_A_REQUEST or any(Read(base, name) in read() for base in HANDED)
        else:
            entry = one.name.rpartition(".")[0] in names  # of a dictionary
            known = entry or {Read(groups[-1], name), Read(groups[-1], ""), Read("self", name)} & read()
        assert known or f"${{{one.name}}}" in configs, f"{command} reads no {one.name}"


def test_a_key_that_is_not_read_is_found() -> None:
    assert Read("shape", "fps") in read() and Read("duplicates", "share") in read()
    assert Read("shape", "speed") not in read() and Read("cfg", "speed") not in read()


@pytest.mark.parametrize("name", [name for name in modules() if name.split(".")[1:2] not in (["cli"], ["config"])])
def test_past_the_command_line_there_is_no_config(name: str) -> None:
    """What travels is settings: no name of omegaconf's, not even for types or in a text that is code."""
    text = modules()[name].read_text("utf-8")
    assert "DictConfig" not in text and "omegaconf" not in text.lower()
