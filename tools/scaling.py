"""The scaling study from the records of its runs: a table and two plots.

    python tools/scaling.py SWEEP_DIR... [out=docs/scaling] [count=200]

Every complete run below the folders that has no evaluation yet is evaluated: `count` ordinary prompts, the model's own
sampler and guidance, the report in RUN/evaluation. `out`.json keeps a row for each run, also of runs that are no longer
there; `out`.png is drawn from all of them, and the table printed.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from videodit.checkpoint.store import atomic
from videodit.cli.main import main as videodit
from videodit.errors import InputError
from videodit.generate import load
from videodit.track.curves import read

LATENT = (5, 8, 8)  # frames, height and width of a clip of 17x64x64
WORDS = 14  # text states of a usual caption
DISTANCE = "judge Fréchet distance"
NAMES = {96: "S", 160: "M", 256: "L"}  # model.dim -> what the docs call it
COLUMNS = ("Fréchet", "held-out loss", "all right, %")
Row = dict[str, Any]


def evaluated(run: Path, count: int) -> dict[str, Any]:
    """The report of a run's evaluation, made where it is not there."""
    report = run / "evaluation" / "report.json"
    if not report.exists() or "prompts" not in json.loads(report.read_text()):
        what = ["prompts=[ordinary]", f"count={count}", "shapes=0", "clips=0", "losses=0", "page=16", "batch=50"]
        with contextlib.redirect_stdout(sys.stderr):  # the table is ours
            code = videodit(["evaluate", f"model={run}", f"out={report.parent}", *what])
        if code:
            raise InputError(f"{run} cannot be evaluated")
    return json.loads(report.read_text())["prompts"]["ordinary"]


def row(run: Path, count: int) -> Row:
    """What was chosen for a run, what it costs and what it reached."""
    config, curves = json.loads((run / "config.json").read_text()), read(run)
    flow, predicted = config["flow"]["name"], config["flow"]["path"]["prediction"]
    dit = load(str(run)).parts.dit
    tokens = math.prod(LATENT) // math.prod(dit.patch)
    prompts = evaluated(run, count)
    return {
        "model": f"{NAMES.get(config['model']['dim'], config['model']['dim'])}/{config['model']['patch'][1]}",
        "time": config["model"]["time"],
        "flow": flow if flow == "rectified" else f"{flow}, {predicted}",
        "seed": config["seed"],
        "steps": config["loop"]["steps"],
        "million parameters": sum(p.numel() for p in dit.parameters()) / 1e6,
        "Gflops": dit.flops(tokens, WORDS) / 1e9,
        "held-out loss": float(curves["heldout/loss"][1][-1]),
        "Fréchet": prompts[DISTANCE],
        "Fréchet, rendered": prompts[f"{DISTANCE}, rendered"],
        "all right, %": 100 * prompts["accuracy"]["all"],
        "prompts": prompts["prompts"],
    }


def complete(folder: Path) -> Iterator[Path]:
    """The runs below a folder, or the folder itself, that have taken all their steps."""
    for path in sorted(folder.rglob("config.json")):
        steps = json.loads(path.read_text()).get("loop", {}).get("steps")
        curves = read(path.parent) if (path.parent / "metrics.jsonl").exists() else {}
        if steps and "heldout/loss" in curves and curves["heldout/loss"][0][-1] >= steps:
            yield path.parent


def key(row: Row) -> tuple[str, ...]:
    """What a row is about, but for its seed."""
    return row["model"], row["time"], row["flow"]


def grouped(rows: Sequence[Row]) -> dict[tuple[str, ...], list[Row]]:
    """The rows by `key`, from the cheapest model to the dearest."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for one in sorted(rows, key=lambda row: (row["flow"] != "rectified", row["time"], row["Gflops"])):
        groups.setdefault(key(one), []).append(one)
    return groups


def spread(rows: Sequence[Row], name: str) -> tuple[float, float]:
    """Mean over the seeds, and half of what lies between the least and the most."""
    values = np.array([row[name] for row in rows])
    return float(values.mean()), float(np.ptp(values) / 2)


def table(groups: Mapping[tuple[str, ...], Sequence[Row]]) -> Iterator[str]:
    """Lines of Markdown."""
    yield "| model/patch | time | flow | parameters | Gflops a clip | seeds | " + " | ".join(COLUMNS) + " |"
    yield "|" + "---|" * (6 + len(COLUMNS))
    for (model, time, flow), rows in groups.items():
        cells = []
        for name in COLUMNS:
            (mean, half), digits = spread(rows, name), 3 if name == "held-out loss" else 1
            own = name != "held-out loss" or flow == "rectified"  # losses of other flows are of other things
            cells.append(f"{mean:.{digits}f} ± {half:.{digits}f}" if own else "")
        what = f"{rows[0]['million parameters']:.2f} M | {rows[0]['Gflops']:.3f} | {len(rows)}"
        yield f"| {model} | {time} | {flow} | {what} | " + " | ".join(cells) + " |"


def draw(groups: Mapping[tuple[str, ...], Sequence[Row]], out: Path) -> None:
    """Fréchet distance and held-out loss against Gflops, and the ways of time and flow beside each other."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(16, 4.6))
    sizes = {k: rows for k, rows in groups.items() if k[1:] == ("adaln_single", "rectified")}
    for axis, name in zip(axes, COLUMNS[:2], strict=False):
        for patch in sorted({k[0].split("/")[1] for k in sizes}):
            chosen = {k: rows for k, rows in sizes.items() if k[0].endswith(f"/{patch}")}
            x = [rows[0]["Gflops"] for rows in chosen.values()]
            means, halves = zip(*(spread(rows, name) for rows in chosen.values()), strict=True)
            axis.errorbar(x, means, halves, marker="o", capsize=3, label=f"patch {patch}")
            for k, place, mean in zip(chosen, x, means, strict=True):
                axis.annotate(k[0], (place, mean), textcoords="offset points", xytext=(6, 5), fontsize=9)
        axis.set(xscale="log", xlabel="Gflops a clip, one pass (a multiplication and an addition are two)", title=name)
        axis.grid(True, which="both", alpha=0.2)
        axis.legend(frameon=False)
    others = {k: rows for k, rows in groups.items() if k[0] == "M/2"}
    for place, (k, rows) in enumerate(others.items()):
        mean, half = spread(rows, "Fréchet")
        axes[2].barh(place, mean, xerr=half, color="C0" if k[2] == "rectified" else "C1", capsize=3)
    labels = [k[1] if k[2] == "rectified" else k[2] for k in others]
    axes[2].set(yticks=range(len(others)), yticklabels=labels, title="Fréchet of M/2: how time enters; other flows")
    axes[2].invert_yaxis()
    figure.tight_layout()
    figure.savefig(out, dpi=110)
    pyplot.close(figure)


def main(arguments: Sequence[str]) -> None:
    options = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    folders = [Path(argument) for argument in arguments if "=" not in argument]
    out, count = Path(options.pop("out", "docs/scaling")), int(options.pop("count", "200"))
    if options:
        raise InputError(f"unknown: {', '.join(options)}; known are out and count")
    records = out.with_suffix(".json")
    rows: list[Row] = json.loads(records.read_text()) if records.exists() else []
    for run in (run for folder in folders for run in complete(folder)):
        new = row(run, count)
        rows = [old for old in rows if (*key(old), old["seed"]) != (*key(new), new["seed"])] + [new]
    if not rows:
        raise InputError(f"no complete run in {', '.join(map(str, folders)) or 'no folder'}, and no {records}")
    with atomic(records) as temporary:
        temporary.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    groups = grouped(rows)
    print("\n".join(table(groups)))
    draw(groups, out.with_suffix(".png"))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
