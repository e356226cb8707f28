"""The library prints nothing: what it says goes through `logging`, and the command line shows it."""

from __future__ import annotations

import ast
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from tests.structure.source import area, modules, tree
from videodit.cli.messages import Spoken, spoken
from videodit.printable import note, warn

# `printable` is what prints, and `alive` tells of a command that it is silent: only the command line has it watched.
PRINTS = ("cli", "printable", "alive")
PRINTERS = ("print", "say", "answer")


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


@pytest.mark.parametrize("module", [module for module in modules() if area(module) not in PRINTS])
def test_only_the_command_line_prints(module: str) -> None:
    for node in ast.walk(tree(modules()[module])):
        where = f"line {getattr(node, 'lineno', 0)}: {ast.unparse(node)[:60]}"
        if isinstance(node, ast.ImportFrom) and node.module == "videodit.printable":
            assert not {alias.name for alias in node.names} & {*PRINTERS}, where
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("print", "sys.stdout.write", "sys.stderr.write"), where


def test_lines_of_a_launched_command_are_shown(tmp_path: Path) -> None:
    """hydra, which sets up logging of its own, takes none of them away; a plan is an answer, on stdout."""
    words = ["experiment=toy_smoke_vae", f"run_dir={tmp_path / 'run'}", "limit=2", "loop.steps=1", "workers=0"]
    done = [
        subprocess.run([sys.executable, "-m", "videodit", "train", *words, *more], capture_output=True, text=True)
        for more in (["plan=true"], [])
    ]
    assert [one.returncode for one in done] == [0, 0], done
    planned, trained = done
    told = [[line for line in one.stderr.splitlines() if "still at it" not in line] for one in done]
    assert planned.stdout.startswith("a step: ") and told[0] == []
    first, second, *middle, last = told[1]
    assert not trained.stdout and first.startswith("a step: ") and "million parameters" in second
    assert any("  step 1/1  " in line for line in middle)
    assert last == f"{tmp_path / 'run'}: videodit report {tmp_path / 'run'}, model={tmp_path / 'run'}"
