"""Rule 12 of docs/design.md, and the other rules that can be read off the source.

Raising a number is a deliberate diff.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.structure.source import ROOT, module_name, python_files, tree

FILE_LINES = 500
FUNCTION_LINES = 70
PARAMETERS = 12
SIZES = 16  # of a network's constructor: its numbers are better read flat than in groups
YAML_LINES = 70

OURS = python_files("videodit", "tools")
ALL = python_files("videodit", "tools", "tests")
PACKAGE = python_files("videodit")
VENDORS = re.compile(r"\b(wan|hunyuan\w*|ltx\w*|cogvideo\w*|mochi|opensora|stepvideo)(?=\b|[\d_])", re.IGNORECASE)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _functions(path: Path) -> Iterator[Function]:
    yield from (node for node in ast.walk(tree(path)) if isinstance(node, Function))


def _parameters(function: Function, *, method: bool) -> list[ast.arg]:
    args = function.args
    every = [*args.posonlyargs, *args.args, *args.kwonlyargs, *filter(None, [args.vararg, args.kwarg])]
    return every[1:] if method and every and every[0].arg in ("self", "cls") else every


def _calls(path: Path) -> Iterator[tuple[int, str]]:
    yield from ((node.lineno, ast.unparse(node.func)) for node in ast.walk(tree(path)) if isinstance(node, ast.Call))


@pytest.mark.parametrize("path", ALL, ids=_name)
def test_sizes(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= FILE_LINES
    for function in _functions(path):
        lines = (function.end_lineno or 0) - function.lineno + 1
        assert lines <= FUNCTION_LINES, f"{function.name} has {lines} lines"
        count = len(_parameters(function, method=True))
        sizes = function.name == "__init__" and "models" in path.parts
        assert count <= (SIZES if sizes else PARAMETERS), f"{function.name} has {count} parameters"


def test_configs_are_short() -> None:
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= YAML_LINES, _name(path)


@pytest.mark.parametrize("path", OURS, ids=_name)
def test_no_state_but_arguments(path: Path) -> None:
    for node in ast.walk(tree(path)):
        assert not isinstance(node, ast.Global), f"line {node.lineno}: global"
    for node in tree(path).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.List | ast.Dict | ast.Set):
            names = node.targets if isinstance(node, ast.Assign) else [node.target]
            for name in names:
                text = ast.unparse(name)
                assert text == "__all__" or text.isupper(), f"line {node.lineno}: {text} is module-level mutable state"
        assert not isinstance(node, ast.For | ast.While | ast.With), f"line {node.lineno}: work at import"


def test_the_environment_is_touched_in_one_module() -> None:
    words = re.compile(r"\bos\.(environ|getenv|putenv)\b|\bfrom os import .*\b(environ|getenv)\b")
    users = {_name(path) for path in PACKAGE if words.search(path.read_text(encoding="utf-8"))}
    assert users <= {"videodit/config.py"}


@pytest.mark.parametrize("path", PACKAGE, ids=_name)
def test_no_pickle_and_no_silent_config_default(path: Path) -> None:
    for line, call in _calls(path):
        assert call not in ("torch.load", "torch.save", "pickle.load", "pickle.loads"), f"line {line}: {call}"
        assert not re.fullmatch(r"(self\.)?(cfg|config)(\.\w+)*\.get", call), f"line {line}: {call}: a second default"


def test_text_reaches_terminals_and_pages_through_one_module() -> None:
    """What is printed or put into a page may be a stranger's: `printable` escapes it."""
    for path in PACKAGE:
        text = path.read_text(encoding="utf-8")
        calls = {call for _, call in _calls(path)}
        assert path.name == "printable.py" or ("print" not in calls and "from html import escape" not in text), path


@pytest.mark.parametrize("path", PACKAGE, ids=_name)
def test_public_things_say_what_they_are(path: Path) -> None:
    assert ast.get_docstring(tree(path)), "the module has no docstring"
    for node in tree(path).body:
        if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


@pytest.mark.parametrize("path", OURS, ids=_name)
def test_types_are_written(path: Path) -> None:
    """Of functions and methods; a function inside a function may leave its own to the reader."""
    for owner in (tree(path), *(node for node in tree(path).body if isinstance(node, ast.ClassDef))):
        for function in (node for node in owner.body if isinstance(node, Function)):
            where = f"line {function.lineno}: {function.name}"
            assert function.returns is not None, f"{where} has no return type"
            for arg in _parameters(function, method=isinstance(owner, ast.ClassDef)):
                assert arg.annotation is not None, f"{where}({arg.arg}) has no type"


def test_no_vendor_is_named_but_in_its_record() -> None:
    """A family is one record: its names are in checkpoint/families, its numbers in conf/pretrained."""
    found = [
        f"{_name(path)}:{number}: {line.strip()}"
        for path in PACKAGE
        if "families" not in path.parts
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if VENDORS.search(line)
    ]
    assert not found


@pytest.mark.parametrize("path", python_files("videodit/nn", "videodit/models"), ids=_name)
def test_networks_take_keywords(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in node.body:
                if isinstance(method, Function) and method.name == "__init__":
                    by_position = [arg.arg for arg in method.args.args[1:]]
                    assert not by_position, f"{node.name}({', '.join(by_position)}): keyword-only, please"


def test_every_module_defers_annotations() -> None:
    for path in OURS:
        code = tree(path).body[1:]  # the docstring comes first
        if code:
            assert ast.unparse(code[0]) == "from __future__ import annotations", module_name(path)
