"""How many files does a value pass on its way? Counts the walks of a prompt to its mp4, of `packs.tokens` to its use.

    python tools/walks.py            of this checkout, as it is
    python tools/walks.py REF        of a commit, checked out into a folder of its own

Each walk is followed while a command runs: `videodit generate` of the bundled model with an unusual word in the prompt,
and `videodit train` with an unusual number for packs.tokens. A function of videodit/ is visited when it is entered, on
the main thread, with the value among its arguments or the variables that it closes over: the very value, a text that
holds it, or a mapping, sequence, config, dataclass or object of videodit that does, three levels down at most. The
first walk ends with the command, the second where data/packing.fill gets the number.

    files      distinct files that are visited
    stays      visits one after the other in the same file, taken together
    returns    stays in a file that was left before
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

DEEP, MANY, LONG = 3, 200, 100_000  # levels; items of one that are looked at; characters of a text


class Walk(NamedTuple):
    """What is followed, by which command, and the file and function that end it ("", "": the command does)."""

    name: str
    value: str | int
    command: tuple[str, ...]
    end: tuple[str, str] = ("", "")


PROMPT = "a red ball qzx"
TOKENS = 7919
WALKS = (
    Walk("prompt to mp4", "qzx", ("generate", PROMPT, "out=x.mp4", "size=64x64", "frames=5", "steps=2", "seed=1")),
    Walk(
        "packs.tokens to fill",
        TOKENS,
        (
            *("train", "experiment=toy_smoke", f"packs.tokens={TOKENS}", "after=[]", "vae_from=toy", "run_dir=run"),
            *("cache=cache", "data.train.0.size=4", "data.train.1.size=2", "data.heldout.0.size=2", "workers=0"),
            *("loop={steps: 1, save_every: 1, sample_every: 1, log_every: 1}", "samples.prompts=[]"),
        ),
        ("data/packing.py", "fill"),
    ),
)


def main(*refs: str) -> int:
    """Follow the walks of a commit, or of this checkout, and print a table and their files. -> the exit code."""
    from same_as import HERE, checked_out

    if len(refs) > 1 or refs[:1] and refs[0].startswith("-"):
        print("walks: error: name one commit, or none for this checkout", file=sys.stderr)
        return 2
    commit = ""
    if refs:
        asked = ["git", "-C", HERE, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{refs[0]}^{{commit}}"]
        commit = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
        if not commit:
            print(f"walks: error: {refs[0]}: no such commit in {HERE}", file=sys.stderr)
            return 2
    with tempfile.TemporaryDirectory(prefix="walks-") as scratch:
        place = Path(scratch)
        with checked_out(commit, place / "ref") if commit else nullcontext(HERE) as root:
            found = [(walk.name, followed(number, root, place / str(number))) for number, walk in enumerate(WALKS)]
    print(f"{'walk':22}{'files':>7}{'stays':>7}{'returns':>9}")
    for name, visits in found:
        print(f"{name:22}{len(set(visits)):7}{len(stays(visits)):7}{returns(visits):9}")
    for name, visits in found:
        each = stays(visits)
        print(f"\n{name}, by their first visit, with their stays:")
        print("  " + ", ".join(f"{file} {each.count(file)}" for file in dict.fromkeys(visits)))
    return 0


def stays(visits: list[str]) -> list[str]:
    """The files of visits, those that follow each other in one file taken together."""
    return [file for i, file in enumerate(visits) if i == 0 or visits[i - 1] != file]


def returns(visits: list[str]) -> int:
    """How many stays are in a file that was left before."""
    return len(stays(visits)) - len(set(visits))


def followed(number: int, root: Path, place: Path) -> list[str]:
    """The files, below videodit/, that the walk of this number visits in the package at `root`, visit after visit."""
    place.mkdir()
    environment = {
        **{**os.environ, "PYTHONPATH": str(root), "VIDEODIT_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"},
        **{"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"},
    }
    command = [sys.executable, "-P", __file__, "--follow", str(number), root, place / "visits.json"]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(WALKS[number].command)}: {done.stdout}{done.stderr}")
    return json.loads((place / "visits.json").read_text())


def follow(number: int, root: Path, out: Path) -> int:
    """Run the command of a walk in this process and write its visits. -> the command's exit code."""
    from videodit.cli.main import main as command

    walk, package, visits = WALKS[number], f"{root / 'videodit'}{os.sep}", []

    def visit(frame: FrameType, event: str, _: object) -> None:
        if event != "call" or not frame.f_code.co_filename.startswith(package):
            return
        if any(holds(value, walk.value, DEEP) for value in entered_with(frame)):
            visits.append(frame.f_code.co_filename.removeprefix(package))
            if (visits[-1], frame.f_code.co_name) == walk.end:
                sys.setprofile(None)

    sys.setprofile(visit)
    try:
        code = command(list(walk.command))
    finally:
        sys.setprofile(None)
    ended = not walk.end[0] or visits[-1:] == [walk.end[0]]
    out.write_text(json.dumps(visits))
    return code or int(not ended)


def entered_with(frame: FrameType) -> Iterator[Any]:
    """The arguments of a call and what the function closes over."""
    code, values = frame.f_code, frame.f_locals
    starred = bool(code.co_flags & 4) + bool(code.co_flags & 8)  # *args, **kwargs
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + starred]
    return (values[name] for name in (*names, *code.co_freevars) if name in values)


def holds(value: Any, wanted: str | int, deep: int) -> bool:
    """Whether a value is the wanted one, or holds it so many levels down at most."""
    if isinstance(value, str):
        return len(value) < LONG and str(wanted) in value
    if isinstance(value, int | float):
        return isinstance(wanted, int) and value == wanted
    return deep > 0 and any(holds(one, wanted, deep - 1) for one in inside(value))


def inside(value: Any) -> list[Any]:
    """What a value is made of, one level down; nothing of a network, whose weights are no settings."""
    module = type(value).__module__.partition(".")[0]
    if module == "omegaconf":
        content = vars(value).get("_content", vars(value).get("_val"))
        return inside(content) if isinstance(content, dict | list) else [content]
    if isinstance(value, dict):
        return [*value.values()][:MANY]
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)[:MANY]
    if is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name, None) for field in fields(value)]
    if module == "videodit" and hasattr(value, "__dict__") and not isinstance(value, type):
        return [] if "_parameters" in vars(value) else [*vars(value).values()][:MANY]
    return []


if __name__ == "__main__":
    if sys.argv[1:2] == ["--follow"]:
        sys.exit(follow(int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])))
    sys.exit(main(*sys.argv[1:]))
