"""The tools are not run by the tests, most of them: what they import of ours must be there."""

from __future__ import annotations

import ast
from importlib import import_module

from tests.structure.source import ROOT


def test_what_tools_import_is_there() -> None:
    lacking = []
    for path in sorted((ROOT / "tools").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ("videodit", "tests"):
                module = import_module(node.module)
                names = [one.name for one in node.names if not _has(module, one.name)]
                lacking += [f"{path.name}: {node.module}.{name}" for name in names]
    assert not lacking


def _has(module: object, name: str) -> bool:
    if hasattr(module, name):
        return True
    try:
        import_module(f"{module.__name__}.{name}")
    except ModuleNotFoundError:
        return False
    return True
