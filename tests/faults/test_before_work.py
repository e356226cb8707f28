"""What a command could not do is told in a line that names the key, before it or a run that comes first begins."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.train import tiny
from videodit.atomic import check_room
from videodit.cli.main import main
from videodit.config import conf_dir
from videodit.errors import InputError

FIRST = [word for word in tiny.VAE_COMMAND if word.startswith("vae")]
BEFORE = ",".join(f'"{word}"' for word in [*tiny.VAE_COMMAND, "run_dir=first", "workers=0", "loop.steps=1"])
TRAIN = [*tiny.COMMAND, f"after=[[{BEFORE}]]", "vae_from=first", "run_dir=run", "cache=cache", "workers=0"]
FAULTS = {  # what is typed beside TRAIN -> how the line goes on
    "optim.make._target_=videodit.nope.x": "optim.make._target_=videodit.nope.x: cannot be imported",
    "optim.make._target_=nothing": "optim.make._target_=nothing: cannot be imported: No module named 'nothing'",
    "optim.make._target_=videodit.train.optim": "optim.make._target_=videodit.train.optim: it makes no objects",
    "+optim.make.nope=1": "optim.make: videodit.train.optim.muon: got an unexpected keyword argument 'nope'",
    "~flow.times.shift": "flow.times: videodit.train.dit_step.TrainingTimes: missing a required",
    "tracker.trackers.0._target_=a.b": "tracker.trackers.0._target_=a.b: cannot be imported: No module named 'a'",
    "+data.train.0.nope=1": "data.train.0: videodit.toy.world.ToyWorld: got an unexpected keyword argument 'nope'",
    "model._target_=a.b": "model._target_=a.b: cannot be imported",
    "model.dim=33": "model: dim=33 should divide into heads=2",
    "+model.nope=1": "model: nope: ",
    "model.time=never": "model: time: ",
    "model.channels=5": "vae_from=first: its latents have 4 channels, not 5",
    "text.heads=0": "text: heads: ",
    "freeze=[nope]": "freeze=nope: there is no such part, only dit, text",
    "samples.prompts=['']": "prompt",
    "request.steps=0": "steps",
    "loop.steps=0": "loop.steps=0: ",
    "stage=nope": "stage=nope: ",
    "precision=nope": "precision=nope: ",
    "device=nope": "device=nope",
    "device=meta": "device=meta: this machine has no such device",
    "+foo=1": "unknown key 'foo'",
    "+sede=1": "unknown key 'sede'; did you mean 'seed'?",
    "ema=1.5": "ema=1.5: must be below 1, not 1.5",
    "ema=nan": "ema=nan: ",
    "drop=2": "drop=2: must be at most 1",
    "seed=-1": "seed=-1: must be at least 0",
    "keep=0": "keep=0: must be at least 1",
    "workers=-1": "workers=-1: must be at least 0",
    "packs.tokens=0": "packs.tokens=0: must be at least 1",
    "packs.most=0": "packs.most=0: must be at least 1",
    "packs.whole=2": "packs.whole=2: must be at most 1",
    "optim.warmup=-3": "optim.warmup=-3: must be at least 0",
    "optim.make.lr=nan": "optim.make: Invalid learning rate: nan",
    "optim.make.muon_lr=-1": "optim.make: Learning rate should be >= 0 but is: -1",
    "vae_from=nope": "there is no VAE in nope: ",
    "cache=file/cache": "cache=file/cache",
    f"cache={'x' * 300}": "cache=xxx",
    "teacher={model:toy,steps:2,guidance:2.5}": "request: a student goes without guidance",
}
FAULTS_BEFORE = {  # the same, said of the run that comes first
    "vae._target_=a.b": "vae._target_=a.b: cannot be imported",
    "vae.base=0": "vae: base: ",
    "vae.spatial=[true]": "vae: spatial and temporal should have a value for each of 3 multipliers",
    "critic={_target_:videodit.models.critic.PatchCritic,nope:1}": "critic: videodit.models.critic.PatchCritic: ",
    "crops.crops.0.weight=-1": "crops.crops.0.weight=-1: must be above 0",
    "crops.crops.0.height=7": "crops.crops.0: ",
    "vae_loss.kl=-1": "vae_loss.kl=-1: must be at least 0",
    "crops.pixels=0": "crops.pixels=0: must be at least 1",
    "crops.crops.0._target_=a.b": "crops.crops.0._target_=a.b: cannot be imported",
    "freeze=[nope]": "freeze=nope: there is no such part",
    "run_dir=file/first": "run_dir=file/first",
    "loop.steps=0": "loop.steps=0: ",
}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    return tmp_path


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command says; it has done nothing."""
    assert main(words) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1, errors
    assert [path.name for path in Path().rglob("*")] == ["file"], "something was begun"
    return errors[0].removeprefix("videodit: error: ")


@pytest.mark.parametrize("typed", FAULTS, ids=lambda typed: typed[:40])
def test_of_a_training(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(["train", *TRAIN, typed], capsys).startswith(FAULTS[typed])


@pytest.mark.parametrize("typed", FAULTS_BEFORE, ids=lambda typed: typed[:40])
def test_of_a_training_that_comes_first(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = f'after=[[{BEFORE},"{typed}"]]'
    assert refused(["train", *TRAIN, before], capsys).startswith(FAULTS_BEFORE[typed])


def test_of_what_is_no_list_of_keys(capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(["train", *TRAIN, "after=[nope]"], capsys)
    assert told == "after=[nope,…]: each run that comes first is a list of its keys: after=[[stage=vae]]"


def disk(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """A disk with so many bytes free."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))


@pytest.mark.parametrize(("words", "folder"), [(TRAIN, "run"), ([*tiny.VAE_COMMAND, "run_dir=first"], "first")])
def test_a_disk_without_room_for_a_checkpoint(
    words: list[str], folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    disk(monkeypatch, 10_000)
    told = refused(["train", *words, *["loop.steps=1"]], capsys)
    assert re.fullmatch(rf"(first|{folder}): a checkpoint takes [\d.e-]+ GiB, and its disk has 9.31e-06 GiB free", told)


def test_a_disk_without_room_for_an_export(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    disk(monkeypatch, 10_000)
    assert "out: the export takes " in refused(["export", "model=toy", "out=out"], capsys)


def test_room_is_that_of_the_disk_that_a_folder_will_be_on(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    check_room(tmp_path / "not" / "there", free // 2, "half")
    with pytest.raises(InputError, match="there: twice takes .* GiB, and its disk has .* GiB free"):
        check_room(tmp_path / "not" / "there", free * 2, "twice")


OBJECTS = {
    "encode data=toy_small": ["data.train.0", "data.heldout.0"],
    "doctor data=toy_small": ["data.train.0", "optim.make", "flow.path"],
    "ingest nowhere out=set": ["cutter", "captioner", "embedder", "engine"],
}


@pytest.mark.parametrize("line", OBJECTS)
def test_of_other_commands(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each object that they are made of: nothing is read before."""
    for key in OBJECTS[line]:
        missing = refused([*line.split(), f"{key}._target_=a.b"], capsys)
        assert missing == f"{key}._target_=a.b: cannot be imported: No module named 'a'"
        assert refused([*line.split(), f"+{key}.nope=1"], capsys).startswith(f"{key}: ")


@pytest.mark.parametrize("key", ["steps", "first_steps"])
def test_of_a_doctor(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    for count in ("0", "-1", "2.5"):
        told = refused(["doctor", "data=toy_small", f"doctor.{key}={count}"], capsys)
        right = "a whole number" if count == "2.5" else "at least 1"
        assert told == f"doctor.{key}={count}: must be {right}, not {count}"


@pytest.mark.parametrize("arguments", ["", ", model: x, labels: [a], device: cpu, nope: 1"])
def test_of_a_scorer(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    scorer = f"{{_target_: videodit.features.image_models.ImageClassifier{arguments}}}"
    told = refused(["ingest", "nowhere", "out=set", f"measure.scorers=[{scorer}]"], capsys)
    assert told.startswith("measure.scorers.0: videodit.features.image_models.ImageClassifier: ")


def test_every_object_of_the_shipped_configs_is_there() -> None:
    """The check itself takes all that is shipped: each group's choices, as each command that has it composes them."""
    from videodit.cli import compose
    from videodit.cli.objects import check_objects

    conf, seen = conf_dir(), 0
    for command, groups in {"train": ("model", "vae", "text", "data", "flow", "optim", "parallel", "tracker",
                                      "adapter", "experiment"),
                            "ingest": ("cutter", "embedder", "captioner", "engine")}.items():  # fmt: skip
        for group in groups:
            for choice in sorted(path.stem for path in (conf / group).glob("*.yaml")):
                check_objects(compose.config(conf, command, compose.Line([f"{group}={choice}"], {})))
                seen += 1
    assert seen > 30
