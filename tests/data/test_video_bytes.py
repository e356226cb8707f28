"""Equal frames are one file: in other processes, whatever is in the memory that they get."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# Writes the same clips in a process whose memory holds other values, between allocations; prints the files' hashes.
WRITE = """
import hashlib, sys
from pathlib import Path
import numpy as np
from videodit.data.sheet import sheet
from videodit.data.video import write
seed, folder = int(sys.argv[1]), Path(sys.argv[2])
memory = np.random.default_rng(seed)
clips = np.random.default_rng(0)
def fill():
    kept = [memory.integers(0, 255, memory.integers(1, 2**18), dtype=np.uint8) for _ in range(60)]
    return kept[::2]
for frames, height, width in ((45, 64, 96), (9, 33, 47), (5, 2, 2), (25, 90, 160)):
    tiles = np.kron(clips.normal(128, 40, (40, 60, 3)), np.ones((8, 8, 1)))
    moved = [np.roll(tiles, (2 * t, 3 * t), (0, 1))[:height, :width] for t in range(frames)]
    frames = np.stack(moved).clip(0, 255).astype(np.uint8)
    held = fill()
    write(folder / "a.mp4", frames, 8.0, metadata={"comment": "x" * 3000, "b": "1", "a": "2"})
    sheet(folder / "a.png", [frames], ["one"], 5)
    print(*(hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("a.mp4", "a.png")))
"""


def test_equal_frames_are_one_file_in_any_process(tmp_path: Path) -> None:
    def hashes(seed: int) -> str:
        command = [sys.executable, "-c", WRITE, str(seed), str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    found = {hashes(seed) for seed in range(6)}
    assert len(found) == 1 and len(found.pop().split()) == 8
