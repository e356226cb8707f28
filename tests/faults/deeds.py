"""The long commands, as small as they can be, and what must be the same after a kill and another run."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pyarrow import parquet
from safetensors import safe_open
from torch import Tensor

from tests.faults.killing import Ended, Parent
from tests.ingest.commands import HERE
from tests.ingest.commands import folder as videos
from tests.tiny import CAPTIONS, tiny_pipeline
from tests.train import tiny
from videodit.checkpoint.latents import LatentCache
from videodit.cli.main import COMMANDS
from videodit.data.video import read

LAST = 4  # step
# A record between two checkpoints, so that its means go over a resume.
LOOP = f"loop={{steps: {LAST}, clip_norm: 1.0, max_bad: 5, log_every: 3, save_every: 2, sample_every: 2}}"
RUN = [LOOP, "run_dir=run", "cache=cache", "workers=0", "memory=off"]
TINY = [*tiny.COMMAND, *RUN]
VAE = [*tiny.VAE_COMMAND, *RUN, "crops.pixels=9216", "limit=8"]
BEFORE = ",".join(f'"{word}"' for word in [*VAE, "run_dir=run/vae"])
TIMED = {"time", "clips/s", "tokens/s", "mfu", "data wait", "memory GiB", "seconds", "origin", "created", "took"}
OWN = ("user",)  # below a folder: what is kept for the user, not for the command


class Deed(NamedTuple):
    """A command line. begin: kills begin at the first operation that says so; start: a folder of `inputs` that it
    starts with; complete: what another run says that finds all done, and then changes nothing.
    """

    name: str
    arguments: Sequence[str]
    begin: str = ""
    ranks: int = 1
    start: str = ""
    complete: str = ""


class Tried(NamedTuple):
    """A kill: before which operation of which rank, and what was wrong afterwards."""

    deed: str
    place: tuple[int, int]
    operation: str
    faults: list[str]


def deeds(inputs: Path) -> dict[str, Deed]:
    """All of them, by name; `inputs`: see `prepare`."""
    end, done = f"step-{LAST:09d}", f"complete at step {LAST}"
    given, model = f"vae_from={inputs / 'vae-0.safetensors'}", f"model={inputs / 'model'}"
    data = [word for word in tiny.COMMAND if word.startswith("data")]
    asked = [model, "size=40x24", "frames=5"]
    encoding = ["encode", *data, given, "cache=cache", "workers=0"]
    ingesting = [
        "ingest",
        str(inputs / "videos"),
        "out=set",
        f"vae={inputs / 'vae-0.safetensors'}",
        "encode.bundle=2",
        "shape.areas=[1024]",
        "heldout_share=0.3",
    ]
    found = [
        Deed("train dit", ["train", *TINY, given], end, 1, "encoded", done),
        Deed("train vae", ["train", *VAE], end, 1, "", done),
        Deed("train after", ["train", *TINY, "vae_from=run/vae", f"after=[[{BEFORE}]]"], f"vae/checkpoints/.{end}", 1,
             "", done),
        Deed("train dit on two", ["train", *TINY, given], end, 2, "encoded", done),
        Deed("train vae on two", ["train", *VAE], end, 2, "", done),
        Deed("encode", encoding),
        Deed("encode on two", encoding, ranks=2),
        Deed("ingest", [*ingesting, *HERE]),
        Deed("ingest with workers", [*ingesting, "engine.workers=2"]),
        Deed("generate", ["generate", f"prompts={inputs / 'prompts.jsonl'}", "out=clips", "sheet=sheet.png", *asked]),
        Deed("decode", ["decode", "waiting/a.latents.safetensors", "out=a.mp4", "keep=true"], start="denoised"),
        Deed("evaluate", ["evaluate", model, "out=evaluation", "prompts=[ordinary]", "count=2", "shapes=0", "clips=0",
                          "losses=0", "steps=1", "device=cpu"]),
        Deed("export", ["export", model, "out=exported", "dtype=float16"]),
        Deed("export diffusers", ["export", model, "out=exported", "format=diffusers"]),
        Deed("report", ["report", "run"], start="trained"),
    ]  # fmt: skip
    return {deed.name: deed for deed in found}


def prepare(parent: Parent, place: Path) -> Path:
    """What the commands start from, made once -> the folder of inputs."""
    inputs = place / "inputs"
    inputs.mkdir()
    tiny.saved_vae(inputs)
    tiny_pipeline(inputs / "model")
    videos(inputs / "videos", 3)
    lines = [json.dumps({"prompt": caption, "seed": number}) for number, caption in enumerate(CAPTIONS)]
    (inputs / "prompts.jsonl").write_text("\n".join(lines))
    known = deeds(inputs)
    done(parent.run(known["encode"].arguments, inputs / "encoded"))
    shutil.copytree(inputs / "encoded", inputs / "trained")
    done(parent.run(known["train dit"].arguments, inputs / "trained"))
    waiting = inputs / "denoised" / "waiting"
    asked = ["generate", CAPTIONS[0], f"model={inputs / 'model'}", "size=40x24", "frames=5", "out=waiting/a.mp4"]
    whole = done(parent.run(asked, inputs / "generated"))
    decoding = next(n for n, line in enumerate(whole.operations[0], 1) if line.endswith(".mp4"))
    parent.run(asked, inputs / "denoised", at=decoding)
    for left in waiting.glob(".*"):
        left.unlink()
    assert [path.name for path in waiting.iterdir()] == ["a.latents.safetensors"]
    return inputs


class Whole(NamedTuple):
    """A command that nothing happened to: its operations by rank, and what it left."""

    deed: Deed
    operations: list[list[str]]
    outcome: dict[str, Any]

    def places(self) -> list[tuple[int, int]]:
        """(rank, operation) of every kill that may be tried."""
        found = []
        for rank, lines in enumerate(self.operations):
            first = next((n for n, line in enumerate(lines, 1) if self.deed.begin in line), len(lines) + 1)
            found += [(rank, number) for number in range(first, len(lines) + 1)]
        return found


def whole(parent: Parent, inputs: Path, name: str, place: Path) -> Whole:
    """Run a command that is left alone."""
    deed = deeds(inputs)[name]
    begin(inputs, deed, place)
    ended = done(parent.run(deed.arguments, place, ranks=deed.ranks))
    return Whole(deed, ended.operations, outcome(place))


def tried(
    parent: Parent, inputs: Path, one: Whole, at: tuple[int, int], place: Path, by: int = signal.SIGKILL
) -> Tried:
    """Kill the command there, run it again, and compare; the folder goes if nothing was wrong.

    `by` another signal it is asked to stop: it has to clear up, and say how to go on.
    """
    deed, (rank, number), faults = one.deed, at, []
    begin(inputs, deed, place)
    killed = parent.run(deed.arguments, place, at=number, rank=rank, ranks=deed.ranks, by=by)
    if killed.codes[rank] not in (ends_with(deed, by), 0):  # 0: threads made fewer operations, or it was at its end
        faults.append(f"ended with {killed.codes}: {last(killed)}")
    if by != signal.SIGKILL:
        if deed.ranks == 1:  # the other processes are killed, and may leave what they were at
            faults += [f"left {left.relative_to(place)}" for left in place.rglob("*.part")]
        if killed.codes[rank] and "the same command" not in killed.told or "Traceback" in killed.told:
            faults.append(f"said {killed.told}")
    faults += [f"after the kill: {fault}" for fault in unreadable(place)]
    again = parent.run(deed.arguments, place, ranks=deed.ranks)
    if not again.fine:
        faults.append(f"run again, it ended with {again.codes}: {last(again)}")
    now = outcome(place)
    seen, wanted = (now, one.outcome) if by == signal.SIGKILL else (at_the_end(now), at_the_end(one.outcome))
    apart = [name for name in sorted(seen.keys() | wanted) if seen.get(name) != wanted.get(name)]
    faults += [f"another {name}" for name in apart]
    if deed.complete:
        third = parent.run(deed.arguments, place, ranks=deed.ranks)
        if deed.complete not in third.told or outcome(place) != now:
            faults.append(f"a third run did something: {last(third)}")
    lines = one.operations[rank]
    if not faults:
        shutil.rmtree(place)
        shutil.rmtree(f"{place}.notes")
    return Tried(deed.name, at, lines[number - 1] if number <= len(lines) else "", faults)


def ends_with(deed: Deed, by: int) -> int:
    """The exit code of a command that a signal stops."""
    goes_on = bool(COMMANDS[deed.arguments[0]].again)
    return {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 75 if goes_on else 143}[by]


def chosen(one: Whole, seed: int, count: int) -> list[tuple[int, int]]:
    """Some of a command's places, by a seed."""
    places = one.places()
    return sorted(random.Random(f"{seed} {one.deed.name}").sample(places, min(count, len(places))))


def begin(inputs: Path, deed: Deed, place: Path) -> None:
    """Make the folder that a command is run in."""
    if deed.start:
        shutil.copytree(inputs / deed.start, place)
    place.mkdir(exist_ok=True)


def done(ended: Ended) -> Ended:
    """The same, which must have come to its end."""
    assert ended.fine, ended.told
    return ended


def last(ended: Ended) -> str:
    """The last line that a run printed."""
    return (ended.told.strip().splitlines() or [""])[-1]


def outcome(folder: Path) -> dict[str, Any]:
    """Everything below a folder that does not depend on the time or on who of several did it, by its path."""
    found: dict[str, Any] = {}
    for name, path in files(folder):
        if not path.name.startswith("shard-"):
            found[name] = content(path)
    for place in sorted({path.parent for path in folder.rglob("shard-*.safetensors")}):  # which holds what may differ
        name = f"{place.relative_to(folder).as_posix()}/shards"
        found[name] = gathered(place) if "checkpoints" in place.parts else latents(place)
    return found


def at_the_end(found: dict[str, Any]) -> dict[str, Any]:
    """An outcome without the checkpoints before the last: a run that is asked to stop saves where it is."""
    return {name: one for name, one in found.items() if "checkpoints/step-" not in name or f"step-{LAST:09d}" in name}


def gathered(place: Path) -> dict[str, str]:
    """All the tensors in a folder's shards."""
    return {name: tensor for path in sorted(place.glob("shard-*")) for name, tensor in content(path)[1].items()}


def latents(place: Path) -> list[tuple[str, str, Near]]:
    """The keys, captions and latents of a cache. Clips that pass together otherwise are the same but for rounding."""
    cache = LatentCache(place)
    entries = sorted((entry.name, number) for number, entry in enumerate(cache.entries))
    return [(key, cache[number][1], Near(cache[number][0].float())) for key, number in entries]


@dataclass(frozen=True, eq=False)
class Near:
    """A tensor that equals what is the same but for rounding."""

    tensor: Tensor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Near) and torch.allclose(self.tensor, other.tensor, rtol=1e-3, atol=1e-3)


def unreadable(folder: Path) -> Iterator[str]:
    """What stands under its final name and is not whole."""
    for name, path in files(folder):
        if not any(part.startswith(".") for part in Path(name).parts) and not name.endswith(".new"):
            try:
                content(path)
            except Exception as error:
                yield f"{name}: {type(error).__name__} {error}"


def files(folder: Path) -> Iterator[tuple[str, Path]]:
    """The files below a folder with their relative names, and its empty folders."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not name.startswith(OWN) and (path.is_file() or not any(path.iterdir())):
            yield name, path


def content(path: Path) -> Any:
    """What is in a file, without times and orders that mean nothing; an exception if it is not whole."""
    if path.is_dir():
        return "empty"
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            header = {key: untimed(json.loads(text)) for key, text in file.metadata().items() if key == "videodit"}
            return header, {name: digest(file.get_tensor(name).numpy().tobytes()) for name in sorted(file.keys())}
    if path.suffix == ".mp4":
        return digest(read(path)[0].tobytes())
    if path.suffix == ".json":
        return untimed(json.loads(path.read_text()))
    if path.suffix == ".jsonl":
        lines = [untimed(json.loads(line)) for line in path.read_text().splitlines()]
        return sorted(lines, key=json.dumps) if path.parent.name == ".ingest" else lines  # workers end as they may
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pylist()
    if path.suffix == ".html":
        assert path.read_text().rstrip().endswith("</html>"), "torn"
        return "a page"
    return digest(path.read_bytes())


def untimed(value: Any) -> Any:
    """JSON without what is about time, at any depth."""
    if isinstance(value, dict):
        return {key: untimed(item) for key, item in value.items() if key not in TIMED}
    return [untimed(item) for item in value] if isinstance(value, list) else value


def digest(content: bytes) -> str:
    """A short name for bytes."""
    return hashlib.sha256(content).hexdigest()[:16]
