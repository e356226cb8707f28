"""What tools/statements.py counts: statements, without docstrings and imports."""

from __future__ import annotations

import ast

from tools.statements import by_room, here, statements

SOURCE = '''
"""A docstring."""
from __future__ import annotations
import os, sys

class Thing:
    """A docstring."""
    name: str = "x"

    def method(self): ...

if os.name: print(sys); x = 1
'''


def test_what_is_no_work_is_not_counted() -> None:
    assert statements(ast.parse(SOURCE)) == 7  # class, name, def, …, if, print, x
    squeezed = SOURCE.replace("print(sys); x = 1", "\n    print(sys)\n    x = 1")
    assert statements(ast.parse(squeezed)) == 7


def test_a_room_is_a_folder_or_a_module_beside_them() -> None:
    files = [("videodit/nn/a.py", "x = 1"), ("videodit/nn/deep/a.py", "y = 1\nz = 2"), ("videodit/errors.py", "x = 1")]
    assert by_room(iter(files)) == {"nn": 3, "errors": 1}
    assert {"toy", "features", "cli", "shapes"} <= here().keys()
