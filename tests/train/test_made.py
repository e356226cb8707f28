"""What follows from a checkpoint is made once, by the next start if this one ended before."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.tiny import tiny_pipeline
from tests.train.runs import Regression, Rows, alone, clips, run
from videodit.checkpoint.find import describe
from videodit.checkpoint.parts import FILES
from videodit.checkpoint.pretrained import Part
from videodit.checkpoint.store import save_model, save_tensors
from videodit.errors import InputError, Interrupted
from videodit.parallel.store import Checkpoints
from videodit.track.jsonl import Jsonl, records
from videodit.track.names import PROMPTS
from videodit.track.tracker import Tracker
from videodit.train.folder import start_over
from videodit.train.loop import Run
from videodit.train.made import FILE
from videodit.untrusted import read_json

TIMED = ("time", "clips/s", "tokens/s", "data wait", "memory GiB", "seconds")


class Published(Regression):
    """Writes its averages; `fails`: the step of which it does not come to that."""

    def __init__(self, fails: int = 0) -> None:
        super().__init__()
        self.fails, self.steps = fails, []

    def publish(self, folder: Path, averages: dict[str, Tensor], step: int) -> None:
        self.steps.append(step)
        if step == self.fails:
            raise KeyboardInterrupt
        save_tensors(folder / "net.safetensors", averages, {"step": step})


def sampler(folder: Path, tracker: Tracker, made: list[int], fails: int = 0) -> Callable[[int], float]:
    """Samples that are a file and two records; the second is missing at the step of which they fail."""

    def sample(step: int) -> float:
        made.append(step)
        tracker.scalars(step, {"heldout/loss": step / 10})
        if step == fails:
            raise KeyboardInterrupt
        (folder / "samples").mkdir(exist_ok=True)
        (folder / "samples" / f"step-{step:09d}.png").write_text(str(step))
        tracker.table(step, PROMPTS, ["prompt"], [["a ball"]])
        return step / 10

    return sample


def one(folder: Path, *, model_fails: int = 0, samples_fail: int = 0, **settings: int) -> tuple[Run, list[int]]:
    """A run of 6 steps, a checkpoint every 2 and samples every 4, with a record on disk; the steps it samples at."""
    folder.mkdir(exist_ok=True)
    tracker, made = Jsonl(path=folder / "metrics.jsonl"), []
    numbers = {"steps": 6, "sample_every": 4, "log_every": 2, **settings}
    sample = sampler(folder, tracker, made, samples_fail)
    return run(folder, objective=Published(model_fails), tracker=tracker, sample=sample, **numbers), made


def kept(folder: Path) -> list[dict]:
    """A run's records less what is about time."""
    lines = records(folder / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in TIMED} for line in lines]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run, but for what depends on the time; of tensors what follows their header, whose order is
    any.
    """
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "metrics.jsonl"]
    found = {}
    for path in files:
        content = path.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little") if path.suffix == ".safetensors" else 0
        found[str(path.relative_to(folder))] = re.sub(rb',?\s*"seconds": [\d.e+-]+', b"", content[start:])
    return found


@pytest.mark.parametrize("cut", [
    {"model_fails": 6}, {"samples_fail": 6}, {"model_fails": 4}, {"samples_fail": 4},
])  # fmt: skip
def test_the_next_start_does_what_is_undone(tmp_path: Path, cut: dict[str, int]) -> None:
    """At the last step and in the middle, of the model and of samples that had begun; and the one after, nothing."""
    whole, _ = one(tmp_path / "whole")
    assert whole.fit() == 0.6
    with pytest.raises(KeyboardInterrupt):
        one(tmp_path / "cut", **cut)[0].fit()
    again, _ = one(tmp_path / "cut")
    assert again.fit() == 0.6
    assert kept(tmp_path / "cut") == kept(tmp_path / "whole")
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert {what: entry["step"] for what, entry in read_json(tmp_path / "cut" / FILE).items()} == {
        "model": 6, "samples": 6,
    }  # fmt: skip
    before = contents(tmp_path)
    third, made = one(tmp_path / "cut")
    assert third.fit() == 0.6, "the measure of the samples, which it does not make again"
    assert made == third.objective.steps == third.objective.numbers == [] and contents(tmp_path) == before


@pytest.mark.parametrize("gone", ["model/net.safetensors", "samples/step-000000006.png", FILE])
def test_what_was_deleted_is_made_again(tmp_path: Path, gone: str) -> None:
    one(tmp_path)[0].fit()
    before, lines = contents(tmp_path), kept(tmp_path)
    (tmp_path / gone).unlink()
    again, _ = one(tmp_path)
    again.fit()
    assert again.objective.numbers == [] and contents(tmp_path) == before and kept(tmp_path) == lines


def test_a_model_of_a_checkpoint_that_never_came_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So are its samples forgotten, and those of the step before are not made twice."""
    save = Checkpoints.save
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", lambda of, step, *rest: save(of, step, *rest) if step < 6 else None)
        one(tmp_path)[0].fit()
    assert read_json(tmp_path / FILE)["model"]["step"] == 6
    again, made = one(tmp_path, steps=5)
    again.fit()
    assert again.objective.steps == [4, 5] and made == [5]
    assert [read_json(tmp_path / FILE)[what]["step"] for what in ("model", "samples")] == [5, 5]


def test_a_signal_at_a_step_of_samples_leaves_them_to_the_next_start(tmp_path: Path) -> None:
    trained, made = one(tmp_path / "cut")
    advance = trained.advance

    def told(micro: list) -> object:
        if trained.step == 3:
            signal.raise_signal(signal.SIGTERM)
        return advance(micro)

    trained.advance = told
    with pytest.raises(Interrupted, match="stopped at step 4"):
        trained.fit()
    assert made == []
    again, made = one(tmp_path / "cut")
    again.fit()
    one(tmp_path / "whole")[0].fit()
    assert made == [4, 6] and kept(tmp_path / "cut") == kept(tmp_path / "whole")


def test_recorded_means_over_a_resume_are_those_of_all_steps(tmp_path: Path) -> None:
    """A checkpoint between two records: the second one has the mean of the steps on both its sides."""
    one(tmp_path / "whole", log_every=5, steps=10, save_every=3)[0].fit()
    with pytest.raises(KeyboardInterrupt):
        one(tmp_path / "cut", log_every=5, steps=10, save_every=3, samples_fail=8)[0].fit()
    again, _ = one(tmp_path / "cut", log_every=5, steps=10, save_every=3)
    again.fit()
    assert "loss" in kept(tmp_path / "whole")[-3] and kept(tmp_path / "cut") == kept(tmp_path / "whole")


def test_skipped_clips_are_told_once_over_a_resume(tmp_path: Path) -> None:
    def source(start: int, stop: int) -> Iterator[list[Rows]]:
        for number in range(start, stop):
            yield [Rows(clips(number), [(f"{number % 4}.mp4", "not a video")])]

    def skipping(folder: Path, fails: int = 0) -> Run:
        folder.mkdir(exist_ok=True)
        return run(folder, objective=Published(fails), source=source)

    skipping(tmp_path / "whole").fit()
    with pytest.raises(KeyboardInterrupt):
        skipping(tmp_path / "cut", 4).fit()
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-000000004")
    with (tmp_path / "cut" / "skipped.jsonl").open("a") as file:
        file.write('{"step": 5, "pa')
    skipping(tmp_path / "cut").fit()
    lines = (tmp_path / "whole" / "skipped.jsonl").read_text()
    assert (tmp_path / "cut" / "skipped.jsonl").read_text() == lines and len(lines.splitlines()) == 4


def test_starting_over_forgets_what_was_made(tmp_path: Path) -> None:
    one(tmp_path)[0].fit()
    start_over(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_is_damaged_is_named(tmp_path: Path) -> None:
    one(tmp_path)[0].fit()
    (tmp_path / FILE).write_text(json.dumps({"model": {"step": "six", "files": [], "measure": None}}))
    with pytest.raises(InputError, match=f"{FILE}: model.step"):
        one(tmp_path)[0].fit()


def test_what_a_killed_start_left_is_tidied(tmp_path: Path) -> None:
    one(tmp_path)[0].fit()
    before = contents(tmp_path)
    (tmp_path / "checkpoints" / "step-000000002").mkdir()
    shutil.copy(tmp_path / "checkpoints" / "step-000000004" / "state.json", tmp_path / "checkpoints" / "step-000000002")
    for left in (".config.json.host-1.part", "model/.net.safetensors.host-1.part", "samples/.step.png.a.part",
                 "checkpoints/.step-000000008.part/state.json"):  # fmt: skip
        (tmp_path / left).parent.mkdir(exist_ok=True)
        (tmp_path / left).write_text("{}")
    one(tmp_path)[0].fit()
    assert contents(tmp_path) == before
    assert Checkpoints(folder=tmp_path / "checkpoints", keep=2, mesh=alone()).latest().info["step"] == 6


def test_a_model_of_two_steps_is_half_written(tmp_path: Path) -> None:
    """Only what trains together must be of one step: the VAE is of another training."""
    tiny_pipeline(tmp_path)

    def write(name: str, step: int) -> None:
        network = Part.own(tmp_path / FILES[name]).load()
        state = {key: value + 1 for key, value in network.state_dict().items()}
        save_model(tmp_path / FILES[name], network, state=state, step=step)

    for name, step in (("dit", 4), ("text", 4), ("vae", 9)):
        write(name, step)
    parts = describe(str(tmp_path))[1]
    assert parts["dit"].step == 4 and "step" not in parts["dit"].spec
    write("text", 6)
    with pytest.raises(InputError, match="is half written: run the training's command again"):
        describe(str(tmp_path))


def test_a_file_of_an_older_version_keeps_its_fingerprint(tmp_path: Path) -> None:
    """Adapters know their base by it; the weights are the same."""
    tiny_pipeline(tmp_path)
    path = tmp_path / FILES["text"]
    part = Part.own(path)
    save_model(path, part.load(), step=4)
    assert Part.own(path).fingerprint == part.fingerprint
    save_model(path, part.load(), state={k: torch.zeros_like(v) for k, v in part.load().state_dict().items()}, step=4)
    assert Part.own(path).fingerprint != part.fingerprint and Part.own(path).step == 4
