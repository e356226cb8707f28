"""`videodit info`: every name that `model=` takes, and a run in ten lines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.loose import single_files
from tests.tiny import tiny_pipeline
from tests.train import tiny
from videodit.checkpoint.resolve import families, read_family
from videodit.checkpoint.store import sole
from videodit.cli.main import main
from videodit.data.video import write
from videodit.errors import InputError


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that has nothing in its cache, and must not be asked for more."""

    def only_cached(hub: str, *, local_files_only: bool, **_: Any) -> str:
        assert local_files_only, "info downloads"
        raise OSError("nothing is there")

    monkeypatch.setattr("huggingface_hub.snapshot_download", only_cached)


def told(name: str, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What info says of a name, by what each line is about; the title under ""."""
    assert main(["info", name]) == 0, capsys.readouterr().err
    title, *lines = capsys.readouterr().out.splitlines()
    return {"": title} | {line[2:16].strip(): line[16:] for line in lines}


def refused(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The error, in one line."""
    assert main(["info", name]) == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("name", ["toy", "toy-fast"])
def test_a_bundled_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(name, capsys)
    assert found[""] == name and "9.11 million parameters, F16" in found["transformer"]
    assert found["makes"].startswith("64x64, 17 frames, 8 fps") and "steps of euler" in found["samples in"]


@pytest.mark.parametrize("name", [name for name in families() if "hub" in read_family(name)])
def test_a_public_name_without_files(name: str, no_hub: None, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(name, capsys)
    assert found["files"].startswith("not here") and "billion parameters" in found["transformer"]
    assert ("transformer 2" in found) == (name == "wan2.2-t2v-a14b") and "makes" in found


def test_a_folder_and_a_hub_id_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tiny_pipeline(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda hub, **_: str(place))
    of_hub, of_folder = told("someone/tiny", capsys), told("model", capsys)
    assert of_hub[""] == "someone/tiny" and of_hub["transformer"] == of_folder["transformer"]
    assert {"transformer", "text encoder", "VAE", "makes"} <= of_folder.keys()


def test_single_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_hub: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A transformer's with the rest beside it; a VAE alone; a folder that lacks the rest, and nobody asks the hub."""
    folder = single_files(tmp_path, monkeypatch)
    whole = told(str(folder / "dit.safetensors"), capsys)
    assert {"transformer", "text encoder", "VAE", "makes", "types"} <= whole.keys()
    assert told(str(folder), capsys)["transformer"] == whole["transformer"]
    alone = told(str(folder / "vae.safetensors"), capsys)
    assert "VAE" in alone and "transformer" not in alone and alone["makes"].startswith("nothing by itself")
    (folder / "text.safetensors").unlink()
    lacking = told(str(folder), capsys)
    assert "text encoder" not in lacking and lacking["makes"].startswith("nothing by itself")


def test_a_hub_id_that_is_not_in_the_cache(no_hub: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert "not in the hub's cache, and info downloads nothing" in refused("someone/model", capsys)
    assert "no such file or folder, and no name that model= takes" in refused("nonsense", capsys)


def test_what_is_no_video_is_not_called_one(tmp_path: Path, no_hub: None, capsys: pytest.CaptureFixture[str]) -> None:
    (file := tmp_path / "notes.jsonl").write_text('{"loss": 1}')
    assert f"{file}: not a readable video: Invalid data found" in refused(str(file), capsys)
    write(video := tmp_path / "plain.mp4", np.zeros((3, 16, 16, 3), np.uint8), 8)
    assert f"{video}: a video, but with no record in it" in refused(str(video), capsys)


def test_what_is_no_run_is_called_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file := tmp_path / "a.gif").write_bytes(b"")
    assert main(["report", str(file)]) == 2
    assert f"{file}: it is a file; name a run's folder" in capsys.readouterr().err


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps."""
    folder = tmp_path_factory.mktemp("info")
    words = [*tiny.COMMAND, f"vae_from={tiny.saved_vae(folder)}", f"cache={folder / 'cache'}", "workers=0"]
    loop = "loop={steps: 4, save_every: 2, sample_every: 4, log_every: 1}"
    assert main(["train", *words, f"run_dir={folder / 'run'}", loop]) == 0
    return folder / "run"


def test_a_run_in_ten_lines(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(run)]) == 0
    assert len(capsys.readouterr().out.splitlines()) <= 10
    found = told(str(run), capsys)
    assert found["trains"] == "a DiT, from nothing, fp32, seed 0" and found["steps"] == "4 of 4: complete"
    assert found["last numbers"].startswith("loss ") and "heldout/loss" in found["last numbers"]
    assert "36 train, 4 heldout clips" in found["data"] and "million parameters, F32" in found["model"]
    assert "step-000000002, step-000000004 (" in found["checkpoints"] and f"report {run}" in found["samples"]
    assert "loop.steps=" in found["to go on"] and f"model={run}" in found["to go on"]


def test_a_run_s_folder_is_no_place_for_an_export(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What lies there would be opened instead of what the run makes when it goes on."""
    before = sorted(run.iterdir())
    assert main(["export", f"model={run}", f"out={run}"]) == 2
    assert f"out={run}: it is a run's folder" in capsys.readouterr().err and sorted(run.iterdir()) == before


def test_the_states_of_a_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stopped; going on, while a process holds it; diverged, by the numbers that the loop leaves when it gives up."""
    other = shutil.copytree(run, tmp_path / "run")
    config = json.loads((other / "config.json").read_text())
    config["loop"]["steps"] = 9
    (other / "config.json").write_text(json.dumps(config))
    stopped = told(str(other), capsys)
    assert stopped["steps"] == "4 of 9: stopped" and stopped["to go on"].startswith("the same command again")
    (other / ".lock").write_text("left by a kill")
    assert told(str(other), capsys)["steps"] == "4 of 9: stopped"
    with (other / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 6, "skipped updates": 2}) + "\n")
    diverged = told(str(other), capsys)
    assert diverged["steps"] == "6 of 9: diverged" and "lower learning rate" in diverged["to go on"]


def test_a_run_that_goes_on(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The lock is another process's: its own one process could take again."""
    import subprocess
    import sys

    other = shutil.copytree(run, tmp_path / "run")
    code = f"""if True:
        from pathlib import Path
        from videodit.checkpoint.store import sole
        with sole(Path({str(other / ".lock")!r}), "x"):
            print("held", flush=True)
            input()
    """
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        assert told(str(other), capsys)["steps"] == "4 of 4: goes on now"
        with pytest.raises(InputError, match="another run is at it"), sole(other / ".lock", "x"):
            pass
    finally:
        holder.communicate("\n")
    assert told(str(other), capsys)["steps"] == "4 of 4: complete"


def test_a_run_that_diverges_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*tiny.COMMAND, f"vae_from={tiny.saved_vae(tmp_path)}", f"cache={tmp_path / 'cache'}", "workers=0"]
    rates = ["optim=adamw", "optim.make.lr=1e30", "optim.make.text_lr=1e30", "optim.warmup=0", "optim.decay=0"]
    loop = "loop={steps: 30, max_bad: 3, save_every: 30, sample_every: 30, log_every: 20}"
    assert main(["train", *words, *rates, loop, f"run_dir={tmp_path / 'run'}"]) == 2
    capsys.readouterr()
    assert told(str(tmp_path / "run"), capsys)["steps"].endswith("of 30: diverged")


@pytest.mark.parametrize(
    "config",
    [{}, {"clips": 3, "adapter": 7, "freeze": {"a": 1}}, {"data": {"train": [None, "x"]}, "init": "\x1b[31m"}],
)
def test_a_config_that_says_little_or_nonsense(
    config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 2.0}) + "\n")
    found = told(str(tmp_path), capsys)
    assert found["steps"] == "1 of ?: stopped" and found["last numbers"] == "loss 2" and "\x1b" not in str(found)
