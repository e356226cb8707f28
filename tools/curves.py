"""Draw the curves of one or several runs from their metrics.jsonl: faint as recorded, strong as smoothed.

    python tools/curves.py RUN_DIR... [out=curves.png] [names=loss,loss/held_out] [smooth=0.01]

One panel a name, one colour a run. Without `names`, every number with "loss" in its name. `smooth` is the width
(standard deviation) of the smoothing as a part of the run's records; 0 draws only what was recorded. A tick at the foot
of a panel marks a record that was nan or infinite.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from videodit.errors import InputError
from videodit.track.curves import Curve, read, smoothed


def draw(runs: dict[str, dict[str, Curve]], names: Sequence[str], smooth: float, out: Path) -> None:
    """Write the picture to `out` (its ending says the format)."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    columns = min(len(names), 2)
    lines = -(-len(names) // columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(7.5 * columns, 4.2 * lines), squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.remove()
    for axis, name in zip(axes.flat, names, strict=False):
        for index, (label, curves) in enumerate(runs.items()):
            if name not in curves:
                continue
            (steps, values), colour = curves[name], f"C{index}"
            line = smoothed(values, smooth * len(values)) if smooth else values
            if smooth:
                axis.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
            axis.plot(steps, line, color=colour, linewidth=1.6, label=label)
            bad = steps[~np.isfinite(values)]
            axis.plot(bad, np.zeros(len(bad)), "|", color=colour, markersize=14, transform=axis.get_xaxis_transform())
        drawn = np.concatenate([curves[name][1] for curves in runs.values() if name in curves])
        drawn = drawn[np.isfinite(drawn)]
        if drawn.size and 0 < 10 * drawn.min() < drawn.max():
            axis.set_yscale("log")
        axis.set(title=name, xlabel="step")
        axis.grid(True, which="both", alpha=0.2)
        axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(out, dpi=120)
    pyplot.close(figure)


def main(arguments: Sequence[str]) -> None:
    options = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    folders = [Path(argument) for argument in arguments if "=" not in argument]
    out, smooth = Path(options.pop("out", "curves.png")), float(options.pop("smooth", 0.01))
    wanted = options.pop("names", "")
    if options or not folders:
        raise InputError("usage: curves.py RUN_DIR... [out=curves.png] [names=loss,...] [smooth=0.01]")
    short = len({folder.name for folder in folders}) == len(folders)
    runs = {folder.name if short else str(folder): read(folder) for folder in folders}
    known = list(dict.fromkeys(name for curves in runs.values() for name in curves))
    names = wanted.split(",") if wanted else [name for name in known if "loss" in name]
    if not names or (missing := set(names) - set(known)):
        lacking = ", ".join(sorted(missing)) if names else "anything with loss in its name"
        raise InputError(f"no run has {lacking}; names= takes: {', '.join(known)}")
    draw(runs, names, smooth, out)
    print(out)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
