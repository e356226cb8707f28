"""Files changed by chance, through every reader: each try is a process of its own, judged by what it prints.

Hypothesis draws the changes (changes.py), so that a failure shrinks to the smallest change that shows it; readers.py
has what reads them. `tools/fuzz.py` runs this for long.
"""

from __future__ import annotations

import io
import os
import resource
import signal
import sys
import tempfile
import unicodedata
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from tests.faults.readers import READERS
from tests.faults.sound import base
from videodit.cli.main import user_message

SECONDS, BYTES = 30, 2 * 2**30  # that a try may take


def outcome(name: str, data: st.DataObject) -> str:
    """What became of one changed file: "clean", "accepted", or what is wrong."""
    reader = READERS[name]
    with tempfile.TemporaryDirectory(prefix="videodit-fuzz-") as scratch:
        folder = Path(scratch) / "files"
        folder.mkdir()
        reader.make(folder)
        path = folder / reader.file
        path.write_bytes(reader.change(data, path.read_bytes()))
        return in_a_process(reader.read, folder, Path(scratch) / "told")


def in_a_process(read: Callable[[], Any], folder: Path, told: Path) -> str:
    """Call `read` in a fork, in this folder, and judge it; `told` is a file for what it says."""
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")  # a fork begins with it
    pid = os.fork()
    if not pid:
        _read_and_tell(read, folder, told)
    _, status, usage = os.wait4(pid, 0)
    if os.WIFSIGNALED(status):
        return f"hangs for {SECONDS} s" if os.WTERMSIG(status) == signal.SIGALRM else f"dies of {os.WTERMSIG(status)}"
    if (grown := usage.ru_maxrss * 1024 - before) > BYTES:
        return f"takes {grown / 2**30:.1f} GiB"
    return told.read_text("utf-8") if told.exists() else "ends without a word"


def judged(code: Any, text: str) -> str:
    """What a command's exit code and its output amount to."""
    if "Traceback" in text:
        return f"traceback: {text.strip().splitlines()[-1]}"
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in text.replace("\n", "")):
        return f"control characters: {text!r}"
    if code == 2:
        errors = [line for line in text.splitlines() if line.startswith("videodit: error: ")]
        return "clean" if len(errors) == 1 and text.endswith(errors[0] + "\n") else f"more than a line: {text!r}"
    return "accepted" if not code else f"exit code {code}: {text[-200:]!r}"


def _read_and_tell(read: Callable[[], Any], folder: Path, told: Path) -> None:
    """In the child: never returns."""
    said, code = io.StringIO(), None
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(BaseException), redirect_stdout(said), redirect_stderr(said):
        os.chdir(folder)
        try:
            code = read()
        except BaseException as error:  # a function of Python's own interface; a panic of Rust is no Exception
            message = user_message(error) if isinstance(error, Exception) else ""
            code = 2 if message else 1
            said.write(f"videodit: error: {message}\n" if message else f"Traceback {type(error).__name__}: {error}\n")
    told.write_text(judged(code, said.getvalue()), "utf-8", errors="backslashreplace")
    sys.stdout.flush()
    os._exit(0)


def prepare() -> None:
    """What must be so before the first try: one thread, so that a fork has no locks that nobody opens."""
    torch.set_num_threads(1)
    base()
    np.zeros(1)
