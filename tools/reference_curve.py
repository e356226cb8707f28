"""Write the losses of a run as the reference curve that ships with an experiment, for `videodit report` to draw.

python tools/reference_curve.py RUN_DIR NAME     writes data/curves/NAME.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from videodit.checkpoint.store import atomic
from videodit.config import assets_dir
from videodit.errors import InputError
from videodit.track.curves import Curve, pack, read

NAMES = ("loss", "heldout/loss", "heldout/psnr")
POINTS = 200


def averaged(curve: Curve, points: int) -> Curve:
    """At most `points` of a curve: means over stretches of its records, at their last steps."""
    stretches = np.array_split(np.arange(len(curve[0])), min(points, len(curve[0])))
    return np.array([curve[0][part[-1]] for part in stretches]), np.array([curve[1][part].mean() for part in stretches])


def main(arguments: Sequence[str]) -> None:
    if len(arguments) != 2:
        raise InputError("usage: reference_curve.py RUN_DIR NAME")
    curves = read(Path(arguments[0]))
    if "loss" not in curves:
        raise InputError(f"{arguments[0]}: no loss has been recorded")
    kept = {name: averaged(curves[name], POINTS) for name in NAMES if name in curves}
    out = assets_dir() / "curves" / f"{arguments[1]}.json"
    with atomic(out) as temporary:
        temporary.write_text(json.dumps({"name": arguments[1], "curves": pack(kept)}) + "\n", encoding="utf-8")
    print(out)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
