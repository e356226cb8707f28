"""Settings: frozen dataclasses whose fields tell all there is to say of a key, once, to every surface.

The command line takes its keys and defaults from them (`defaults_of`), `--help` its sentences (`keys_of`), and what
the surface was given becomes an instance (`read`), whose values have the types and the limits that the fields say.
Nothing here imports a library, so that help answers at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, field, fields, is_dataclass, make_dataclass
from functools import cache
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from videodit.errors import InputError, did_you_mean
from videodit.factory import Factory

HELP, LIMITS, WRITTEN, GROUP, ENTRIES = "help", "limits", "written", "group", "entries"  # in a field's metadata

# 1 stays 1, and 1.0 is 1.0: what a run was told is compared when it goes on, and a clip's id holds its fps.
Number = float | int


class Before(NamedTuple):
    """A run that comes first: its overrides, as they were written, and its settings."""

    overrides: list[str]
    settings: Any


class Key(NamedTuple):
    """A key by its full dotted name, its default (MISSING where it must be given), and the sentence that tells it."""

    name: str
    default: Any
    help: str


def key(
    help: str,
    default: Any = MISSING,
    written: Callable[[Any], Any] | None = None,
    entries: Mapping[str, str] = MappingProxyType({}),
    **limits: float,
) -> Any:
    """Define a field: its sentence for `--help`, its default, and limits by pydantic's names: ge, gt, le, lt, and for
    texts and lists min_length, max_length. A default that can change (a list) is copied for each instance.

    `written` makes the value of what a person may write for it, such as "4,3" for two numbers, or raises InputError.
    `entries` has sentences for entries of a default that is a dictionary, which are keys of their own.
    """
    metadata = {HELP: help, LIMITS: limits, WRITTEN: written, ENTRIES: entries}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def group(help: str) -> Any:
    """Define a field that a group of configs gives: its keys, defaults and sentences are those of the group's files."""
    return field(metadata={HELP: help, GROUP: True})


def keys_of(kind: type, prefix: str = "") -> Iterator[Key]:
    """The keys of settings, those inside them (settings, and entries of a dictionary) by dotted names."""
    hints = get_type_hints(kind)
    for one in _not_groups(kind):
        inner = _settings_in(hints[one.name])
        if inner is not None and one.default is not None:
            yield from keys_of(inner, f"{prefix}{one.name}.")
            continue
        default, told = default_of(one), one.metadata
        yield Key(f"{prefix}{one.name}", default, told.get(HELP, ""))
        for name, entry in default.items() if isinstance(default, dict) else ():
            yield Key(f"{prefix}{one.name}.{name}", entry, told.get(ENTRIES, {}).get(name, ""))


def defaults_of(kind: type) -> dict[str, Any]:
    """The defaults of settings as a tree of plain values; what must be given is "???", as hydra has it."""
    hints, tree = get_type_hints(kind), {}
    for one in _not_groups(kind):
        inner, default = _settings_in(hints[one.name]), default_of(one)
        if inner is not None and default is not None:
            tree[one.name] = defaults_of(inner)
        else:
            tree[one.name] = "???" if default is MISSING else list(default) if isinstance(default, tuple) else default
    return tree


def _not_groups(kind: type) -> list[Any]:
    return [one for one in fields(kind) if GROUP not in one.metadata]


def default_of(one: Any) -> Any:
    """The default of a dataclass's field; MISSING where there is none."""
    return one.default if one.default_factory is MISSING else one.default_factory()


def read(kind: type, tree: Mapping[str, Any], where: str = "") -> Any:
    """Settings of this kind from a tree of plain values; what the tree lacks has its default.

    InputError, naming the dotted key, for one that is unknown, is missing or has another type or a value beyond its
    limits. `where`: the dotted name of the tree itself.
    """
    names, hints = [one.name for one in fields(kind)], _types(kind)
    if not isinstance(tree, Mapping):
        raise InputError(f"{where}={tree}: expected its keys: {', '.join(names)}")
    for name in tree:
        if name not in names:
            raise InputError(f"unknown key '{_joined(where, name)}'{did_you_mean(str(name), names)}")
    values = {
        one.name: _read(tree[one.name], hints[one.name], _joined(where, one.name))
        for one in fields(kind)
        if one.name in tree
    }
    for one in fields(kind):
        if one.name not in values and default_of(one) is MISSING:
            inner = _settings_in(hints[one.name])
            if inner is None:
                raise InputError(f"{_joined(where, one.name)}=… is needed and was not given")
            values[one.name] = read(inner, {}, _joined(where, one.name))
    return kind(**values)


def tree_of(settings: Any) -> Any:
    """The tree of plain values that `read` makes such settings of."""
    if is_dataclass(settings):
        return {one.name: tree_of(getattr(settings, one.name)) for one in fields(settings)}
    if isinstance(settings, Factory):
        return tree_of(settings.node)
    if isinstance(settings, Before):
        return list(settings.overrides)
    if isinstance(settings, Mapping):
        return {name: tree_of(one) for name, one in settings.items()}
    return [tree_of(one) for one in settings] if isinstance(settings, list | tuple) else settings


def names_of(kind: type) -> list[str]:
    """The names of the keys that stand at the top of settings."""
    return [one.name for one in fields(kind)]


def plain_names(kind: type) -> list[str]:
    """Those of them that have one value: no group, no settings of their own, no list and no dictionary."""
    hints, found = get_type_hints(kind), _not_groups(kind)
    nested = {one.name for one in found if _settings_in(hints[one.name]) or isinstance(default_of(one), list | dict)}
    return [one.name for one in found if one.name not in nested]


def from_text(kind: type, name: str, text: str) -> Any:
    """What a person typed for a key, as a plain value that `read` takes: text as it is where the key's type is text;
    else a number, true, false, null, a list or a mapping as YAML has them, and text otherwise.
    """
    hint = get_type_hints(kind)[name]
    if _is_text(hint):
        return text
    if text[:1] in ("[", "{"):
        import yaml

        try:
            return yaml.safe_load(text)
        except yaml.YAMLError:
            raise InputError(f"{name}={text}: expected a list such as [a,b]") from None
    return number_or_word(text)


def number_or_word(text: str) -> int | float | bool | str | None:
    """A number, true, false or null, or else the text."""
    words: dict[str, bool | None] = {"true": True, "false": False, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    for make in (int, float):
        if re.fullmatch(r"[+-]?[\d.]+([eE][+-]?\d+)?", text):
            with suppress(ValueError):
                return make(text)
    return text


def value(kind: type, name: str, given: Any) -> Any:
    """What was given for one key of settings, as its field has it. InputError, naming the key, for anything else."""
    written = next(one for one in fields(kind) if one.name == name).metadata.get(WRITTEN)
    return _read(given if written is None else written(given), _types(kind)[name], name)


def left_out(name: str, *kinds: type, only: Collection[str] = (), without: Collection[str] = ()) -> type:
    """Make settings whose keys, those of `kinds`, may all be left out: texts are "" then and the others None.

    They hold what a person wrote as it is; `value` of the kind that has the key makes a value of it.
    """
    rows = []
    for kind in kinds:
        hints = get_type_hints(kind)
        for one in fields(kind):
            if one.name not in without and (one.name in only or not only):
                text = _is_text(hints[one.name])
                rows.append((one.name, str if text else Any, key(one.metadata[HELP], "" if text else None)))
    return make_dataclass(name, rows, frozen=True, kw_only=True)


@cache
def _types(kind: type) -> Mapping[str, Any]:
    """The type of each field, with its limits where pydantic finds them."""
    hints = get_type_hints(kind, include_extras=True)
    return {one.name: _limited(hints[one.name], one.metadata.get(LIMITS)) for one in fields(kind)}


def _limited(hint: Any, limits: Mapping[str, float] | None) -> Any:
    from pydantic import Field

    if not limits:
        return hint
    if _may_be_none(hint):
        kind = Union[tuple(one for one in get_args(hint) if one is not NoneType)]  # noqa: UP007
        return Annotated[kind, Field(**limits)] | None
    return Annotated[hint, Field(**limits)]


def _read(value: Any, hint: Any, name: str) -> Any:
    """One value as the type that its field has."""
    from videodit.untrusted import check

    plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    inner = _settings_in(plain)
    if inner is not None and not (value is None and _may_be_none(plain)):
        return read(inner, value, name)
    if Factory in (plain, *get_args(plain)):
        found = _read_objects(value, plain, name)
        return found if plain is hint else check(found, Annotated[list[Any], *get_args(hint)[1:]], name)
    if get_origin(plain) is tuple and isinstance(value, list):
        inner = _settings_in(get_args(plain)[0])
        if inner is not None:
            return tuple(read(inner, row, f"{name}.{i}") for i, row in enumerate(value))
        value = tuple(value)
    return check(value, hint, f"{name}{_shown(value)}")


def _read_objects(value: Any, hint: Any, name: str) -> Any:
    """A factory, a list of them, or None, as the hint has it."""
    several = get_origin(hint) is list
    if several and isinstance(value, list):
        return [_read_objects(one, Factory, f"{name}.{number}") for number, one in enumerate(value)]
    if (isinstance(value, Factory) and not several) or (value is None and _may_be_none(hint)):
        return value
    wanted = "a list of objects, each" if several else "an object"
    raise InputError(f"{name}{_shown(value)}: expected {wanted} with the name of its class as _target_")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return f"={value}".lower()
    return f"={value}"[:60] if isinstance(value, int | float | str) else ""


def _is_text(hint: Any) -> bool:
    """Whether text is what is written first of all for a key of this type."""
    if get_origin(hint) is Literal:
        return isinstance(get_args(hint)[0], str)
    if get_origin(hint) in (Union, UnionType):
        return _is_text(get_args(hint)[0])
    return hint is str


def _settings_in(hint: Any) -> type | None:
    """The class of settings that a hint is, or is beside None."""
    if get_origin(hint) in (Union, UnionType):
        [*kinds] = [one for one in get_args(hint) if one is not NoneType]
        return _settings_in(kinds[0]) if len(kinds) == 1 else None
    return hint if isinstance(hint, type) and is_dataclass(hint) else None


def _may_be_none(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType) and NoneType in get_args(hint)


def _joined(where: str, name: object) -> str:
    return f"{where}.{name}" if where else str(name)
