"""`videodit <command> --help`: the keys of its settings, and the groups and the leading comment of its YAML.

The YAML is read as text, as importing a parser would be slower than this.
"""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import MISSING
from pathlib import Path
from typing import NamedTuple

from videodit import settings
from videodit.cli.settings import COMPOSED, settings_of
from videodit.config import conf_dir

COLUMN = 34  # where descriptions start

_BASE = re.compile(r"\s*-\s+(?P<name>[a-z][a-z_]*)")
_CHOICE = re.compile(r"\s*-\s+(?P<group>[\w/]+):\s*(?P<option>[\w./-]+)\s*(#\s*(?P<note>.*))?")


class Key(NamedTuple):
    """A key by its full dotted name, its default as YAML has it, and what is said about it."""

    name: str
    default: str
    note: str


class Root(NamedTuple):
    """A root config: its leading comment, its groups (the default is the option), its keys, and the root configs that
    it takes on."""

    header: list[str]
    groups: list[Key]
    keys: list[Key]
    bases: list[str]


def command_help(command: str, summary: str, positional: str | None, conf: Path | None = None) -> str:
    """The text of `videodit <command> --help`; `conf` is the config tree (default: the shipped one)."""
    conf = conf or conf_dir()
    header, groups, keys = everything(command, conf)
    lines = [f"videodit {command} {f'[{positional}] ' if positional else ''}[key=value …]", summary]
    lines += ["", *header] if header else []
    if groups:
        lines += ["", "groups (key=NAME, then key.argument=value):"]
        for key in groups:
            names = " ".join(sorted(path.stem for path in (conf / key.name).glob("*.yaml")))
            lines.append(_row(key, f"{key.note + ': ' if key.note else ''}{names}"))
    if keys:
        lines += ["", "keys:", *(_row(key, key.note) for key in keys)]
    return "\n".join(lines)


def everything(name: str, conf: Path) -> tuple[list[str], list[Key], list[Key]]:
    """The header, groups and keys of a root config, with those that it takes on."""
    composed = name in COMPOSED
    root = of_yaml((conf / f"{name}.yaml").read_text("utf-8")) if composed else of_settings(settings_of(name))
    header, groups, keys, bases = root
    own = found = {key.name: key for key in keys}
    for base in bases:  # a later one has the word
        _, more, taken = everything(base, conf)
        groups, found = [*groups, *more], found | {key.name: key for key in taken}
    return header, groups, [*(found | own).values()]


def of_settings(kind: type) -> Root:
    """What settings say of their keys, as a root config would say it."""
    examples = inspect.cleandoc(kind.__doc__ or "").splitlines()[2:]
    return Root(examples, [], [Key(one.name, _default(one), one.help) for one in settings.keys_of(kind)], [])


def of_yaml(text: str) -> Root:
    """What the text of a root config says of itself: comments at its head and beside its groups, and its defaults."""
    lines = text.splitlines()
    header = []
    for line in lines:
        if not line.startswith("#"):
            break
        header.append(line[1:].removeprefix(" "))
    choices = [match for match in map(_CHOICE.fullmatch, lines) if match]
    groups = [Key(match["group"], match["option"], match["note"] or "") for match in choices]
    bases = [match["name"] for match in map(_BASE.fullmatch, lines) if match]
    return Root(header, groups, [], bases)


def _default(one: settings.Key) -> str:
    """A key's default as YAML has it; nothing for one that must be given."""
    default = one.default
    if default is MISSING:
        return ""
    if isinstance(default, dict) or (isinstance(default, list) and len(str(default)) > COLUMN):
        return "…"
    return default if default and isinstance(default, str) else json.dumps(default)


def _row(key: Key, text: str) -> str:
    name = f"  {key.name}={key.default}"
    if not text:
        return name
    return f"{name:<{COLUMN}}{text}" if len(name) < COLUMN - 1 else f"{name}\n{'':<{COLUMN}}{text}"
