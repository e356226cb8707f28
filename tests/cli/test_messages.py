"""The library prints nothing: what it says goes through `logging`, and the command line shows it."""

from __future__ import annotations

import ast
import logging
import subprocess
import sys

import pytest

from tests.structure.source import area, modules, tree
from videodit.cli.messages import Spoken, spoken
from videodit.printable import note, warn

SILENT = ("generate", "decode", "checkpoint", "data", "plan", "models", "nn", "flow", "config", "eval", "settings")


def test_a_message_is_one_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    with spoken(), spoken():
        note("videodit.generate.pipe", "a \x1b[31mred\x1b[0m\nball 100%")
        warn("videodit.checkpoint.find", "not as asked")
    assert capsys.readouterr().err == "a \\x1b[31mred\\x1b[0m\\nball 100%\nnot as asked\n"


def test_its_place_is_the_callers(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("videodit")
    logger.addHandler(caplog.handler)
    try:
        warn("videodit.generate.pipe", "a")
    finally:
        logger.removeHandler(caplog.handler)
    [record] = caplog.records
    assert (record.name, record.filename, record.levelname) == ("videodit.generate.pipe", "test_messages.py", "WARNING")


def test_afterwards_all_is_as_before() -> None:
    code = (
        "import logging; from videodit.cli.messages import spoken; from videodit.printable import note, warn\n"
        "logger = logging.getLogger('videodit'); before = (logger.level, logger.propagate, list(logger.handlers))\n"
        "note('videodit.a', 'unheard')\n"
        "with spoken(): note('videodit.a', 'heard')\n"
        "assert (logger.level, logger.propagate, list(logger.handlers)) == before\n"
        "warn('videodit.a', 'python itself shows a warning')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "heard\npython itself shows a warning\n" and not done.stdout
    assert issubclass(Spoken, logging.Handler)


@pytest.mark.parametrize("module", [module for module in modules() if area(module) in SILENT])
def test_the_library_prints_nothing(module: str) -> None:
    for node in ast.walk(tree(modules()[module])):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            printed = node.func.id in ("print", "say", "answer") and module != "videodit.toy.grammar"
            assert not printed, f"line {node.lineno}: {ast.unparse(node)[:60]}"
