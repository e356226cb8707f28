"""Count statements by room, which rule 12 of docs/design.md limits: squeezing lines or leaving out words gains nothing.

    python tools/statements.py            a table of videodit/, by room
    python tools/statements.py REF        beside the same table of another commit

A statement is a node that Python's grammar calls one; docstrings and imports are left out.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "videodit"


def main(*refs: str) -> int:
    """Print the table; returns the exit code."""
    tables = []
    for ref in refs:
        try:
            tables.append(at(ref))
        except subprocess.CalledProcessError as error:
            print(f"statements: error: {ref}: {error.stderr.strip()}", file=sys.stderr)
            return 2
    tables.append(here())
    print("room".ljust(12) + "".join(f"{name[:10]:>12}" for name in [*refs, "here"]))
    for room in sorted({room for table in tables for room in table}):
        print(room.ljust(12) + "".join(f"{table[room]:>12,}" for table in tables))
    print("whole".ljust(12) + "".join(f"{table.total():>12,}" for table in tables))
    return 0


def here() -> Counter[str]:
    """Statements of each room of this checkout."""
    files = sorted((ROOT / PACKAGE).rglob("*.py"))
    return by_room((path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in files)


def at(ref: str) -> Counter[str]:
    """Statements of each room of a commit. Raises CalledProcessError where git knows no such commit."""
    names = git("ls-tree", "-r", "--name-only", ref, PACKAGE).splitlines()
    return by_room((name, git("show", f"{ref}:{name}")) for name in names if name.endswith(".py"))


def git(*args: str) -> str:
    """What a git command prints."""
    return subprocess.run(["git", "-C", ROOT, *args], check=True, capture_output=True, text=True).stdout


def by_room(files: Iterator[tuple[str, str]]) -> Counter[str]:
    """Statements by room, of (path, source) pairs: a folder of videodit/, or a module that lies directly in it."""
    counts: Counter[str] = Counter()
    for path, source in files:
        counts[path.split("/")[1].removesuffix(".py")] += statements(ast.parse(source))
    return counts


def statements(tree: ast.AST) -> int:
    """How many statements a syntax tree has, without docstrings and imports."""
    return sum(
        isinstance(node, ast.stmt) and not isinstance(node, ast.Import | ast.ImportFrom) and not is_text(node)
        for node in ast.walk(tree)
    )


def is_text(node: ast.AST) -> bool:
    """Whether a statement is a string that stands alone: a docstring."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
