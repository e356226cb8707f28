"""Does this checkout do the same as another commit? Both run beside each other on this machine's CPU.

    python tools/same_as.py REF                     everything: two minutes on two cores, 573 s when they were busy
    python tools/same_as.py REF toy train           these parts of: toy wan train evaluate ingest

REF is checked out into a folder of its own; this checkout is taken as it is, with what is not committed. What each does
is in same_probe.py. To the bit: latents, decoded frames, the first loss of a training, and a resumed beside an
uninterrupted run. Within 1e-5 of a tensor's largest value: ten losses, the gradients of a step, what is measured. Told
alone: weights after ten steps, since Muon turns the rounding of gradients near nothing into steps of its own. A case
that REF refuses is new, and no difference. Exit code 1 where anything differs, 2 for a bad REF.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

HERE = Path(__file__).resolve().parent.parent
PROBE = HERE / "tools" / "same_probe.py"
PARTS = ("toy", "wan", "train", "evaluate", "ingest")
NAMES = ("before", "here")
REFUSED = ": refused"
SHARED_CLIPS = HERE.parent / "shared" / "clips" / "camera"
REAL = ("park.mp4", "shot_change.mp4", "carphone_pristine.mp4")


class Result(NamedTuple):
    """What a probe kept: its name, what is said of it, its tensors."""

    name: str
    about: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def case(self) -> str:
        """The case that it is of."""
        return self.name.rpartition(": ")[0]


class Side:
    """One commit at work on one part. `own`: the folder of what both sides open; `place`: this side's folder."""

    def __init__(self, part: str, root: Path, own: Path, place: Path) -> None:
        self.results, self.log, self.seen = place / "results", place / "log.txt", {}
        self.results.mkdir(parents=True)
        environment = {
            **{**os.environ, "PYTHONPATH": str(root), "VIDEODIT_CACHE": str(place / "cache")},
            **{"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"},
        }
        command = [sys.executable, "-P", PROBE, part, root, own, self.results]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=place, stdout=log, stderr=log, env=environment)

    def look(self) -> None:
        """Take in what is new."""
        for path in sorted(self.results.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns):
            if path not in self.seen:
                self.seen[path] = read(path)

    @property
    def found(self) -> dict[str, Result]:
        """All results by name."""
        return {one.name: one for one in self.seen.values()}


def main(ref: str, *parts: str) -> int:
    """Compare, print a line for each comparison. -> the exit code."""
    if unknown := [part for part in parts if part not in PARTS]:
        return refuse(f"{unknown[0]}: no such part; they are {' '.join(PARTS)}")
    asked = ["git", "-C", HERE, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}"]
    commit = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    if not commit:
        return refuse(f"{ref}: no such commit in {HERE}")
    begun, differ, count = time.monotonic(), [], 0
    with tempfile.TemporaryDirectory(prefix="same-as-") as scratch, checked_out(commit, Path(scratch) / "ref") as root:
        own = Path(scratch) / "inputs"
        for part in parts or PARTS:
            say(f"{part}: {ref} ({commit[:7]}) and {HERE} at work")
            make_inputs(part, own)
            same = list(compare_part(part, ref, (root, HERE), own, Path(scratch) / part))
            differ, count = differ + [part] * (not all(same)), count + len(same)
    seconds = time.monotonic() - begun
    told = f"{count} comparisons in {seconds:.0f} s"
    say(f"NOT the same as {ref}: {', '.join(differ)} ({told})" if differ else f"the same as {ref} ({told})")
    return int(bool(differ))


def refuse(line: str) -> int:
    """Say what is wrong with the command line."""
    print(f"same_as: error: {line}", file=sys.stderr)
    return 2


def say(line: str) -> None:
    """Print at once."""
    print(line, flush=True)


@contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """A work tree of a commit, as long as this lasts."""
    git = ["git", "-C", HERE, "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", folder, commit], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", folder], check=True)


def make_inputs(part: str, folder: Path) -> None:
    """What both sides of a part open, made once by this checkout, in a process of its own."""
    command = [sys.executable, "-P", __file__, "--inputs", part, folder]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(HERE)}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"no inputs for {part}: {done.stderr}")


def inputs(part: str, folder: Path) -> int:
    """Make them: a tiny run and its adapter, tiny Wan pipelines by diffusers, plain clips and some real ones."""
    if part == "toy":
        shutil.copytree(HERE / "tests" / "fixtures" / "before", folder / "before")
    if part == "wan":
        from tests.parity.pipelines import KINDS, pipeline

        for kind in KINDS:
            pipeline(kind, folder / "wan" / kind)
    if part == "ingest":
        import numpy as np

        from tests.ingest.commands import folder as plain_clips
        from tests.ingest.nasty import picture
        from videodit.data.video import write

        plain, real = folder / "clips" / "plain", folder / "clips" / "real"
        plain.mkdir(parents=True)
        plain_clips(plain, 2)
        write(plain / "cut.mp4", np.concatenate([picture(seed, 20) for seed in (7, 8)]), 8.0)
        if SHARED_CLIPS.is_dir():
            real.mkdir()
            for name in REAL:
                shutil.copy(SHARED_CLIPS / name, real)
    return 0


def compare_part(part: str, ref: str, roots: tuple[Path, Path], own: Path, place: Path) -> Iterator[bool]:
    """Run both sides of a part, compare each result as soon as both have it -> whether each is as it should be."""
    theirs, ours = sides = [Side(part, root, own, place / name) for name, root in zip(NAMES, roots, strict=True)]
    told: set[str] = set()
    try:
        done = False
        while not done:
            done = all(side.process.poll() is not None for side in sides)
            for side in sides:
                side.look()
            for name, one in ours.found.items():
                if name not in told and name in theirs.found:
                    told.add(name)
                    yield tell(name, *compare(theirs.found[name], one, ref))
            time.sleep(0 if done else 0.2)
        yield from compare_rest(ours.found, theirs.found, told, ref)
        for side, name in ((theirs, ref), (ours, "this checkout")):
            if side.process.returncode:
                last = "\n    ".join(side.log.read_text(errors="replace").splitlines()[-12:])
                yield tell(f"{part} by {name}", False, f"ended with {side.process.returncode}:\n    {last}")
    finally:
        for side in sides:
            side.process.kill()
            side.process.wait()


def compare_rest(ours: dict[str, Result], theirs: dict[str, Result], told: set[str], ref: str) -> Iterator[bool]:
    """Tell of results that only one side has. A case that REF refused is new here, which is no difference."""
    refused = {one.case: one.about["refused"] for one in theirs.values() if one.name.endswith(REFUSED)}
    for name, one in ours.items():
        if name not in told and one.case in refused:
            yield tell(name, True, f"new: {ref} says {refused[one.case]}")
        elif name not in told:
            yield tell(name, False, one.about.get("refused", f"{ref} did not make it"))
    for name in theirs:
        if name not in ours and not name.endswith(REFUSED):
            yield tell(name, False, "this checkout did not make it")


def tell(name: str, same: bool, detail: str) -> bool:
    """Print the line of a comparison."""
    say(f"  {name}: {detail}" if same else f"  {name}: DIFFERS: {detail}")
    return same


def read(path: Path) -> Result:
    """A result that a probe kept."""
    with safe_open(path, "pt") as file:
        about = file.metadata()
        return Result(about["name"], json.loads(about["about"]), {key: file.get_tensor(key) for key in file.keys()})


def compare(theirs: Result, ours: Result, ref: str) -> tuple[bool, str]:
    """Whether two results are the same within what this one asks for, and what to say."""
    if "refused" in ours.about:
        return False, f"both refuse it, so it shows nothing: {ours.about['refused']}"
    if "same" in ours.about:
        wrong = [name for name, one in ((ref, theirs), ("this checkout", ours)) if not one.about["same"]]
        return not wrong, f"not of {' and '.join(wrong)}" if wrong else "same bits within each of the two"
    if ours.about["text"] != theirs.about["text"]:
        return False, first_difference(theirs.about["text"], ours.about["text"])
    if odd := sorted(ours.tensors.keys() ^ theirs.tensors.keys()):
        return False, f"{len(odd)} tensors are of one of the two only, such as {odd[0]}"
    kinds = {name: (str(value.dtype), tuple(value.shape)) for name, value in ours.tensors.items()}
    for name, value in theirs.tensors.items():
        if kinds[name] != (str(value.dtype), tuple(value.shape)):
            return False, f"{name} is {value.dtype} {tuple(value.shape)} of {ref}, {kinds[name]} here"
    scale = max((largest(value) for value in theirs.tensors.values()), default=0) if ours.about["together"] else None
    distances = {name: distance(theirs.tensors[name], value, scale) for name, value in ours.tensors.items()}
    bound = ours.about["within"]
    if not any(distances.values()):
        return True, "same bits"
    worst = max(distances, key=lambda name: distances[name])
    told = f"{distances[worst]:.1e} of the largest value at {worst}"
    if bound is None:
        return True, f"{told}: told, not judged"
    return distances[worst] <= bound, f"{told}, wanted {f'within {bound:g}' if bound else 'the same bits'}"


def first_difference(theirs: Any, ours: Any) -> str:
    """The first leaf of JSON in which two results differ."""
    for key in sorted({*theirs, *ours}):
        if theirs.get(key) != ours.get(key):
            return f"{key} was {theirs.get(key)!r}, is {ours.get(key)!r}"
    return "in order alone"


def largest(values: Tensor) -> float:
    """max|values|; 0 of none."""
    return values.double().abs().max().item() if values.numel() else 0.0


def distance(a: Tensor, b: Tensor, scale: float | None = None) -> float:
    """max|a - b| over the scale, else max|a|; 0 for the same bits alone, infinite where there is no such number."""
    if torch.equal(bits(a), bits(b)):
        return 0.0
    scale = largest(a) if scale is None else scale
    far = largest(a.double() - b.double()) / scale if scale else float("inf")
    return max(far, sys.float_info.min) if math.isfinite(far) else float("inf")


def bits(values: Tensor) -> Tensor:
    """The bytes of a tensor."""
    return values.contiguous().view(-1).view(torch.uint8)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inputs"]:
        sys.exit(inputs(sys.argv[2], Path(sys.argv[3])))
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(refuse(f"name a commit, and if you like some of the parts {' '.join(PARTS)}"))
    sys.exit(main(*sys.argv[1:]))
