"""Latents that wait for decoding are nobody else's: no other run replaces or deletes them, nor one at that time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.tiny import CAPTIONS, tiny_pipeline
from videodit.cli.main import main
from videodit.cli.places import alone
from videodit.data.video import read
from videodit.errors import InputError
from videodit.generate import Pipe, waiting
from videodit.generate.record import read_record

ENDING = waiting.ENDING


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("waiting") / "model")


def asking(model: Path, out: Path, *words: str) -> list[str]:
    return ["generate", CAPTIONS[0], f"model={model}", f"out={out}", "size=32x32", "frames=1", "steps=1", *words]


def cut(words: list[str], monkeypatch: pytest.MonkeyPatch, before: Callable[[], object] = lambda: None) -> None:
    """Run a command that ends where it would decode, after something else was done there."""

    def fail(*_: object) -> None:
        patch.undo()
        before()
        raise InputError("cut off")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pipe, "decode", fail)
        assert main(words) == 2


def seeds(folder: Path) -> dict[str, int]:
    """By the file of latents, the seed of what waits there."""
    return {path.name: waiting.read(path).records[0]["seed"] for path in folder.glob(f"*{ENDING}")}


@pytest.mark.parametrize("ends", ["cut off", "whole"])
def test_a_later_run_keeps_them(model: Path, tmp_path: Path, ends: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another request under the same name, whether it comes to its end or waits too."""
    out = tmp_path / "a.mp4"
    cut(asking(model, out, "seed=1"), monkeypatch)
    kept = (tmp_path / f"a{ENDING}").read_bytes()
    if ends == "whole":
        assert main(asking(model, out, "seed=2")) == 0
    else:
        cut(asking(model, out, "seed=2"), monkeypatch)
    assert (tmp_path / f"a{ENDING}").read_bytes() == kept
    assert sorted(seeds(tmp_path).values()) == [1] + [2] * (ends == "cut off")
    for name, seed in seeds(tmp_path).items():
        assert main(["decode", str(tmp_path / name)]) == 0 and read_record(out)["seed"] == seed
    assert not seeds(tmp_path)


@pytest.mark.parametrize("second", [1, 2])
def test_two_at_once(model: Path, tmp_path: Path, second: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one, of the same request or not, comes and goes while this one decodes, and this one ends there."""
    out = tmp_path / "a.mp4"
    cut(asking(model, out, "seed=1"), monkeypatch, lambda: main(asking(model, out, f"seed={second}")))
    assert read_record(out)["seed"] == second
    if second == 2:
        assert seeds(tmp_path) == {f"a{ENDING}": 1}
        assert main(["decode", str(tmp_path / f"a{ENDING}")]) == 0
    assert read_record(out)["seed"] == 1 and not seeds(tmp_path)


def test_a_name_that_was_freed_is_anothers(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`decode` took this run's latents, another run waits under their name: the end of this one deletes nothing."""
    out, original, done = tmp_path / "a.mp4", Pipe.decode, []

    def meanwhile(*given: object) -> object:
        if not done:
            done.append(True)
            assert main(["decode", str(tmp_path / f"a{ENDING}")]) == 0
            cut(asking(model, out, "seed=2"), monkeypatch)
        return original(*given)

    monkeypatch.setattr(Pipe, "decode", meanwhile)
    assert main(asking(model, out, "seed=1")) == 0
    assert seeds(tmp_path) == {f"a{ENDING}": 2}


def test_the_same_command_decodes_them(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, out = tmp_path / "whole" / "a.mp4", tmp_path / "a.mp4"
    assert main(asking(model, whole)) == 0
    cut(asking(model, out), monkeypatch)
    monkeypatch.setattr(Pipe, "denoise", lambda *_, **__: pytest.fail("it is denoised"))
    assert main(asking(model, out)) == 0
    assert "only decoding is left" in capsys.readouterr().err
    assert (read(out)[0] == read(whole)[0]).all() and read_record(out) == read_record(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "a.mp4.json", "whole"]


@pytest.mark.parametrize("how", ["another type", "damaged"])
def test_others_are_not_taken_for_them(how: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, place = tmp_path / "a.mp4", tmp_path / f"a{ENDING}"
    cut(asking(model, out, *["dtype=bfloat16"] * (how == "another type")), monkeypatch)
    if how == "damaged":
        left, header = waiting.read(place), json.loads(json.dumps(waiting.load_tensors(place)[1]))
        waiting.save_tensors(place, {"0": left.latents[0] * torch.inf}, header)
    kept = place.read_bytes()
    assert main(asking(model, out)) == 0
    assert place.read_bytes() == kept and out.exists()


def test_without_links_they_have_a_name_of_their_own(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on some disks."""
    name = "日" * 75
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("not supported")))
    cut(asking(model, tmp_path / f"{name}.mp4"), monkeypatch)
    [left] = seeds(tmp_path)
    assert left != f"{name}{ENDING}" and left.startswith("日" * 60)
    assert main(["decode", str(tmp_path / left)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}.mp4", f"{name}.mp4.json"]


def test_a_folder_has_one_run_at_a_time(model: Path, tmp_path: Path) -> None:
    """Both would give the same names to their videos."""
    asked = tmp_path / "many.jsonl"
    asked.write_text(json.dumps({"prompt": CAPTIONS[0], "frames": 1, "steps": 1}))
    words = ["generate", f"prompts={asked}", f"model={model}", f"out={tmp_path / 'out'}", "size=32x32"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    with alone(tmp_path / "out"):
        other = subprocess.run(
            [sys.executable, "-m", "videodit", *words], env=environment, text=True, capture_output=True
        )
    assert other.returncode == 2 and other.stderr.startswith(f"videodit: error: out={tmp_path / 'out'}: another run is")
    assert not (tmp_path / "out").exists(), "nothing came of it"
    assert main(words) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0000.mp4", "0000.mp4.json"]


def test_packs_that_are_done_are_not_made_again(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked, out, denoise, made = tmp_path / "many.jsonl", tmp_path / "out", Pipe.denoise, []
    asked.write_text("\n".join(json.dumps({"prompt": one, "frames": 1, "steps": 1}) for one in [*CAPTIONS, "a"]))
    words = ["generate", f"prompts={asked}", f"model={model}", f"out={out}", "size=32x32", "batch=1"]
    assert main(words) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / "0001.mp4").unlink()
    (out / "0002.mp4.json").unlink()
    monkeypatch.setattr(Pipe, "denoise", lambda *given: made.append(given[1]) or denoise(*given))
    capsys.readouterr()
    assert main(words) == 0
    assert [one.seed for pack in made for one in pack] == [1, 2]
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert capsys.readouterr().out.count(".mp4\n") == 3, "all are answered"


@pytest.mark.slow
def test_two_processes_at_once(model: Path, tmp_path: Path) -> None:
    """Both have denoised before either decodes; one is killed there. The other's video comes, and the latents wait."""
    code = (
        "import sys, time, pathlib, videodit.generate as g\n"
        "decode = g.Pipe.decode\n"
        "def wait(*given):\n"
        "    while not pathlib.Path('go').exists(): time.sleep(0.01)\n"
        "    return decode(*given)\n"
        "g.Pipe.decode = wait\n"
        "from videodit.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen([sys.executable, "-c", code, *asking(model, Path("a.mp4"), f"seed={seed}")], cwd=tmp_path,
                         env=environment, stderr=subprocess.DEVNULL) for seed in (1, 2)
    ]  # fmt: skip
    try:
        until = time.monotonic() + 300
        while len(seeds(tmp_path)) < 2:
            assert time.monotonic() < until and all(one.poll() is None for one in both)
            time.sleep(0.05)
        both[0].kill()
        both[0].wait()
        (tmp_path / "go").touch()
        assert both[1].wait(300) == 0
    finally:
        for one in both:
            one.kill()
            one.wait()
    assert list(seeds(tmp_path).values()) == [1] and read_record(tmp_path / "a.mp4")["seed"] == 2
    assert main(["decode", str(tmp_path / next(iter(seeds(tmp_path))))]) == 0
    assert read_record(tmp_path / "a.mp4")["seed"] == 1 and not seeds(tmp_path)
