"""The package as the structure tests see it: files, syntax trees, imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "videodit"


class Import(NamedTuple):
    """One imported module; `at_top` if importing the file imports it, `for_types` if only a type checker does."""

    module: str
    at_top: bool
    for_types: bool


def python_files(*folders: str) -> list[Path]:
    """Every Python file below the given folders of the checkout."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    """A file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def module_name(path: Path) -> str:
    """`videodit/nn/rope.py` is `videodit.nn.rope`, a package's `__init__.py` the package."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def area(module: str) -> str:
    """What a row of the import table is about: a subpackage, or a module that lies directly in videodit."""
    return module.split(".")[1] if "." in module else ""


@cache
def modules() -> dict[str, Path]:
    """Every module of the package and its file."""
    return {module_name(path): path for path in python_files("videodit")}


@cache
def imports(path: Path) -> tuple[Import, ...]:
    """What a file imports, anywhere in it; `from videodit.nn import rope` names the module videodit.nn.rope."""
    return tuple(_imports(tree(path), at_top=True, for_types=False))


def _imports(node: ast.AST, *, at_top: bool, for_types: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, at_top, for_types) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "relative import: the house spells modules out"
            for alias in child.names:
                deeper = f"{child.module}.{alias.name}"
                yield Import(deeper if deeper in modules() else str(child.module), at_top, for_types)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            yield from _imports(child, at_top=False, for_types=True)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(child, at_top=at_top and not inside, for_types=for_types)
