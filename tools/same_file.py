"""Make a recorded video again in many processes, among random allocations, and count how many files come of it.

    python tools/same_file.py VIDEO PROCESSES [model=…]

Each process first fills memory with random values and frees some of it, so that whatever reads memory that it did not
set reads something else each time. Exit code 1 where a file differs from VIDEO.
"""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path


def main(video: Path, processes: int, *words: str) -> int:
    """Print how often each file came."""
    found = Counter(again(number, video, *words) for number in range(processes))
    own = digest(video)
    for name, count in found.most_common():
        print(f"{name} {'the same file' if name == own else 'another file'}, {count} times")
    return int(set(found) != {own})


def again(number: int, video: Path, *words: str) -> str:
    """The digest of what a process of its own makes of the recipe."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "again.mp4"
        command = [sys.executable, __file__, "--child", str(number), f"recipe={video}", f"out={out}", *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return digest(out)


def digest(path: Path) -> str:
    """The first figures of a file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def child(seed: str, *words: str) -> int:
    """Fill memory, free every second piece of it, and generate."""
    import numpy as np
    import torch

    from videodit.cli.main import main as videodit

    draw = random.Random(seed)
    sizes = [draw.randrange(1, 2 ** draw.randrange(8, 23)) for _ in range(400)]
    bytes_of = np.random.default_rng(int(seed))
    kept = [bytes_of.integers(0, 255, size, dtype=np.uint8) for size in sizes]
    kept += [torch.rand(size // 4 + 1) for size in sizes]
    draw.shuffle(kept)
    del kept[::2]
    return videodit(["generate", *words])


if __name__ == "__main__":
    if sys.argv[1] == "--child":
        sys.exit(child(*sys.argv[2:]))
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))
