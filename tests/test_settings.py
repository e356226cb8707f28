"""Settings: keys, defaults and limits are read off the fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from videodit.errors import InputError
from videodit.settings import defaults_of, key, keys_of, read


@dataclass(frozen=True, kw_only=True)
class Inner:
    tokens: int = key("tokens of a step", 4096, ge=1)
    share: float = key("share of images", 0.25, ge=0, le=1)


@dataclass(frozen=True, kw_only=True)
class Row:
    size: int = key("pixels")


@dataclass(frozen=True, kw_only=True)
class Outer:
    stage: Literal["dit", "vae"] = key("what is trained", "dit")
    limit: int | None = key("clips at most", None)
    names: tuple[str, ...] = key("names of parts", ())
    rows: tuple[Row, ...] = key("batches", ())
    packs: Inner = key("the steps")
    critic: Inner | None = key("or none", None)
    thing: Any = key("an object", None)
    folder: str = key("must be given")


def test_keys_and_defaults() -> None:
    names = [one.name for one in keys_of(Outer)]
    assert names == ["stage", "limit", "names", "rows", "packs.tokens", "packs.share", "critic", "thing", "folder"]
    told = {one.name: one.help for one in keys_of(Outer)}
    assert told["packs.tokens"] == "tokens of a step" and told["folder"] == "must be given"
    tree = defaults_of(Outer)
    assert tree == {
        "stage": "dit", "limit": None, "names": [], "rows": [], "packs": {"tokens": 4096, "share": 0.25},
        "critic": None, "thing": None, "folder": "???",
    }  # fmt: skip


def test_read_makes_types() -> None:
    thing = object()
    found = read(Outer, {**defaults_of(Outer), "folder": "x", "names": ["a"], "rows": [{"size": 3}], "thing": thing,
                         "critic": {"tokens": 2}})  # fmt: skip
    assert found == Outer(
        packs=Inner(), folder="x", names=("a",), rows=(Row(size=3),), thing=thing, critic=Inner(tokens=2)
    )
    assert read(Outer, {"folder": "x"}) == Outer(packs=Inner(), folder="x")
    with pytest.raises(AttributeError):
        found.stage = "vae"


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        ({}, "folder="),
        ({"stage": "vea", "folder": ""}, "stage=vea"),
        ({"folder": 3}, "folder=3"),
        ({"folder": "", "packs": {"tokens": 0}}, "packs.tokens=0"),
        ({"folder": "", "packs": {"tokens": True}}, "packs.tokens=true"),
        ({"folder": "", "packs": {"tokns": 1}}, "unknown key 'packs.tokns'"),
        ({"folder": "", "packs": 3}, "packs=3: expected its keys: tokens, share"),
        ({"folder": "", "packs": None}, "packs=None: expected its keys"),
        ({"folder": "", "critic": 3}, "critic=3"),
        ({"folder": "", "names": "ab"}, "names=ab"),
        ({"folder": "", "names": [1]}, "names"),
        ({"folder": "", "rows": [{"size": "x"}]}, "rows.0.size=x"),
        ({"folder": "", "rows": [3]}, "rows.0"),
        ({"folder": "", "limit": 1.5}, "limit=1.5"),
    ],
)
def test_mistakes_name_the_key(tree: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        read(Outer, tree)


def test_an_instance_has_its_own_list() -> None:
    @dataclass(frozen=True)
    class Listed:
        numbers: list = key("numbers", [1])

    one, other = Listed(), Listed()
    one.numbers.append(2)
    assert other.numbers == [1]
