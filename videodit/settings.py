"""Settings: frozen dataclasses whose fields tell all there is to say of a key, once, to every surface.

The command line takes its keys and defaults from them (`defaults_of`), `--help` its sentences (`keys_of`), and what
the surface was given becomes an instance (`read`), whose values have the types and the limits that the fields say.
Nothing here imports a library, so that help answers at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from videodit.errors import InputError, did_you_mean

HELP, LIMITS = "help", "limits"  # in a field's metadata


class Key(NamedTuple):
    """A key by its full dotted name, its default (MISSING where it must be given), and the sentence that tells it."""

    name: str
    default: Any
    help: str


def key(help: str, default: Any = MISSING, **limits: float) -> Any:
    """Define a field: its sentence for `--help`, its default, and limits by pydantic's names: ge, gt, le, lt, and for
    texts and lists min_length, max_length. A default that can change (a list) is copied for each instance.
    """
    metadata = {HELP: help, LIMITS: limits}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def keys_of(kind: type, prefix: str = "") -> Iterator[Key]:
    """The keys of settings, those of settings inside them by dotted names."""
    hints = get_type_hints(kind)
    for one in fields(kind):
        inner = _settings_in(hints[one.name])
        if inner is not None and one.default is not None:
            yield from keys_of(inner, f"{prefix}{one.name}.")
        else:
            yield Key(f"{prefix}{one.name}", default_of(one), one.metadata.get(HELP, ""))


def defaults_of(kind: type) -> dict[str, Any]:
    """The defaults of settings as a tree of plain values; what must be given is "???", as hydra has it."""
    hints, tree = get_type_hints(kind), {}
    for one in fields(kind):
        inner, default = _settings_in(hints[one.name]), default_of(one)
        if inner is not None and default is not None:
            tree[one.name] = defaults_of(inner)
        else:
            tree[one.name] = "???" if default is MISSING else list(default) if isinstance(default, tuple) else default
    return tree


def default_of(one: Any) -> Any:
    """The default of a dataclass's field; MISSING where there is none."""
    return one.default if one.default_factory is MISSING else one.default_factory()


def read(kind: type, tree: Mapping[str, Any], where: str = "") -> Any:
    """Settings of this kind from a tree of plain values; what the tree lacks has its default.

    InputError, naming the dotted key, for one that is unknown, is missing or has another type or a value beyond its
    limits. `where`: the dotted name of the tree itself.
    """
    names, hints = [one.name for one in fields(kind)], get_type_hints(kind, include_extras=True)
    if not isinstance(tree, Mapping):
        raise InputError(f"{where}={tree}: expected its keys: {', '.join(names)}")
    for name in tree:
        if name not in names:
            raise InputError(f"unknown key '{_joined(where, name)}'{did_you_mean(str(name), names)}")
    values = {
        one.name: _read(tree[one.name], hints[one.name], one.metadata.get(LIMITS, {}), _joined(where, one.name))
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


def _read(value: Any, hint: Any, limits: Mapping[str, float], name: str) -> Any:
    """One value as the type that its field has."""
    from pydantic import Field

    from videodit.untrusted import check

    inner = _settings_in(hint)
    if inner is not None and not (value is None and _may_be_none(hint)):
        return read(inner, value, name)
    if get_origin(hint) is tuple and isinstance(value, list):
        inner = _settings_in(get_args(hint)[0])
        if inner is not None:
            return tuple(read(inner, row, f"{name}.{i}") for i, row in enumerate(value))
        value = tuple(value)
    shown = f"={value}" if isinstance(value, int | float | str) else ""
    return check(value, Annotated[hint, Field(**limits)] if limits else hint, f"{name}{shown[:60]}")


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
