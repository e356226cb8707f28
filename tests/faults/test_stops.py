"""Asked to stop in any phase, a long command keeps what is done, leaves nothing half-written, and goes on to its end.

A phase is a call that it makes: before that the signal comes. `test_kills` does the same before any file operation.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.faults.deeds import at_the_end, deeds, ends_with, outcome
from tests.ingest.commands import folder as videos
from tests.tiny import CAPTIONS, tiny_pipeline
from tests.train import tiny
from videodit.cli.main import main

LOSS = "videodit.train.{}_step.{}Objective.loss"
PHASES = {  # by command: in which phase, before which call of what, and what is kept by then, as a pattern of files
    "encode": {
        "reading": ("videodit.train.encode.fetch", 2, "cache/shard-*"),
        "encoding": ("videodit.train.encode._Encoder._encoded", 2, "cache/shard-*"),
        "writing": ("videodit.checkpoint.latents.save_tensors", 1, "cache/shard-*"),
    },
    "train vae": {
        "first clips": ("videodit.train.build.first_clips", 1, ""),
        "first step": (LOSS.format("vae", "VAE"), 1, "run/checkpoints/step-000000002"),
        "a step": (LOSS.format("vae", "VAE"), 2, "run/checkpoints/step-*"),
        "a checkpoint": ("videodit.parallel.store.Checkpoints.save", 1, "run/checkpoints/step-*"),
        "the model": ("videodit.train.loop.Run.publish", 1, "run/checkpoints/step-000000002"),
        "samples": ("videodit.train.samples.sheet", 1, "run/checkpoints/step-000000002"),
        "last samples": ("videodit.train.samples.sheet", 2, "run/checkpoints/step-000000004"),
    },
    "train after": {
        "the run before": (LOSS.format("vae", "VAE"), 3, "run/vae/checkpoints/step-*"),
        "its end": ("videodit.train.run.prepare", 2, "run/vae/model/vae.safetensors"),
        "encoding": ("videodit.train.encode._Encoder._encoded", 2, "run/vae/model/vae.safetensors"),
        "a step": (LOSS.format("dit", "Flow"), 2, "run/checkpoints/step-*"),
        "samples": ("videodit.train.samples.sheet", 3, "run/checkpoints/step-000000002"),
    },
    "generate": {
        "texts": ("videodit.generate.Pipe.encode", 1, ""),
        "denoising": ("videodit.generate.velocity.check_finite", 2, ""),
        "latents": ("videodit.generate.waiting.save_tensors", 1, "clips/0000.latents.safetensors"),
        "decoding": ("videodit.generate.Pipe.decode", 1, "clips/0000.latents.safetensors"),
        "writing": ("videodit.generate.video.write", 2, "clips/0000.mp4"),
        "a record": ("videodit.generate.video.replacing", 2, "clips/0001.mp4"),
        "the sheet": ("videodit.cli.generate.sheet", 1, "clips/0001.mp4"),
    },
    "decode": {
        "decoding": ("videodit.generate.Pipe.decode", 1, "waiting/*.latents.safetensors"),
        "writing": ("videodit.generate.video.write", 1, "waiting/*.latents.safetensors"),
    },
    "ingest": {
        "listing": ("videodit.ingest.run.Root.list", 1, ""),
        "scan": ("videodit.ingest.scan.Scan.__call__", 2, "set/.ingest/scan.jsonl"),
        "cut": ("videodit.ingest.stages.Cut.__call__", 2, "set/.ingest/cut.jsonl"),
        "measure": ("videodit.ingest.stages.Measure.__call__", 2, "set/.ingest/measure.jsonl"),
        "caption": ("videodit.ingest.stages.Caption.__call__", 1, "set/.ingest/measure.jsonl"),
        "encode": ("videodit.ingest.encode.Encode._latents", 2, "set/cache/shard-*"),
        "page": ("videodit.ingest.build.page", 1, "set/cache/shard-*"),
        "the set": ("videodit.ingest.build.write_set", 1, "set/cache/shard-*"),
    },
    "export": {
        "a network": ("videodit.checkpoint.export.save_tensors", 2, "exported/dit.safetensors"),
        "the last file": ("videodit.checkpoint.export.write_json", 1, "exported/dit.safetensors"),
    },
    "evaluate": {
        "prompts": ("videodit.cli.evaluate.follow", 1, ""),
        "its pages": ("videodit.cli.evaluate.page", 1, ""),
        "the report": ("videodit.cli.evaluate.summary", 1, "evaluation/report.json"),
    },
}
SLOW = ("evaluate", "train after")
BRIEF = {"train vae": ("a step", "samples")}  # phases of slow commands that are tried in every run of the tests


def cases(slow: bool) -> list[tuple[str, str, int]]:
    """Command, phase, signal."""
    found = [(name, phase) for name, phases in PHASES.items() for phase in phases]
    brief = [(name, phase) for name, phase in found if name not in SLOW and phase in BRIEF.get(name, PHASES[name])]
    quick = [(name, phase, signal.SIGTERM) for name, phase in brief]
    every = [(name, phase, by) for name, phase in found for by in (signal.SIGTERM, signal.SIGINT)]
    return [case for case in every if case not in quick] if slow else quick


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("stops")
    tiny.saved_vae(place)
    tiny_pipeline(place / "model")
    videos(place / "videos", 3)
    lines = [json.dumps({"prompt": caption, "seed": number}) for number, caption in enumerate(CAPTIONS)]
    (place / "prompts.jsonl").write_text("\n".join(lines))
    return place


@contextmanager
def inside(place: Path) -> Iterator[None]:
    """In a folder, with the user's own below it."""
    place.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("VIDEODIT_CACHE", str(place / "user"))
        yield


def begin(name: str, inputs: Path, place: Path) -> list[str]:
    """Make a command's folder -> its words."""
    if name == "decode":
        with inside(place), pytest.MonkeyPatch.context() as patch:
            patch.setattr("videodit.generate.Pipe.decode", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            asked = ["generate", CAPTIONS[0], f"model={inputs / 'model'}", "size=40x24", "frames=5"]
            assert main([*asked, "out=waiting/a.mp4"]) == 130
    return list(deeds(inputs)[name].arguments)


@pytest.fixture(scope="module")
def whole(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a command leaves to which nothing happens."""

    @cache
    def made(name: str) -> dict[str, Any]:
        place = tmp_path_factory.mktemp("whole") / "place"
        words = begin(name, inputs, place)
        with inside(place):
            assert main(words) == 0
        return outcome(place)

    return made


@contextmanager
def asked_before(call: str, number: int, by: int) -> Iterator[list[int]]:
    """Get the signal before a call of that number. -> the calls so far."""
    calls: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        module, _, name = call.rpartition(".")
        owner = _object(module)
        original = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            calls.append(len(calls) + 1)
            if calls[-1] == number:
                signal.raise_signal(by)
            return original(*args, **kwargs)

        patch.setattr(owner, name, wrapped)
        yield calls


def _object(dotted: str) -> Any:
    try:
        return import_module(dotted)
    except ModuleNotFoundError:
        module, _, name = dotted.rpartition(".")
        return getattr(import_module(module), name)


def stopped(name: str, phase: str, by: int, inputs: Path, whole: Any, place: Path, capsys: Any) -> None:
    """Stop there, look, go on, compare."""
    call, number, kept = PHASES[name][phase]
    words, before = begin(name, inputs, place), {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    with inside(place):
        capsys.readouterr()
        with asked_before(call, number, by) as calls:
            code = main(words)
        told = capsys.readouterr().err
        assert len(calls) >= number, "it did not come so far"
        assert code == ends_with(deeds(inputs)[name], by), told
        assert "the same command" in told and "Traceback" not in told, told
        assert not [path for path in place.rglob("*") if path.name.endswith((".part", "lock"))]
        assert not kept or list(place.glob(kept)), sorted(str(path) for path in place.rglob("*"))
        assert main(words) == 0
    assert at_the_end(outcome(place)) == at_the_end(whole(name))
    assert {one: signal.getsignal(one) for one in before} == before
    assert os.getcwd() != str(place)


@pytest.mark.parametrize(("name", "phase", "by"), cases(slow=False), ids=lambda value: str(value))
def test_a_stop(
    name: str, phase: str, by: int, inputs: Path, whole: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped(name, phase, by, inputs, whole, tmp_path / "place", capsys)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "phase", "by"), cases(slow=True), ids=lambda value: str(value))
def test_another_stop(
    name: str, phase: str, by: int, inputs: Path, whole: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped(name, phase, by, inputs, whole, tmp_path / "place", capsys)
