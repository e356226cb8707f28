"""Samplers and numbers of steps against quality: `python tools/few_steps.py [model=toy] [student=] [count=100] [out=]`.

Ordinary prompts, the model's own guidance; a student goes its own steps, and the model as many without being taught.
"passes" are those of the DiT for a video. Reports are kept in `out`/SAMPLER-STEPS and not made again.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from videodit.checkpoint.find import describe
from videodit.cli.main import main as videodit
from videodit.errors import InputError

ROWS = (
    *(("euler", steps) for steps in (4, 6, 8, 12, 20, 30, 50)),
    *((name, steps) for name in ("unipc", "dpmpp") for steps in (4, 6, 8, 12, 20)),
    *(("heun", steps) for steps in (4, 10)),
)
DISTANCE = "judge Fréchet distance"
ATTRIBUTES = ("kind", "colour", "motion", "all")


def report(model: str, out: Path, count: int, *how: str) -> dict[str, Any]:
    """The evaluation of a model on ordinary prompts, made where it is not there."""
    path = out / "report.json"
    if not path.exists() or "prompts" not in json.loads(path.read_text()):
        what = ["prompts=[ordinary]", f"count={count}", "shapes=0", "clips=0", "losses=0", "page=16", "batch=50"]
        with contextlib.redirect_stdout(sys.stderr):  # the table is ours
            code = videodit(["evaluate", f"model={model}", f"out={out}", *what, *how])
        if code:
            raise InputError(f"{model} cannot be evaluated")
    return json.loads(path.read_text())["prompts"]["ordinary"]


def row(name: str, steps: int, passes: int, found: dict[str, Any]) -> str:
    """A line of the table."""
    shares = " | ".join(f"{100 * found['accuracy'][attribute]:.1f}" for attribute in ATTRIBUTES)
    return f"| {name} | {steps} | {passes} | {shares} | {found[DISTANCE]:.1f} |"


def main(arguments: Sequence[str]) -> None:
    options = {"model": "toy", "student": "", "count": "100", "out": "evaluation/steps"}
    given = dict(argument.split("=", 1) for argument in arguments)
    if unknown := given.keys() - options.keys():
        raise InputError(f"unknown: {', '.join(unknown)}; known are {', '.join(options)}")
    options |= given
    out, count = Path(options["out"]), int(options["count"])
    print("| sampler | steps | passes | " + " | ".join(ATTRIBUTES) + " | Fréchet |\n" + "|---" * 8 + "|")
    for sampler, steps in ROWS:
        passes = 2 * (2 * steps - 1 if sampler == "heun" else steps)
        how = f"sampler={sampler}", f"steps={steps}"
        found = report(options["model"], out / f"{sampler}-{steps}", count, *how)
        print(row(sampler, steps, passes, found), flush=True)
    if options["student"]:
        steps = describe(options["student"])[0]["defaults"]["steps"]
        print(row("student", steps, steps, report(options["student"], out / "student", count)), flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
