"""What a start leaves behind that takes no step: nothing, and the record of the run as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.train import tiny
from videodit.cli.main import main
from videodit.cli.typed import settings
from videodit.doctor.visit import Visit

BRIEF = "loop={steps: 2, clip_norm: 1.0, max_bad: 5, log_every: 1, save_every: 2, sample_every: 2}"


def test_a_start_that_takes_no_step_changes_no_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", *tiny.COMMAND, f"vae_from={tiny.saved_vae(tmp_path)}", f"cache={tmp_path / 'cache'}", BRIEF,
               f"run_dir={tmp_path / 'run'}", "samples.prompts=[]", "workers=0"]  # fmt: skip
    assert main(command) == 0
    config = (tmp_path / "run" / "config.json").read_text()
    capsys.readouterr()
    assert main([*command, "seed=1"]) == 0
    told = capsys.readouterr().err
    assert "is complete at step 2; a larger loop.steps= goes on" in told and "seed: 0 -> 1" in told
    assert main([*command, "model.dim=48"]) == 2
    assert "another model" in capsys.readouterr().err
    assert main(command) == 0
    assert "another config" not in capsys.readouterr().err
    assert (tmp_path / "run" / "config.json").read_text() == config and json.loads(config)["seed"] == 0


def test_a_plan_needs_no_run_before_it_and_leaves_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    few = [f"run_dir={run}", f"cache={tmp_path / 'cache'}", "limit=8", "workers=0"]
    assert main(["train", "experiment=toy_smoke", "plan=true", *few]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("a step: up to") and "toy_smoke_vae: not there yet, untrained ones serve" in told.err
    assert not run.exists()


def test_a_start_that_is_refused_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(["train", "data=videofolder", f"data.root={tmp_path / 'none'}", f"run_dir={run}"]) == 2
    assert "none: no such folder" in capsys.readouterr().err and not run.exists()
    assert main(["train", "data=videofolder", f"run_dir={run}"]) == 2
    assert "data.root=… is needed" in capsys.readouterr().err


def test_doctor_looks_for_a_vae_where_the_run_would(tmp_path: Path) -> None:
    cfg = settings("doctor", ["experiment=toy_smoke", f"run_dir={tmp_path}"])
    visit = Visit(cfg, tmp_path / "scratch")
    visit.cfg = replace(visit.cfg, run_dir=str(tmp_path / "elsewhere"))
    assert visit.cfg.vae_from == str(tmp_path / "vae")
