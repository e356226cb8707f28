"""`videodit decode`: a run that dies after denoising is finished, to the same pixels."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import CAPTIONS, tiny_pipeline
from videodit.cli.main import main
from videodit.data.video import read
from videodit.errors import InputError
from videodit.generate import Pipe


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("model"))


def generate(model: Path, out: Path) -> list[str]:
    return ["generate", CAPTIONS[0], f"model={model}", f"out={out}", "size=40x24", "frames=5", "guidance=3"]


def killed_in_decode(model: Path, out: Path) -> Path:
    """The latents that a run leaves which is killed as soon as they are there."""
    code = (
        "import sys, time, videodit.generate as g\n"
        "g.Pipe.decode = lambda *a: time.sleep(600)\n"
        "from videodit.cli.main import main; main(sys.argv[1:])"
    )
    run = subprocess.Popen([sys.executable, "-c", code, *generate(model, out)], stderr=subprocess.DEVNULL)
    waiting = out.with_suffix(".latents.safetensors")
    try:
        for _ in range(600):
            if waiting.exists():
                break
            time.sleep(0.1)
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    return waiting


def test_a_killed_run_is_finished(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, broken = tmp_path / "whole.mp4", tmp_path / "broken.mp4"
    assert main(generate(model, whole)) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole.json", "whole.mp4"]
    waiting = killed_in_decode(model, broken)
    assert waiting.exists() and not broken.exists()
    assert main(["decode", str(waiting), f"out={tmp_path / 'elsewhere.mp4'}", "keep=true"]) == 0
    assert main(["decode", str(waiting)]) == 0
    assert not waiting.exists()
    for path in (broken, tmp_path / "elsewhere.mp4"):
        assert np.array_equal(read(path)[0], read(whole)[0])
    assert main(["info", str(broken)]) == 0
    assert '"guidance": 3.0' in capsys.readouterr().out


def test_what_goes_wrong_in_decoding_says_how_to_go_on(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise InputError("no")

    with monkeypatch.context() as patch:
        patch.setattr(Pipe, "decode", fail)
        assert main(generate(model, tmp_path / "a b.mp4")) == 2
    assert f"videodit decode '{tmp_path / 'a b.latents.safetensors'}'" in capsys.readouterr().err
    assert main(["decode", str(tmp_path / "a b.latents.safetensors")]) == 0


def test_bad_files(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decode"]) == 2
    assert "name a file of latents" in capsys.readouterr().err
    assert main(["decode", str(model / "dit.safetensors")]) == 2
    assert "holds no latents that wait for decoding" in capsys.readouterr().err
    shutil.copytree(model, tmp_path / "model")
    waiting = killed_in_decode(tmp_path / "model", tmp_path / "x.mp4")
    tiny_pipeline(tmp_path / "model", seed=3)
    assert main(["decode", str(waiting)]) == 2
    assert "its latents are of another VAE" in capsys.readouterr().err
