"""`videodit train -m`: a folder a job, one group in the tracker, and what a plugin that is not there says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.track.test_wandb import written
from tests.train import tiny
from videodit.cli import compose
from videodit.cli.main import main
from videodit.track.jsonl import records

FEW = ["data.train.0.size=8", "data.train.1.size=4", "data.heldout.0.size=2"]
BRIEF = "loop={steps: 3, save_every: 3, sample_every: 3, log_every: 1}"

# `main` in a process that has none of hydra's plugins.
BARE = """
import sys
sys.modules["hydra_plugins"] = None
from videodit.cli.main import main
for choice in sys.argv[1:]:
    assert main(["train", "-m", choice, "seed=0,1"]) == 2
"""


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """The package, which keeps its own files in a folder of the test."""
    for key in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(key, str(tmp_path / "home"))
    import wandb

    wandb.teardown()  # so that the folders above are seen
    yield wandb
    wandb.teardown()


def _given(folder: Path) -> list[str]:
    """Overrides of a tiny DiT."""
    return [*tiny.COMMAND, f"vae_from={tiny.saved_vae(folder)}", f"cache={folder / 'cache'}", "workers=0", BRIEF, *FEW]


def _check(sweep: Path) -> None:
    """Two runs, with seeds 0 and 1, each complete and its own."""
    losses = []
    for seed in (0, 1):
        config = json.loads((sweep / str(seed) / "config.json").read_text())
        assert config["seed"] == seed and config["tracked"] == {"name": f"seed={seed}", "group": sweep.name}
        losses.append([record["loss"] for record in records(sweep / str(seed) / "metrics.jsonl") if "loss" in record])
        assert (sweep / str(seed) / "model" / "pipeline.json").is_file()
    assert len(losses[0]) == len(losses[1]) == 3 and losses[0] != losses[1]


def test_two_jobs_are_two_runs_of_one_group(
    tmp_path: Path, wandb, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folders, configs, numbers; in wandb one group, and names that say what differs. TensorBoard shows both."""
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    monkeypatch.chdir(tmp_path)
    given = [*_given(tmp_path), "tracker=all", "tracker.trackers.2.mode=offline", "name=pair"]
    assert main(["train", "-m", *given, "seed=0,1"]) == 0, capsys.readouterr().err
    wandb.teardown()  # ends the service, which writes the runs' files a moment after `finish`
    sweep = tmp_path / "sweeps" / "pair"
    _check(sweep)
    told = set()
    for seed in (0, 1):
        (folder,) = (sweep / str(seed) / "wandb").glob("offline-run-*")
        told |= {(record.run.display_name, record.run.run_group) for record in written(folder) if record.run.run_id}
    assert told == {("seed=0", "pair"), ("seed=1", "pair")}
    shown = EventMultiplexer().AddRunsFromDirectory(str(sweep)).Runs()
    assert set(shown) == {"0/tensorboard", "1/tensorboard"}


@pytest.mark.parametrize(
    ("given", "job", "own"),
    [
        (["seed=0,1", "name=x"], ["seed=1", "name=x"], ["seed=1"]),
        (["ema=interval(0.9,0.99)", "+a=[1,2]"], ["ema=0.95", "+a=[1,2]"], ["ema=0.95"]),
        (["model=toy,tiny", "seed=range(3)"], ["model=tiny", "seed=2"], ["model=tiny", "seed=2"]),
        (["name=x"], ["seed=4", "name=x"], ["seed=4"]),  # from the sweeper's own list
        (["samples.prompts=[a red ball]"], ["samples.prompts=[a\\ red\\ ball]"], []),
    ],
)
def test_a_job_is_known_by_what_the_sweep_chose(given: list[str], job: list[str], own: list[str]) -> None:
    assert compose._own_choices(given, job) == own


def test_a_launcher_that_is_not_installed_names_its_extra() -> None:
    """One line and exit code 2 for each; the word that pip wants is an extra of setup.cfg."""
    choices = {
        "hydra/launcher=joblib": "joblib",
        "hydra/launcher=submitit_local": "submitit",
        "hydra/launcher=submitit_slurm": "submitit",
        "hydra/sweeper=optuna": "optuna",
    }
    done = subprocess.run([sys.executable, "-c", BARE, *choices], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "", done.stderr
    assert done.stderr.splitlines() == [
        f'videodit: error: {choice} needs a package: pip install "videodit[{extra}]"'
        for choice, extra in choices.items()
    ]


@pytest.mark.slow
def test_joblib_runs_two_jobs_at_once(tmp_path: Path) -> None:
    """Each in a process of its own; a mistake in one of them is told as ever."""
    command = tiny.command(*_given(tmp_path)[len(tiny.COMMAND) :], "-m", "hydra/launcher=joblib", "seed=0,1")
    command += ["hydra.launcher.n_jobs=2", f"hydra.sweep.dir={tmp_path / 'pair'}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    _check(tmp_path / "pair")
    wrong = subprocess.run([*command, "keep=0", f"run_dir={tmp_path}"], capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr.splitlines()[-1].startswith("videodit: error: keep=0: ")
