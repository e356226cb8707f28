"""Names of earlier versions in the YAMLs of users and the configs of runs: followed, and said once."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest

from tests.train import tiny
from videodit.cli.main import main
from videodit.config import conf_dir
from videodit.moved import MOVED, renamed

OLD = "videodit.data.toy.ToyWorld"
BRIEF = "loop={steps: 2, clip_norm: 1.0, max_bad: 5, log_every: 1, save_every: 2, sample_every: 2}"
WORLD = "{_target_: %s, seed: 0, size: 8, frames: 9, height: 32, width: 32, fps: 8.0}"


@pytest.mark.parametrize("old", MOVED)
def test_the_new_name_is_there_and_the_old_one_is_not(old: str) -> None:
    module, _, name = MOVED[old].rpartition(".")
    assert getattr(import_module(module), name).__module__ == module
    with pytest.raises((ImportError, AttributeError)):
        getattr(import_module(old.rpartition(".")[0]), name)


def test_no_config_that_ships_has_an_old_name() -> None:
    texts = "\n".join(path.read_text(encoding="utf-8") for path in conf_dir().rglob("*.yaml"))
    assert not [old for old in MOVED if old in texts] and all(new in texts for new in MOVED.values() if "World" in new)


def test_a_nested_config_is_renamed_and_nothing_else_in_it() -> None:
    other = {"_target_": "torch.optim.AdamW", "name": OLD, "list": [1, None, {"_target_": OLD, "seed": 0}]}
    assert renamed(other) == {**other, "list": [1, None, {"_target_": MOVED[OLD], "seed": 0}]}
    assert renamed({"_target_": None}) == {"_target_": None}


def test_a_run_of_an_earlier_version_goes_on_without_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its config has the old names of the same objects; a name that is typed is followed, and said in one line."""
    run = tmp_path / "run"
    command = ["train", *tiny.COMMAND, f"vae_from={tiny.saved_vae(tmp_path)}", f"cache={tmp_path / 'cache'}", BRIEF,
               f"run_dir={run}", "samples.prompts=[]", "workers=0"]  # fmt: skip
    old = [f"data.{split}=[{WORLD % OLD}]" for split in ("train", "heldout")]
    assert main([*command, *old]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "deprecated" in line]
    assert lines == [f"deprecated: {OLD} is now {MOVED[OLD]}; write that"]
    config = run / "config.json"
    assert OLD not in config.read_text() and MOVED[OLD] in config.read_text()
    config.write_text(config.read_text().replace(MOVED[OLD], OLD))
    new = [f"data.{split}=[{WORLD % MOVED[OLD]}]" for split in ("train", "heldout")]
    assert main([*command, *new]) == 0
    told = capsys.readouterr().err
    assert "is complete at step 2" in told and "another config" not in told and "deprecated" not in told
    assert json.loads(config.read_text())["seed"] == 0
