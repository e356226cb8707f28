"""`videodit generate out=…`: every kind of file and its recipe, several seeds and their sheet, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import videodit
from tests.tiny import CAPTIONS, tiny_pipeline
from videodit.cli.main import main
from videodit.cli.places import seeds_of
from videodit.data.video import beside, read
from videodit.errors import InputError
from videodit.generate import Pipe
from videodit.generate.record import read_record

SMALL = ("frames=5", "steps=2", "size=33x47")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("model"))


def files(path: Path) -> list[bytes]:
    found = sorted(path.iterdir()) if path.is_dir() else [path]
    return [one.read_bytes() for one in found]


@pytest.mark.parametrize("name", ["a.webm", "a.gif", "a.webp", "frames/", "a.png", "a.jpg"])
def test_each_kind_keeps_its_record_and_is_made_again(
    model: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = ["frames=1"] if name in ("a.png", "a.jpg") else SMALL[:1]
    out, again, third = (f"{tmp_path}/{folder}/{name}" for folder in ("one", "two", "three"))
    assert main(["generate", CAPTIONS[0], f"model={model}", f"out={out}", *frames, *SMALL[1:], "seed=3"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == out
    assert main(["generate", f"recipe={out}", f"model={model}", f"out={again}"]) == 0
    record = beside(Path(out))
    assert json.loads(record.read_text()) == read_record(Path(out)) == read_record(Path(again))
    assert read_record(Path(out))["seed"] == 3
    assert files(Path(out)) == files(Path(again))
    assert main(["generate", f"recipe={record}", f"model={model}", f"out={third}"]) == 0
    assert files(Path(out)) == files(Path(third))
    assert main(["info", out]) == 0
    assert '"seed": 3' in capsys.readouterr().out


@pytest.mark.parametrize(("name", "told"), [("a.mp4", 1), ("a.webm", 0)])
def test_an_odd_size_is_exact_and_told(
    model: Path, tmp_path: Path, name: str, told: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", CAPTIONS[0], f"model={model}", f"out={tmp_path / name}", *SMALL]) == 0
    line = "33x47 is odd, which H.264 is not: kept as 34x48 with a crop flag"
    assert capsys.readouterr().out.count(line) == told
    assert read(tmp_path / name)[0].shape == (5, 47, 33, 3)


def test_several_seeds_are_a_video_each_and_one_sheet(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", CAPTIONS[0], f"model={model}", f"out={tmp_path / 'ball.mp4'}", *SMALL]
    assert main([*words, "seed=7,3"]) == 0
    videos = [tmp_path / f"ball-seed{seed}.mp4" for seed in (7, 3)]
    sheet = tmp_path / "ball-seeds3-7-sheet.png"
    assert {path.name for path in tmp_path.iterdir()} == {
        sheet.name, *(path.name for path in videos), *(f"{path.name}.json" for path in videos)
    }  # fmt: skip
    assert [read_record(path)["seed"] for path in videos] == [7, 3]
    assert (read(videos[0])[0] != read(videos[1])[0]).any()
    page = np.asarray(Image.open(sheet))
    assert page.shape[0] > 2 * 47 and page.shape[1] > 5 * 33
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert main(["generate", f"recipe={videos[1]}", f"model={model}", f"out={tmp_path / 'x' / 'again.mp4'}"]) == 0
    assert (tmp_path / "x" / "again.mp4").read_bytes() == videos[1].read_bytes()
    assert main([*words, "seed=7,3"]) == 0  # the same command makes the same files
    now = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert now == before
    capsys.readouterr()
    assert main([*words, "seed=3,4", "steps=3"]) == 2
    assert "ball-seed3.mp4: another video has this name" in capsys.readouterr().err
    sheet.write_bytes((tmp_path / "ball-seed3.mp4").read_bytes())
    assert main([*words, "seed=7,3"]) == 2
    assert "another picture has this name; give sheet=" in capsys.readouterr().err


def test_a_count_counts_up_from_the_seed(model: Path, tmp_path: Path) -> None:
    words = ["generate", CAPTIONS[0], f"model={model}", "frames=1", "steps=2", "count=3"]
    assert main([*words, f"out={tmp_path / 'a.png'}", "seed=8", "batch=2"]) == 0
    assert [read_record(tmp_path / f"a-seed{seed}.png")["seed"] for seed in (8, 9, 10)] == [8, 9, 10]
    assert main(["generate", f"recipe={tmp_path / 'a-seed9.png'}", *words[2:], f"out={tmp_path}/many/"]) == 0
    assert [read_record(path)["seed"] for path in sorted((tmp_path / "many").glob("*.mp4"))] == [9, 10, 11]
    assert (tmp_path / "many" / "0000-seeds9-11-sheet.png").exists()


def test_python_takes_a_list_of_seeds(model: Path, tmp_path: Path) -> None:
    pipe = videodit.load(str(model), device="cpu")
    videos = pipe(CAPTIONS[0], seed=[5, 2], frames=5, steps=2)
    assert [video.record["seed"] for video in videos] == [5, 2]
    assert np.abs(videos[1].frames.astype(int) - pipe(CAPTIONS[0], seed=2, frames=5, steps=2).frames).max() <= 1
    for name in ("a.gif", "frames/"):
        assert read_record(videos[0].save(f"{tmp_path}/{name}")) == json.loads(json.dumps(videos[0].record))
    with pytest.raises(InputError, match="holds one frame"):
        videos[0].save(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["seed=1,2", "count=2"], "both say how many"),
        (["seed=1,1"], "each seed once"),
        (["seed=1,x"], "expected a whole number, or several such as 1,2,3"),
        (["seed=1,99999999999999999999"], "expected a whole number"),
        (["count=0"], "count=0"),
        (["count=many"], "count=many"),
        (["batch=2"], "batch= has no effect"),
        (["count=2", "out=frames/x.mp4/"], "many videos need a folder"),
        (["prompts=FILE", "count=2", "out=o"], "count= has no effect with prompts="),
        (["prompts=FILE", "seed=1,2", "out=o"], "it is one number"),
        (["prompts=FILE", "out=o.gif"], "many videos need a folder"),
        (["out=a.png", "frames=5"], "ask for frames=1, or for a folder of them, a/"),
        (["out=a.png", "frames=1", "sheet=a.png"], "the video has this name"),
        (["sheet=a.jpg"], "a contact sheet is a .png"),
        (["out=a.gif", "fps=60"], "at most 50 frames a second"),
        (["out=a.webp", "fps=120"], "at most 90 frames a second"),
        ([f"out={'a' * 227}.mp4", "count=2"], "the name takes 237 bytes; at most 235"),
        ([f"out={'a' * 210}.mp4", "seed=1,9223372036854775800"], "the name takes 238 bytes; at most 235"),
        ([f"out={'a' * 220}.mp4", "count=2"], "sheet=aaa"),
    ],
    ids=" ".join,
)
def test_what_is_refused_before_any_work(
    model: Path, tmp_path: Path, words: list[str], told: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Pipe, "denoise", lambda *_, **__: pytest.fail("it was begun"))
    asked = tmp_path / "asked.jsonl"
    asked.write_text(json.dumps({"prompt": "a"}))
    many = any(word.startswith("prompts=") for word in words)
    words = [word.replace("FILE", str(asked)) for word in words]
    assert main(["generate", *([] if many else [CAPTIONS[0]]), f"model={model}", *words]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and told in errors[0], errors
    assert [path.name for path in tmp_path.iterdir()] == [asked.name]


def test_what_a_seed_may_be() -> None:
    assert seeds_of(None, None) is None and seeds_of("", 3) is None
    assert seeds_of(4, 3) == 4 and seeds_of(" 1, 2,3 ", None) == [1, 2, 3]
