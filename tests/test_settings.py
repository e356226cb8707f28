"""Settings: keys, defaults and limits are read off the fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from videodit.errors import InputError
from videodit.factory import Factory
from videodit.settings import defaults_of, group, key, keys_of, read


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


@dataclass(frozen=True, kw_only=True)
class Made:
    one: Factory = group("an object")
    more: list[Factory] = key("objects", [])
    rest: Factory | None = key("or none", None)
    share: float | int | None = key("a number as it is written", None, gt=0)
    bounds: dict[str, Any] = key("of numbers", {"a": [0, None], "b": None}, entries={"a": "the first"})


def test_objects_are_made_of_what_describes_them() -> None:
    one = Factory("one", {"_target_": "builtins.dict"}, lambda node, key, **more: {**more})
    found = read(Made, {"one": one, "more": [one], "rest": one, "share": 3})
    assert found.one is one and found.more == [one] and found.rest is one and type(found.share) is int
    assert read(Made, {"one": one, "share": 0.5}).rest is None
    assert read(Made, {"one": one, "rest": None}).rest is None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"one": 3}, "one=3: expected an object with"),
        ({"one": None}, "one: expected an object with"),
        ({"more": [3]}, "more.0=3: expected an object with"),
        ({"more": 3}, "more=3: expected a list of objects"),
        ({"more": None}, "more: expected a list of objects"),
        ({"rest": {"a": 1}}, "rest: expected an object with"),
        ({"share": -1}, "share=-1: must be above 0"),
        ({"share": True}, "share=true"),
    ],
)
def test_what_describes_no_object_is_refused(given: dict[str, Any], told: str) -> None:
    one = Factory("one", {"_target_": "builtins.dict"}, lambda node, key, **more: {**more})
    with pytest.raises(InputError) as error:
        read(Made, {"one": one, **given})
    assert str(error.value).startswith(told)


def test_entries_of_a_dictionary_are_keys() -> None:
    found = {one.name: (one.default, one.help) for one in keys_of(Made)}
    assert found["bounds.a"] == ([0, None], "the first") and found["bounds.b"] == (None, "")
    assert found["bounds"][1] == "of numbers" and "one" not in found
