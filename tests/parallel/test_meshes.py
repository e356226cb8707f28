"""Every mesh of conf/parallel, for 64 processes that are only imagined."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_every_mesh_shards_a_model_among_64() -> None:
    """What the first process holds is its part, and what the plan says."""
    command = [sys.executable, str(ROOT / "tools" / "meshes.py"), "ranks=64", "model=toy"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()[3:]}
    assert rows.keys() == {path.stem for path in (ROOT / "conf" / "parallel").glob("*.yaml")}
    whole = float(rows["none"][3])
    for replicate, shard, context, weights, _, everything, _, plan, _ in rows.values():
        assert int(replicate) * int(shard) * int(context) == 64
        assert float(weights) == pytest.approx(whole / int(shard) / int(context), abs=0.0011)
        assert everything == plan
