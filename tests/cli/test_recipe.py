"""A recipe makes its video again to the bit, whatever company it was made in, and says where it cannot."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.structure.source import ROOT
from tests.tiny import CAPTIONS, tiny_pipeline
from videodit.cli.main import main
from videodit.data.video import read, write
from videodit.generate.record import read_record

MIXED = [
    {"prompt": CAPTIONS[0], "seed": 1},
    {"prompt": "a", "size": "48x32", "frames": 5, "guidance": 1, "seed": 2},
    {"prompt": " and ".join(CAPTIONS), "negative": "a blue ball", "size": "20x40", "seed": 3, "guidance": 4},
    {"prompt": CAPTIONS[1], "frames": 1, "seed": 4},
    {"prompt": CAPTIONS[0], "size": "33x47", "fps": 4, "seconds": 2, "seed": 5, "guidance": 3},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def made(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return batch(model, tmp_path_factory.mktemp("made"))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def batch(model: Path, folder: Path, *words: str) -> list[Path]:
    """The five requests as one batch."""
    asked = folder / "asked.jsonl"
    asked.write_text("\n".join(json.dumps(one) for one in MIXED))
    assert main(["generate", f"prompts={asked}", f"out={folder / 'out'}", f"model={model}", *words]) == 0
    return sorted((folder / "out").glob("*.mp4"))


@pytest.mark.parametrize(
    "words",
    [[], ["sampler=heun"], ["passes=2", "chunk=1"], ["step_cache=0.5", "steps=6"], ["offload=block", "sampler=unipc"]],
    ids=" ".join,
)
def test_a_video_made_in_company_is_made_again_to_the_bit(model: Path, tmp_path: Path, words: list[str]) -> None:
    for_all = dict(word.split("=") for word in words if word.split("=")[0] in ("sampler", "steps", "step_cache"))
    numbers = {key: value if key == "sampler" else json.loads(value) for key, value in for_all.items()}
    others = [word for word in words if word.split("=")[0] not in for_all]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[__name__], "MIXED", [{**one, **numbers} for one in MIXED])
        videos = batch(model, tmp_path, *others)
    together = "step_cache" not in for_all  # whose packs are of one
    for place, video in list(enumerate(videos))[:: 2 if words else 1]:
        layout = read_record(video)["made_with"]["layout"]
        assert len(layout["shapes"]) == (5 if together else 1) and layout["place"] == (place if together else 0)
        assert not any(other["prompt"] in json.dumps(layout) for other in MIXED if len(other["prompt"]) > 1)
        again = tmp_path / "again.mp4"
        assert main(["generate", f"recipe={video}", f"model={model}", f"out={again}"]) == 0
        assert read_record(again) == read_record(video)
        assert digest(again) == digest(video)


def test_python_makes_it_again_as_well(model: Path, tmp_path: Path) -> None:
    import videodit

    pipe = videodit.load(str(model), device="cpu")
    requests = [pipe.request(**one) for one in MIXED]
    for one, video in zip(requests, pipe.run(requests), strict=True):
        [again] = pipe.run([one], layout=video.record["made_with"]["layout"])
        assert (again.clip == video.clip).all() and again.record == video.record
        assert digest(again.save(tmp_path / "a.mp4")) == digest(video.save(tmp_path / "b.mp4"))
    texts = pipe.encode([one.prompt for one in requests]).streams["text"]
    alone = [pipe.encode([one.prompt]).streams["text"].states for one in requests]
    assert all((a == b).all() for a, b in zip(alone, texts.states.split(texts.lengths), strict=True))


def test_what_is_done_in_another_way_is_told(
    model: Path, made: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = ["generate", f"recipe={made[1]}", f"model={model}", f"out={tmp_path / 'again.mp4'}"]
    capsys.readouterr()
    assert main(again) == 0
    assert "may differ" not in capsys.readouterr().err
    assert main([*again, "dtype=bfloat16", "passes=2"]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "may differ within rounding" in line]
    assert told == ["recipe: made with dtype=float32, now bfloat16; passes=1, now 2: pixels may differ within rounding"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"place": 5}, "place"),
        ({"shapes": [[1, 1, 1]]}, "place"),
        ({"prompts": [0] * 5}, "prompts.0: must be"),
        ({"prompts": [10**6] * 5}, "not of this request and this model"),
        ({"negatives": [2] * 5}, "not of this request and this model"),
        ({"guided": [True, True]}, "not of this request and this model"),
        ({"guided": [False]}, "not of this request and this model"),
        ({"guided": 1}, "guided: must be a valid list"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(
    model: Path, made: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict, told: str
) -> None:
    record = read_record(made[2])
    record["made_with"]["layout"] |= change
    write(tmp_path / "a.mp4", read(made[2])[0], 8.0, metadata={"comment": json.dumps(record)})
    capsys.readouterr()
    assert main(["generate", f"recipe={tmp_path / 'a.mp4'}", f"model={model}", f"out={tmp_path / 'b.mp4'}"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "a.mp4: its record" in error and "layout" in error and told in error


def test_a_pack_that_does_not_fit_is_told(
    model: Path, made: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = read_record(made[2])
    record["made_with"]["layout"]["shapes"][0] = [2**20, 2**10, 2**10]
    write(tmp_path / "a.mp4", read(made[2])[0], 8.0, metadata={"comment": json.dumps(record)})
    assert main(["generate", f"recipe={tmp_path / 'a.mp4'}", f"model={model}", f"out={tmp_path / 'b.mp4'}"]) == 0
    assert "made alone, not in its pack, so pixels may differ within rounding" in capsys.readouterr().err


@pytest.mark.parametrize("keep_layout", [True, False])
def test_a_recipe_of_before_is_made_at_its_own_shape(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], keep_layout: bool
) -> None:
    """Of 16 frames the last three were copies of the 13th: a record of that says so, with or without a layout."""
    asked = ["generate", CAPTIONS[0], f"model={model}", f"out={tmp_path / 'a.mp4'}"]
    assert main([*asked, "frames=13"]) == 0
    whole, record = read(tmp_path / "a.mp4")[0], read_record(tmp_path / "a.mp4")
    assert main([*asked, "frames=16"]) == 0
    assert "made at 32x32, 17 frames, then cut to the first 16 frames" in capsys.readouterr().out
    record["frames"] = 16
    if not keep_layout:
        del record["made_with"]["layout"]
    write(tmp_path / "old.mp4", whole, 8.0, metadata={"comment": json.dumps(record)})
    again = tmp_path / "again.mp4"
    assert main(["generate", f"recipe={tmp_path / 'old.mp4'}", f"model={model}", f"out={again}"]) == 0
    assert "made at 32x32, 13 frames, then the last one held until there are 16" in capsys.readouterr().out
    assert read_record(again)["generated"]["frames"] == 13
    frames = read(again)[0].astype(int)
    assert abs(frames[:13] - whole).mean() < 3 and abs(frames[13:] - frames[12]).mean() < 1  # as lossy as H.264


@pytest.mark.slow
def test_other_processes_make_the_same_file(model: Path, made: list[Path]) -> None:
    command = [sys.executable, str(ROOT / "tools" / "same_file.py"), str(made[2]), "5", f"model={model}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "the same file, 5 times" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("content", ['{"name": "videodit"}', "[]", "text"])
def test_only_a_record_is_replaced(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    words = ["generate", CAPTIONS[0], f"model={model}", f"out={tmp_path / 'package.mp4'}"]
    others = [tmp_path / "package.json", tmp_path / "package.mp4.json"]
    for path in others:
        path.write_text(content)
    assert main(words) == 2
    assert "package.mp4.json: the record of package.mp4 would replace it" in capsys.readouterr().err
    assert [path.read_text() for path in others] == [content] * 2 and not (tmp_path / "package.mp4").exists()
    others[1].unlink()
    assert main(words) == main(words) == 0
    assert others[0].read_text() == content and json.loads(others[1].read_text())["prompt"] == CAPTIONS[0]


def test_a_video_that_no_memory_holds_is_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its own size, and by the steps to it: neither is planned in detail."""
    words = ["generate", "a ball", f"model={model}", f"out={tmp_path / 'a.mp4'}", "steps=16384"]
    assert main([*words, "size=16384x16384", "frames=16384"]) == 2
    assert "fewer frames or pixels would fit" in capsys.readouterr().err
    assert main([*words, "frames=16384", "fps=0.01", "size=1x1"]) == 2
    assert "GiB" in capsys.readouterr().err and not list(tmp_path.iterdir())
