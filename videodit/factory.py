"""An object that a config describes by `_target_` and arguments, before it is made."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib import import_module
from typing import Any


class Factory:
    """Makes the object that a config describes, each time it is called.

    Args:
        key: where the config has it, for errors.
        node: the dotted name of a class or a function (`_target_`), and arguments.
        make: (node, key, more arguments) -> the object.
    """

    def __init__(self, key: str, node: Mapping[str, Any], make: Callable[..., Any]) -> None:
        self.key, self.node, self._make = key, node, make

    def __call__(self, **more: Any) -> Any:
        return self._make(self.node, self.key, **more)

    @property
    def target(self) -> str:
        """The dotted name of what makes it."""
        return str(self.node["_target_"])

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that the config gives, by name."""
        return {name: value for name, value in self.node.items() if not name.startswith("_")}

    def accepts(self, names: Collection[str]) -> set[str]:
        """Those of the names that are parameters of what it makes."""
        return parameters(self.target).intersection(names)

    def another(self, key: str, target: str, **arguments: Any) -> Factory:
        """A factory of another object, which is made in the same way."""
        return Factory(key, {"_target_": target, **arguments}, self._make)


def parameters(name: str) -> set[str]:
    """The parameters of what stands under a dotted name; empty where it does not say."""
    try:
        return set(inspect.signature(found(name.split("."))).parameters)
    except (TypeError, ValueError):  # some of those that are written in C have no signature
        return set()


def found(parts: Sequence[str]) -> Any:
    """What stands under a dotted name, as hydra looks for it (whose own function prints what it does not find)."""
    place = import_module(parts[0])
    for number, part in enumerate(parts[1:], 2):
        if not hasattr(place, part):
            import_module(".".join(parts[:number]))
        place = getattr(place, part)
    return place
