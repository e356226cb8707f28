"""What follows from a checkpoint: which step the model and the samples in a run's folder are of.

A kill may come between a checkpoint and what is made of it. `made.json` says of which step each is, once all of it is
there; what it does not say is undone, and the next start makes it from the checkpoint. The folder of a run of an older
version has no such file: its model and, where its step is one for them, its samples are made once more.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from typing_extensions import TypedDict

from videodit.atomic import atomic, clear
from videodit.checkpoint.store import write_json
from videodit.errors import InputError
from videodit.untrusted import json_lines, read_json

FILE = "made.json"
MODEL, SAMPLES = "model", "samples"
FOLDERS = (".", MODEL, SAMPLES)  # of a run, where it writes under temporary names


class Entry(TypedDict):
    """What was made: of which step, the files relative to the run's folder, and the measure that samples gave."""

    step: int
    files: list[str]
    measure: float | None


class Skipped(TypedDict):
    """A line of skipped.jsonl."""

    step: int
    path: str
    reason: str


class Made:
    """The record in a run's folder; for its main process."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / FILE

    def known(self) -> dict[str, Entry]:
        """What the file says."""
        return read_json(self.path, dict[str, Entry]) if self.path.exists() else {}

    def undone(self, step: int, *, sampled: bool) -> list[str]:
        """What is to be made of the checkpoint of this step; `sampled`: samples belong to it."""
        there = {
            what: entry["step"]
            for what, entry in self.known().items()
            if all((self.folder / name).is_file() for name in entry["files"])
        }
        # The model is replaced by each; samples of a later step came after those of this one, and lie beside them.
        done = {MODEL: there.get(MODEL) == step, SAMPLES: not sampled or there.get(SAMPLES, -1) >= step}
        return [what for what in done if not done[what]]

    def measure(self) -> float | None:
        """That of the last samples."""
        known = self.known()
        return known[SAMPLES]["measure"] if SAMPLES in known else None

    def go_on(self, step: int) -> None:
        """Forget what is of later steps, which come again: a run goes on from this one."""
        known = self.known()
        late = [what for what in known if known[what]["step"] > step]
        if late:
            past = {SAMPLES: self._entry(SAMPLES, step)} if SAMPLES in late and step else {}
            self._write({what: entry for what, entry in known.items() if what not in late} | past)

    def forget(self, what: str) -> None:
        """Before it is replaced: from here on it may be half of one step and half of another."""
        known = self.known()
        if known.pop(what, None) is not None:
            self._write(known)

    def note(self, what: str, step: int, measure: float | None = None) -> None:
        """All of it is there."""
        self._write(self.known() | {what: self._entry(what, step, measure)})

    def _write(self, known: dict[str, Entry]) -> None:
        write_json(self.path, dict(sorted(known.items())))

    def _entry(self, what: str, step: int, measure: float | None = None) -> Entry:
        found = (self.folder / what).glob("[!.]*" if what == MODEL else f"step-{step:09d}*")
        files = sorted(path.relative_to(self.folder).as_posix() for path in found if path.is_file())
        finite = measure is not None and math.isfinite(measure)
        return {"step": step, "files": files, "measure": measure if finite else None}


def tidy_run(folder: Path) -> None:
    """Delete what a killed start left under temporary names in a run's folder, which is this process's alone."""
    for name in FOLDERS:
        clear(folder / name)


def told_before(path: Path, step: int) -> set[str]:
    """The clips that a run's skipped.jsonl told of before this step; lines of later steps, which come again, go."""
    if not path.exists():
        return set()
    lines = [line for _, line in json_lines(path, Skipped)]
    kept = [line for line in lines if not isinstance(line, InputError) and line["step"] < step]  # a kill may tear one
    if not kept:
        path.unlink()
    elif len(kept) < len(lines):
        with atomic(path) as temporary:
            temporary.write_text("".join(f"{json.dumps(line)}\n" for line in kept))
    return {line["path"] for line in kept}
