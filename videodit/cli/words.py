"""Read a command line: a bare word, `key=value`, options; and the settings of a command that needs no hydra.

A key takes everything after the first `=` as it was typed: commas, quotes, braces, `$` and line breaks mean nothing in
text. What a key of another type takes is a number, true, false, null, or a list as YAML has it: [a,b].
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from videodit.errors import InputError, did_you_mean
from videodit.settings import from_text, names_of, read, tree_of

SHOW = "--cfg"  # the option that shows what would be done
PROSE = ("prompt", "negative")  # keys whose values are words, never paths
ASSIGNMENT = re.compile(r"(?P<key>[+~]{0,2}[A-Za-z_][\w./@:-]*)=(?P<value>.*)|~[A-Za-z_][\w./@:-]*", re.DOTALL)
HOME = re.compile(r"(?<![^,])~(?=/|$)")


class Words(NamedTuple):
    """A command line taken apart: the text of each key that the command knows, other assignments, and options."""

    texts: dict[str, str]
    others: list[str]
    options: set[str]


def take_apart(
    command: str, args: Sequence[str], *, keys: Collection[str], known: Collection[str], positional: str | None,
    options: Collection[str],
) -> Words:  # fmt: skip
    """Sort the words of a command line.

    `keys` take what is typed for them as text. `known` are the names that an assignment may begin with. `positional` is
    the key that a bare word is meant for, if there is one. InputError for an unknown option, and for a word that no key
    is meant to take.
    """
    texts: dict[str, str] = {}
    words, others, given = [], [], set()
    for arg in args:
        match = ASSIGNMENT.fullmatch(arg)
        key = match["key"] if match else None
        if arg.startswith("-") and not re.search(r"\s", arg):
            given.add(_option(arg, command, options))
        elif match is None or (positional and key and _is_prose(key, arg, known)):
            words.append(arg)
        elif key in keys:
            texts[key] = match["value"]
        else:
            others.append(arg)
    if words and positional is None:
        raise InputError(f"{command} takes key=value, not {words[0]!r}")
    if len(words) > 1 or (words and positional in texts):
        raise InputError(f"{command} takes one {positional}, in quotes if it has spaces; {words[-1]!r} is one too many")
    if words and positional is not None:
        texts[positional] = words[0]
    return Words(texts, others, given)


def settings_from(command: str, kind: type, args: Sequence[str], positional: str | None) -> tuple[Any, Words]:
    """Read the settings of a command that has no groups of configs, and what was typed for them.

    InputError names a key that is unknown or has a wrong value.
    """
    names = names_of(kind)
    words = take_apart(command, args, keys=names, known=names, positional=positional, options=[SHOW])
    for other in words.others:
        name = other.partition("=")[0]
        raise InputError(f"unknown key {name!r}{did_you_mean(name, names)}")
    values = {name: with_home(name, from_text(kind, name, text)) for name, text in words.texts.items()}
    return read(kind, values), words


def as_yaml(settings: Any) -> list[str]:
    """The lines of a YAML of settings."""
    import yaml

    return yaml.safe_dump(tree_of(settings), sort_keys=False, allow_unicode=True).rstrip().splitlines()


def with_home(name: str, value: Any) -> Any:
    """Put the home folder for `~` where text, or one of several with commas between, begins with it."""
    return HOME.sub(lambda _: str(Path.home()), value) if isinstance(value, str) and name not in PROSE else value


def _option(arg: str, command: str, options: Collection[str]) -> str:
    if arg not in options:
        raise InputError(f"{command} has no option {arg!r}, only {', '.join(options)}, --help and key=value")
    return arg


def _is_prose(key: str, arg: str, known: Collection[str]) -> bool:
    """Whether `arg`, though it looks like an assignment to `key`, is a prompt or a path with a `=` in it."""
    head = re.split(r"[./@]", key)[0]
    if head[0] in "+~" or head == "hydra" or head in known or did_you_mean(head, known):
        return False
    return "/" in key or re.search(r"\s", arg) is not None
