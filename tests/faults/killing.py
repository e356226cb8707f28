"""Kill a command between any two of its file operations, or ask it to stop there, run it again, and see that nobody can
tell.

A parent process imports everything once and forks a child for each run: so a run takes about as long as its own work.
In the child an audit hook, which Python calls before it opens a file for writing, renames, removes and the like, counts
the operations below the child's folder and sends the process a signal before the one that is asked for. Operations,
not moments: every try hits, and the same number is the same place again (but for what threads do meanwhile).

    with Parent() as parent:
        operations = parent.run(["train", …], folder).operations
        parent.run(["train", …], other, at=len(operations) // 2)
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from socket import socket
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
PATIENCE = 300  # seconds a run
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
MOVES = ("os.rename", "os.link", "os.symlink")
CHANGES = ("os.remove", "os.mkdir", "os.rmdir", "os.truncate")


class Ended(NamedTuple):
    """How a run ended: each process's exit code (-9: killed), its file operations as lines, and what it printed."""

    codes: list[int]
    operations: list[list[str]]
    told: str

    @property
    def fine(self) -> bool:
        """Whether all came to their end."""
        return not any(self.codes)


class Parent:
    """Runs commands of videodit in children of one process that has imported what they need."""

    def __enter__(self) -> Parent:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.killing"], cwd=ROOT, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait(PATIENCE)

    def run(
        self, arguments: Sequence[str], folder: Path, *, at: int = 0, rank: int = 0, ranks: int = 1,
        by: int = signal.SIGKILL,
    ) -> Ended:  # fmt: skip
        """Run a command line in a folder. at: the operation of this rank before which it gets the signal `by`, from 1;
        0: none.
        """
        folder.mkdir(parents=True, exist_ok=True)
        asked = {"arguments": list(arguments), "folder": str(folder.resolve()), "at": at, "rank": rank, "ranks": ranks,
                 "by": int(by)}  # fmt: skip
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))


def serve() -> None:
    """Answer requests, a JSON line each, until there are no more."""
    import torch

    from videodit.cli import decode, encode, evaluate, export, generate, ingest, report, train  # noqa: F401
    from videodit.cli.main import main

    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        answers.write(json.dumps(answered(main, **json.loads(line))) + "\n")
        answers.flush()


def answered(
    main: Callable[[Sequence[str]], int], arguments: Sequence[str], folder: str, at: int, rank: int, ranks: int, by: int
) -> dict[str, Any]:
    """Fork, wait, and say how it went. Once the victim is dead the other processes are killed, as launchers do."""
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    notes = Path(f"{folder}.notes")  # beside it: not part of what is compared
    notes.mkdir(exist_ok=True)
    running: dict[int, int] = {}
    for number in range(ranks):
        meeting = {"RANK": number, "WORLD_SIZE": ranks, "LOCAL_RANK": number, "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": port} if ranks > 1 else {}  # fmt: skip
        if not (pid := os.fork()):
            child(main, arguments, Path(folder), (at if number == rank else 0, by), notes / str(number), meeting)
        running[pid] = number
    codes, until = [0] * ranks, time.monotonic() + PATIENCE
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            number = running.pop(pid)
            codes[number] = os.waitstatus_to_exitcode(status)
            end(pid)  # its workers
            if codes[number]:
                for other in running:
                    end(other)
        elif time.monotonic() > until:
            for other in running:
                end(other)
        else:
            time.sleep(0.002)
    done = [(notes / f"{number}.operations").read_text().splitlines() for number in range(ranks)]
    learn(notes)
    told = "".join((notes / f"{number}.told").read_text(errors="replace") for number in range(ranks))
    return {"codes": codes, "operations": done, "told": told}


def learn(notes: Path) -> None:
    """Import what a child had to import, so that the next one has it."""
    for path in notes.glob("*.modules"):
        for name in path.read_text().split():
            with suppress(Exception):  # what only another may import
                importlib.import_module(name)
        path.unlink()
    gc.collect()
    gc.freeze()  # else every child's collector would touch, and so copy, all of it


def end(group: int) -> None:
    """Kill a child, if it is there, and the processes that it started."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def child(
    main: Callable[[Sequence[str]], int], arguments: Sequence[str], folder: Path, told: tuple[int, int],
    notes: Path, meeting: Mapping[str, object],
) -> None:  # fmt: skip
    """Be the command from here on."""
    code = 1
    try:
        os.setpgid(0, 0)
        os.environ.update({name: str(value) for name, value in meeting.items()}, VIDEODIT_CACHE=str(folder / "user"))
        output = os.open(f"{notes}.told", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(output, stream)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a parent in the background ignores
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(folder)
        count_operations(folder, *told, os.open(f"{notes}.operations", os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
        known = set(sys.modules)
        code = main(arguments)
        atexit._run_exitfuncs()
        Path(f"{notes}.modules").write_text(" ".join(name for name in sys.modules if name not in known))
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def count_operations(folder: Path, at: int, by: int, log: int) -> None:
    """From here on note this process's file operations below a folder, and send it a signal before number `at`."""
    numbers, me, below = count(1), os.getpid(), f"{folder}{os.sep}"

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        places = changed(event, arguments)
        if places and os.getpid() == me and any(place.startswith(below) for place in places):
            if next(numbers) == at:
                os.kill(me, by)
            os.write(log, f"{event} {' '.join(place.removeprefix(below) for place in places)}\n".encode())

    sys.addaudithook(hook)


def changed(event: str, arguments: tuple[Any, ...]) -> list[str]:
    """The paths that an audited operation is about to change."""
    if event == "open":
        path, _, flags = arguments
        return [whole(path)] if isinstance(flags, int) and flags & WRITING else []
    if event in MOVES:
        source, target, *folders = arguments
        folders = (*folders, -1, -1)[:2]
        return [whole(source, folders[0]), whole(target, folders[1])]
    if event in CHANGES:
        path = whole(arguments[0], arguments[-1] if len(arguments) > 1 and event != "os.truncate" else -1)
        return [path] if os.path.lexists(path) != (event == "os.mkdir") else []  # what is as it should be is no change
    return []


def whole(path: Any, folder: Any = -1) -> str:
    """An absolute path; `folder`: the descriptor that it is relative to, if any."""
    if isinstance(path, int):
        return os.readlink(f"/proc/self/fd/{path}")
    text = os.fsdecode(path)
    if isinstance(folder, int) and folder >= 0 and not text.startswith(os.sep):
        return os.path.join(os.readlink(f"/proc/self/fd/{folder}"), text)
    return os.path.abspath(text)


if __name__ == "__main__":
    serve()
