"""General code asks for the parts of a model by what they are for: their names stand in checkpoint/parts.py alone."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.structure.source import PACKAGE, python_files, tree
from videodit.checkpoint.parts import ROLES

ROOMS = ("checkpoint", "cli", "doctor", "eval", "generate", "parallel", "plan", "train")
HOMES = ("checkpoint/parts.py", "checkpoint/families/")  # a family says which of its files is which part
# The same words for something else, and how often: other folders' names, keys of a config, what is printed.
OTHERS = {
    ("checkpoint/loose.py", "dit."): 1,  # what other programs begin names of tensors with
    ("checkpoint/loose.py", "vae."): 1,
    ("checkpoint/loose.py", "vae"): 1,  # in the names of pickles
    ("checkpoint/texts.py", "text"): 1,  # the cache's folder
    ("checkpoint/trees.py", "vae"): 1,  # another program's folder
    ("cli/effects.py", "text"): 2,  # keys of a config
    ("cli/effects.py", "vae"): 1,
    ("plan/generation.py", "text"): 3,  # the stage of a plan
    ("train/init.py", "text"): 1,  # groups of the config
    ("train/init.py", "vae"): 1,
    ("train/optim.py", "text"): 1,  # what a learning rate is recorded as
}

NAME = re.compile(rf"({'|'.join(ROLES)})(\.\S*)?")


def named(node: ast.AST) -> Iterator[str]:
    """The names of parts in a piece of code, also as the beginning of another name, such as "vae.safetensors".

    Values of the key `stage`, which are the same words, are none.
    """
    of_stage = isinstance(node, ast.Compare | ast.AnnAssign) and "'stage'" in ast.dump(node)
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and NAME.fullmatch(node.value):
        yield node.value
    for child in () if of_stage else ast.iter_child_nodes(node):
        yield from named(child)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ('parts["dit"]', ["dit"]),
        ('folder / "vae.safetensors"', ["vae.safetensors"]),
        ('name.startswith("text.")', ["text."]),
        ('{**streams, "text_2": 1}', ["text_2"]),
        ('prepare_vae if cfg.stage == "vae" else parts["dit"]', ["dit"]),
        ('"the text encoder"', []),
    ],
)
def test_a_name_is_seen(code: str, found: list[str]) -> None:
    assert list(named(ast.parse(code))) == found


def test_no_part_is_called_by_its_name() -> None:
    found: Counter[tuple[str, str]] = Counter()
    for path in map(Path, python_files(*(f"videodit/{room}" for room in ROOMS))):
        file = path.relative_to(PACKAGE).as_posix()
        if not file.startswith(HOMES):
            found.update((file, name) for name in named(tree(path)))
    assert found == OTHERS, "ask by role: checkpoint/parts has of_role, first and name_of"
