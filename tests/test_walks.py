"""tools/walks.py follows a value through a package whose walks are known, and nothing else."""

from __future__ import annotations

import importlib.util
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import pytest
from omegaconf import OmegaConf

spec = importlib.util.spec_from_file_location("walks", Path(__file__).parents[1] / "tools" / "walks.py")
assert spec and spec.loader
walks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(walks)

PACKAGE = {
    "cli/main.py": """
        from videodit import parsing, making, leaf
        def main(args):
            leaf.nothing(1)
            request = parsing.parse(args)
            making.make(request)
            making.close(request)()
            list(leaf.numbers(request))
            return 0
        """,
    "parsing.py": """
        from dataclasses import dataclass
        from videodit import leaf
        @dataclass
        class Request:
            prompt: str
        def parse(args):
            leaf.clean(args[1])
            return own(args[1])
        def own(prompt):
            return Request(prompt)
        """,
    "making.py": """
        from videodit import leaf
        def make(request):
            leaf.nothing(len(request.prompt))
            deep({"a": [request]})
            deep({"a": {"b": [request]}})
        def deep(found):
            return leaf.nothing(found)
        def close(request):
            def inner():
                return request
            return inner
        """,
    "leaf.py": """
        def clean(text):
            return text
        def nothing(x):
            return x
        def numbers(request):
            yield 1
        """,
    "data/packing.py": """
        def fill(sizes, budget):
            later(budget)
        def later(budget):
            pass
        """,
}


def package(root: Path, **other: str) -> Path:
    for name, code in {**PACKAGE, **other}.items():
        file = root / "videodit" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(code))
    return root


def test_a_walk_is_what_the_value_enters(tmp_path: Path) -> None:
    """Texts, an object, a mapping of mappings, a closure, a generator; not what is deeper, nor what is made of it."""
    found = walks.followed(0, package(tmp_path / "root"), tmp_path / "scratch")
    assert found == [
        "cli/main.py", "parsing.py", "leaf.py", "parsing.py",
        "making.py", "making.py", "leaf.py",  # make, deep, nothing
        "making.py", "making.py",  # close, inner
        "leaf.py", "leaf.py",  # a generator is entered each time that it goes on
    ]  # fmt: skip
    assert walks.stays(found) == [*found[:4], "making.py", "leaf.py", "making.py", "leaf.py"]
    assert walks.returns(found) == 4


def test_a_walk_ends_at_its_end(tmp_path: Path) -> None:
    main = """
        from videodit.data import packing
        def main(args):
            packing.later(1)
            packing.later(float(args[2].partition("=")[2]))
            packing.fill([], int(args[2].partition("=")[2]))
            return 0
        """
    found = walks.followed(1, package(tmp_path / "root", **{"cli/main.py": main}), tmp_path / "scratch")
    assert found == ["cli/main.py", "data/packing.py", "data/packing.py"], "later, fill, and not what fill calls"
    without = package(tmp_path / "without", **{"cli/main.py": "def main(args):\n    return 0\n"})
    with pytest.raises(RuntimeError, match="train experiment=toy_smoke"):
        walks.followed(1, without, tmp_path / "other")


@dataclass
class Holder:
    value: object


@pytest.mark.parametrize(
    ("value", "held"),
    [
        ("a red ball qzx", True), ("a red ball", False), (["qzx"], True), ([["qzx"]], True), ([[["qzx"]]], True),
        ([[[["qzx"]]]], False), ({"qzx": 1}, False), (OrderedDict(a=("qzx",)), True), (Holder(["qzx"]), True),
        (Holder, False), (OmegaConf.create({"a": {"b": "qzx"}, "c": "${missing}", "d": "???"}), True),
        (OmegaConf.create({"a": {"b": {"c": {"d": "qzx"}}}}), False), (7919, False), (None, False),
    ],
)  # fmt: skip
def test_what_holds_a_word(value: object, held: bool) -> None:
    assert walks.holds(value, "qzx", walks.DEEP) == held


@pytest.mark.parametrize(
    ("value", "held"),
    [
        (7919, True),
        (7919.0, True),
        (7918, False),
        ("packs.tokens=7919", True),
        ({"tokens": [7919]}, True),
        (True, False),
    ],
)
def test_what_holds_a_number(value: object, held: bool) -> None:
    assert walks.holds(value, 7919, walks.DEEP) == held
