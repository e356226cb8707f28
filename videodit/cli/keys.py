"""`videodit <command> --help`, read off the text of its YAML: keys, defaults, and the comments beside or above them.

Read as text because comments are the documentation, and because importing a YAML parser would be slower than this.
"""

from __future__ import annotations

import re
from dataclasses import MISSING
from pathlib import Path
from typing import Any, NamedTuple

from videodit.cli.settings import SUFFIX, settings_of
from videodit.config import conf_dir
from videodit.settings import keys_of

COLUMN = 34  # where descriptions start

_KEY = re.compile(
    r"""(?P<indent>\ *) (?P<key>[\w.-]+): (\ +(?P<value>"[^"]*"|'[^']*'|[^#]*?))? (\s+\#\s*(?P<note>.*)|\s*)""",
    re.VERBOSE,
)
_BASE = re.compile(r"\s*-\s+(?P<name>[a-z][a-z_]*)")
_CHOICE = re.compile(r"\s*-\s+(optional\s+)?(?P<group>[\w/]+)(@[\w.]+)?:\s*(?P<option>[\w./-]+)\s*(#\s*(?P<note>.*))?")


class Key(NamedTuple):
    """A key by its full dotted name, its default as written, and what the YAML says about it."""

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
    kind = settings_of(name) if name.endswith(SUFFIX) else None
    header, groups, keys, bases = read_settings(kind) if kind else read_keys((conf / f"{name}.yaml").read_text("utf-8"))
    own = found = {key.name: key for key in keys}
    for base in bases:  # a later one has the word
        _, more, taken = everything(base, conf)
        groups, found = [*groups, *more], found | {key.name: key for key in taken}
    return header, groups, [*(found | own).values()]


def read_settings(kind: type) -> Root:
    """What settings say of their keys, as a root config would say it."""
    return Root([], [], [Key(one.name, _written(one.default), one.help) for one in keys_of(kind)], [])


def _written(default: Any) -> str:
    """A default as YAML has it."""
    if default is MISSING:
        return ""
    if default is None or isinstance(default, bool):
        return "null" if default is None else str(default).lower()
    if isinstance(default, dict):
        return "{" + ", ".join(f"{name}: {_written(value)}" for name, value in default.items()) + "}"
    if isinstance(default, list):
        return "…" if any(isinstance(one, dict) for one in default) else str(default)
    return str(default) if default != "" else '""'


def read_keys(text: str) -> Root:
    """What a root config, given as text, says of itself."""
    header: list[str] = []
    keys: list[Key] = []
    groups: list[Key] = []
    bases: list[str] = []
    above: list[str] = []
    parents: list[tuple[int, str]] = []
    lines = text.splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        stripped = line.strip()
        if stripped.startswith("#"):
            above.append(stripped[1:].removeprefix(" "))
            continue
        if choice := _CHOICE.fullmatch(line):
            if not choice["group"].startswith("hydra"):
                groups.append(Key(choice["group"], choice["option"], choice["note"] or " ".join(above)))
        elif base := _BASE.fullmatch(line):
            bases.append(base["name"])
        elif match := _KEY.fullmatch(line):
            indent, key = len(match["indent"]), match["key"]
            value = match["value"] or _below(indent, following)
            parents = [(depth, name) for depth, name in parents if depth < indent]
            parents.append((indent, key))
            if value is not None and parents[0][1] not in ("defaults", "hydra"):
                keys.append(Key(".".join(name for _, name in parents), value, match["note"] or " ".join(above)))
        elif not stripped and not (header or keys or groups):
            header = above  # a first comment with an empty line below it speaks of the whole command
        above = []
    return Root(header, groups, keys, bases)


def _below(indent: int, following: str) -> str | None:
    """The default of a key with nothing behind it, from the line below: None if that is a key of this one's."""
    stripped = following.lstrip()
    if len(following) - len(stripped) <= indent or not stripped or stripped.startswith("#"):
        return ""
    return "…" if stripped[0] in "[{-" else None


def _row(key: Key, text: str) -> str:
    name = f"  {key.name}={key.default}"
    if not text:
        return name
    return f"{name:<{COLUMN}}{text}" if len(name) < COLUMN - 1 else f"{name}\n{'':<{COLUMN}}{text}"
