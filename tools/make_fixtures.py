"""Write what today's code writes, to be opened by the tests of later versions for ever.

    python tools/make_fixtures.py tests/fixtures/before

A VAE, a DiT's run of some steps, an adapter, a recorded video, a set of two clips, and numbers that come of opening
them. The commands are those of tests/checkpoint/before.py.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.checkpoint import before  # noqa: E402
from tests.ingest.nasty import good  # noqa: E402


def main(out: Path) -> int:
    """Make all of it in a folder of its own, and copy what is kept."""
    if out.exists():
        print(f"make_fixtures: error: {out} is there already, and tests hold what is in it", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="fixtures-") as scratch:
        place = Path(scratch) / "before"
        place.mkdir()
        make(place)
        shutil.copytree(place, Path(scratch) / "again")
        write_expected(Path(scratch) / "again", place / before.EXPECTED)
        shutil.copytree(place, out)
    return 0


def make(place: Path) -> None:
    """The files, by the commands."""
    before.run(place, *before.VAE, before.loop(before.STEPS))
    (place / "vae" / "model" / "vae.safetensors").rename(place / "vae.safetensors")
    before.run(place, *before.DIT, before.loop(before.STEPS))
    before.run(place, *before.GENERATE)
    before.run(place, "generate", "recipe=recipe/ball.mp4", "model=run", "out=recipe/frames/")
    (place / "clips").mkdir()
    for number, caption in enumerate((before.PROMPT, "a small blue cube spins on a white ground")):
        good(place / "clips" / f"{number}.mp4", number, frames=6)
        (place / "clips" / f"{number}.txt").write_text(caption)
    before.run(place, *before.INGEST)
    before.run(place, *before.ADAPTER, before.loop(before.STEPS), "run_dir=lora")
    shutil.copytree(place / "lora" / "model", place / "adapter" / "model")
    before.run(place, "export", "model=lora", "format=adapter", "out=adapter/adapter.safetensors")
    for left in ("cache", "lora", "set/.ingest", "vae", "run/samples"):  # made anew where they are wanted
        shutil.rmtree(place / left, ignore_errors=True)
    for lock in place.rglob(".lock"):
        lock.unlink()


def write_expected(copy: Path, path: Path) -> None:
    """The numbers that come of opening a copy."""
    numbers = {**before.videos(copy), "loss on the set": before.first_loss_on_the_set(copy)}
    numbers["loss"], numbers["changes"] = before.resumed(copy)
    path.write_text(json.dumps(numbers) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("make_fixtures: name the folder to write")
    sys.exit(main(Path(sys.argv[1])))
