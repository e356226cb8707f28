"""`videodit decode`: a run that dies after denoising is finished, to the same pixels."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import CAPTIONS, tiny_pipeline
from videodit.checkpoint.store import load_tensors, save_tensors, write_json
from videodit.cli.main import main
from videodit.data.video import read, write
from videodit.errors import InputError
from videodit.generate import Pipe
from videodit.generate.request import OWN
from videodit.untrusted import read_json

ROOM = 560 * 2**20


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
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole.mp4", "whole.mp4.json"]
    waiting = killed_in_decode(model, broken)
    assert waiting.exists() and not broken.exists()
    assert main(["decode", str(waiting), f"out={tmp_path / 'elsewhere.mp4'}", "keep=true"]) == 0
    assert main(["decode", str(waiting)]) == 0
    assert not waiting.exists()
    for path in (broken, tmp_path / "elsewhere.mp4"):
        assert np.array_equal(read(path)[0], read(whole)[0])
    assert main(["info", str(broken)]) == 0
    assert '"guidance": 3.0' in capsys.readouterr().out


LIMITED = """
import resource, sys
from videodit.checkpoint.store import write_json
from videodit.untrusted import read_json
from videodit.cli.main import main
from videodit.plan.machine import _proc
model, out, room, *words = sys.argv[1:]
asked = ["generate", "a large red ball", f"model={model}"]
assert main([*asked, f"out={out}.first.mp4", "size=64x64", "frames=9"]) == 0  # all libraries are there
resource.setrlimit(resource.RLIMIT_AS, (_proc("/proc/self/status", "VmSize") + int(room),) * 2)
sys.exit(main([*asked, f"out={out}", "size=384x384", "frames=65", "steps=1", "guidance=1", "chunk=0", *words]))
"""


@pytest.mark.slow
def test_a_limit_at_which_whole_decoding_dies(tmp_path: Path) -> None:
    """A real one, on the process's memory: refused with advice, or chosen around, or stepped down from."""
    model = tiny_pipeline(tmp_path / "model")
    pipeline = read_json(model / "pipeline.json")
    write_json(model / "pipeline.json", {**pipeline, "area": [1024, 2**20]})

    def run(name: str, room: int, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", LIMITED, str(model), str(tmp_path / name), str(room), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    free = run("free.mp4", 2**34)
    assert free.returncode == 0 and "not enough memory" not in free.stderr, free.stderr
    stepped = run("stepped.mp4", ROOM, "memory=off")
    assert stepped.returncode == 0, stepped.stderr
    assert "not enough memory to decode whole; now 4 latent frames at a time" in stepped.stderr
    refused = run("refused.mp4", ROOM)
    assert refused.returncode == 2 and "RLIMIT_AS (ulimit -v) leaves" in refused.stderr
    chosen = run("chosen.mp4", ROOM, "memory=auto")
    assert chosen.returncode == 0 and "memory=auto: decoding 4 latent frames at a time" in chosen.stderr, chosen.stderr
    expected = read(tmp_path / "free.mp4")[0].astype(int)
    for name in ("stepped.mp4", "chosen.mp4"):
        difference = abs(read(tmp_path / name)[0] - expected)  # of packed videos: a rounding goes a long way
        assert difference.mean() < 0.1 and (difference > 2).mean() < 1e-3


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


@pytest.fixture(scope="module")
def waiting(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latents of a run of two videos that failed in decoding, and what it would have made."""
    folder = tmp_path_factory.mktemp("waiting")
    (folder / "two.jsonl").write_text("\n".join(json.dumps({"prompt": one, "guidance": 3}) for one in CAPTIONS))
    words = ["generate", f"prompts={folder / 'two.jsonl'}", f"model={model}", "passes=2", "chunk=1"]
    assert main([*words, f"out={folder / 'whole'}"]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pipe, "decode", lambda *_: (_ for _ in ()).throw(InputError("no")))
        assert main([*words, f"out={folder / 'cut'}"]) == 2
    return folder / "cut" / "0000.latents.safetensors"


def test_a_decoded_video_is_the_file_of_an_uninterrupted_run(waiting: Path, tmp_path: Path) -> None:
    assert main(["decode", str(waiting), f"out={tmp_path}", "keep=true"]) == 0
    for name in ("0000.mp4", "0001.mp4", "0000.mp4.json", "0001.mp4.json"):
        assert (tmp_path / name).read_bytes() == (waiting.parent.parent / "whole" / name).read_bytes()


def changed(waiting: Path, folder: Path, **change: object) -> Path:
    """The latents in another folder, with something else in their header."""
    tensors, header = load_tensors(waiting)
    tensors = {name: x.clone() for name, x in tensors.items()}
    save_tensors(folder / waiting.name, tensors, {**header, **change})
    return folder / waiting.name


@pytest.mark.parametrize(
    "names",
    [
        ["../a.mp4", "b.mp4"],
        ["settings.json", "b.mp4"],
        ["/a/b.mp4", "b.mp4"],
        ["a.mp4", "a.mp4"],
        ["a.mp4"],
        ["a.mp4", 3],
        ["", "b.mp4"],
        [".mp4/..", "b.mp4"],
        ["..", "b.mp4"],
        [".frames", "b.mp4"],
        ["frames/", "b.mp4"],
        ["a.py", "b.mp4"],
    ],
)
def test_only_plain_names_of_videos_are_written(
    waiting: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list
) -> None:
    file = changed(waiting, tmp_path / "in", paths=names)
    (tmp_path / "in" / "settings.json").write_text("{}")
    assert main(["decode", str(file)]) == 2
    assert str(file) in capsys.readouterr().err.strip().splitlines()[-1]
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == [waiting.name, "settings.json"]


def test_other_kinds_are_finished_too(waiting: Path, tmp_path: Path) -> None:
    file = changed(waiting, tmp_path, paths=["a.webp", "frames"])
    assert main(["decode", str(file), "keep=true"]) == 0
    assert read(tmp_path / "a.webp")[0].shape == (9, 32, 32, 3)
    assert len(list((tmp_path / "frames").glob("*.png"))) == 9 and (tmp_path / "frames" / "record.json").is_file()
    assert main(["decode", str(file), "keep=true"]) == 0  # its own are replaced
    (tmp_path / "frames" / "mine.txt").write_text("mine")
    assert main(["decode", str(file)]) == 2
    assert (tmp_path / "frames" / "mine.txt").read_text() == "mine" and file.exists()


def test_a_video_that_is_not_ours_is_not_replaced(
    waiting: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = changed(waiting, tmp_path, paths=["holiday.mp4", "b.mp4"])
    write(tmp_path / "holiday.mp4", np.zeros((2, 32, 32, 3), np.uint8), 8.0)
    before = (tmp_path / "holiday.mp4").read_bytes()
    assert main(["decode", str(file)]) == 2
    assert "holiday.mp4" in capsys.readouterr().err and (tmp_path / "holiday.mp4").read_bytes() == before


def test_files_of_the_version_before_are_decoded_beside_themselves(waiting: Path, tmp_path: Path) -> None:
    tensors, header = load_tensors(waiting)
    tensors = {name: x.clone() for name, x in tensors.items()}
    of_request = [{key: value for key, value in one.items() if key in OWN} for one in header["records"]]
    old = {"model": header["model"], "weights": header["records"][0]["weights"], "requests": of_request}
    save_tensors(tmp_path / "0000.latents.safetensors", tensors, {**old, "paths": ["out/0000.mp4", "/x/0001.mp4"]})
    assert main(["decode", str(tmp_path / "0000.latents.safetensors")]) == 0
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == ["0000.mp4", "0001.mp4"]


@pytest.mark.parametrize("name", ["someone/weights", "wan2.1-t2v-1.3b", "runs/mine", "../model", "/nowhere", ""])
def test_a_model_that_a_file_names_is_not_looked_for(
    waiting: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    file = changed(waiting, tmp_path, model=name)
    assert main(["decode", str(file)]) == 2
    assert f"made with model={name}; a file's word is not looked for" in capsys.readouterr().err
    if not name:
        assert main(["decode", str(file), f"model={model}"]) == 0


def test_latents_that_are_not_of_their_requests(
    waiting: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors, header = load_tensors(waiting)
    x = tensors["0"].clone()
    for other, told in (
        (x[:, :1].clone(), "its request's are"),
        (x[:2].clone(), "its request's are"),
        (x.to(torch.int32), "its request's are"),
        (x.to(torch.float8_e4m3fn), "no finite numbers"),
        (x * torch.nan, "no finite numbers"),
    ):
        save_tensors(tmp_path / "a.latents.safetensors", {"0": other, "1": tensors["1"].clone()}, header)
        assert main(["decode", str(tmp_path / "a.latents.safetensors")]) == 2
        assert told in capsys.readouterr().err
    save_tensors(tmp_path / "a.latents.safetensors", {"0": x}, header)
    assert main(["decode", str(tmp_path / "a.latents.safetensors")]) == 2
    assert "1 tensors, 2 videos" in capsys.readouterr().err


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
