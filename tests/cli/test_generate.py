"""`videodit generate`, `export` and `info` as a user types them, on a tiny random model."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import CAPTIONS, tiny_pipeline
from videodit.checkpoint.store import load_tensors, save_tensors
from videodit.cli.main import main
from videodit.data.video import read
from videodit.nn import kernels


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("model"))


def fails(capsys: pytest.CaptureFixture[str], words: str, *args: str) -> None:
    """The command ends with exit code 2 and one line on stderr that holds `words`."""
    capsys.readouterr()
    assert main(list(args)) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("videodit: error")]
    assert len(err) == 1
    assert words in err[0]
    assert "Traceback" not in err[0]


def test_a_prompt_becomes_a_video_its_record_and_a_sheet(model: Path, tmp_path: Path) -> None:
    out, sheet = tmp_path / "ball.mp4", tmp_path / "ball.png"
    words = ["generate", CAPTIONS[0], f"model={model}", f"out={out}", f"sheet={sheet}", "size=40x24", "frames=5"]
    assert main(words) == 0
    assert read(out)[0].shape == (5, 24, 40, 3)
    assert json.loads(out.with_name(out.name + ".json").read_text())["prompt"] == CAPTIONS[0]
    assert sheet.read_bytes().startswith(b"\x89PNG")


def test_skipped_steps_are_told_and_recorded(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.mp4"
    assert main(["generate", CAPTIONS[0], f"model={model}", f"out={out}", "steps=8", "step_cache=0.9"]) == 0
    told = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("step cache: "))
    assert int(told.split()[2]) > 0 and " of 8 steps skipped; " in told
    record = json.loads(out.with_name(out.name + ".json").read_text())
    assert record["step_cache"] == 0.9
    assert main(["generate", f"recipe={out}", f"model={model}", f"out={tmp_path / 'b.mp4'}"]) == 0
    assert np.array_equal(read(out)[0], read(tmp_path / "b.mp4")[0])


def test_other_ways_to_the_same_pixels(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two passes, whole decoding; compiled blocks where there is no compiler, which is said."""
    request = ["generate", CAPTIONS[0], f"model={model}", "guidance=3"]
    assert main([*request, f"out={tmp_path / 'a.mp4'}"]) == 0
    monkeypatch.setenv("PATH", "")
    assert main([*request, f"out={tmp_path / 'b.mp4'}", "passes=2", "chunk=0", "compile=true"]) == 0
    assert "compile=true: there is no C++ compiler here, so the DiT runs uncompiled" in capsys.readouterr().err
    assert abs(read(tmp_path / "a.mp4")[0] - read(tmp_path / "b.mp4")[0].astype(int)).mean() < 0.1


def test_the_kernel_reaches_attention(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told by the record, and a recipe is made again by it; one that this machine has not, by what it has."""
    seen: list[str] = []
    for name in ("sdpa", "reference"):
        kernel = kernels.KERNELS[name]
        spy = lambda *args, kernel=kernel, name=name: (seen.append(name), kernel(*args))[1]  # noqa: E731
        monkeypatch.setitem(kernels.KERNELS, name, spy)
    first = tmp_path / "a.mp4"  # a plan of the memory would be by the fused kernel
    request = ["generate", CAPTIONS[0], f"model={model}", "guidance=3", "memory=off"]
    assert main([*request, f"out={first}"]) == 0 and set(seen) == {"sdpa"}
    seen.clear()
    assert main([*request, f"out={tmp_path / 'b.mp4'}", "kernel=reference"]) == 0 and set(seen) == {"reference"}
    assert abs(read(first)[0] - read(tmp_path / "b.mp4")[0].astype(int)).mean() < 0.1
    seen.clear()
    again = ["generate", f"recipe={tmp_path / 'b.mp4'}", f"model={model}", f"out={tmp_path / 'c.mp4'}", "memory=off"]
    assert main(again) == 0 and set(seen) == {"reference"}
    record = tmp_path / "b.mp4.json"
    record.write_text(record.read_text().replace('"kernel": "reference"', '"kernel": "varlen"'))
    again[1] = f"recipe={record}"
    capsys.readouterr()
    assert main(again) == 0 and "made with kernel=varlen, now sdpa" in capsys.readouterr().err


def test_a_recipe_makes_the_same_video_again(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, again = tmp_path / "a.mp4", tmp_path / "b.mp4"
    assert main(["generate", CAPTIONS[1], f"model={model}", f"out={first}", "seed=9", "seconds=0.7", "fps=10"]) == 0
    assert main(["generate", f"recipe={first}", f"model={model}", f"out={again}"]) == 0
    assert np.array_equal(read(first)[0], read(again)[0])
    other = tiny_pipeline(tmp_path / "other", seed=1)
    fails(capsys, "other weights", "generate", f"recipe={first}", f"model={other}", f"out={again}")
    assert main(["info", str(first)]) == 0
    assert '"seed": 9' in capsys.readouterr().out


def test_a_file_of_requests_becomes_a_folder(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "many.jsonl", tmp_path / "many"
    lines = [{"prompt": CAPTIONS[0]}, {"prompt": CAPTIONS[1], "size": "48x32", "seed": 4}, {"prompt": "a", "steps": 2}]
    file.write_text("\n".join(json.dumps(line) for line in lines))
    assert main(["generate", f"prompts={file}", f"model={model}", f"out={out}"]) == 0
    shapes = [read(path)[0].shape for path in sorted(out.glob("*.mp4"))]
    assert shapes == [(9, 32, 32, 3), (9, 32, 48, 3), (9, 32, 32, 3)]
    mistakes = {"{": "line 1: not valid JSON", '{"a": 1}': "line 1: expected", '{"prompt": "a", "b": 1}': "key 'b'"}
    for bad, words in mistakes.items():
        file.write_text(bad)
        fails(capsys, words, "generate", f"prompts={file}", f"model={model}", f"out={out}")


def test_unknown_words_and_another_shape_are_said(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.mp4"
    assert main(["generate", "a large zebra", f"model={model}", f"out={out}", "size=31x33", "frames=6"]) == 0
    said = capsys.readouterr()
    assert "zebra" in said.err
    assert "9 frames, then brought to 31x33, cut to the first 6 frames" in said.out


def test_bad_input_is_one_line_and_exit_code_2(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, at = f"out={tmp_path / 'x.mp4'}", f"model={model}"
    fails(capsys, "prompt", "generate", "", at, out)
    fails(capsys, "prompt", "generate", at, out)
    fails(capsys, "size", "generate", "a ball", "size=0x64", at, out)
    fails(capsys, "frames=many", "generate", "a ball", "frames=many", at, out)
    fails(capsys, "height=tall", "generate", "a ball", "height=tall", at, out)
    fails(capsys, "is a folder", "generate", "a ball", at, f"out={tmp_path}")
    for name in ("x.avi", "x", "x.b/"):
        fails(capsys, "must end in .mp4, .webm, .gif", "generate", "a ball", at, f"out={tmp_path}/{name}")
    fails(capsys, "'colour'", "generate", "a ball", "colour=red", at, out)
    fails(capsys, "nowhere", "generate", "a ball", "model=nowhere", out)
    fails(capsys, "no such file", "generate", f"recipe={tmp_path / 'none.mp4'}", at, out)
    fails(capsys, "kernel=flash: no such kernel, there are auto", "generate", "a ball", "kernel=flash", at, out)
    fails(capsys, "kernels that can: sdpa, reference", "generate", "a ball", "kernel=varlen", at, out)
    for wrong in ("quantize=int4", "passes=3", "chunk=-1", "chunk=some", "step_cache=2", "offload=disk"):
        fails(capsys, wrong, "generate", "a ball", wrong, at, out)
    fails(capsys, "compile=true", "generate", "a ball", "compile=true", "offload=block", at, out)
    assert not list(tmp_path.iterdir())


def test_broken_weights_are_named(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    words = ["generate", "a ball", f"model={broken}", f"out={tmp_path / 'x.mp4'}"]
    dit = broken / "dit.safetensors"
    whole = dit.read_bytes()
    dit.write_bytes(whole[: len(whole) // 2])
    fails(capsys, "dit.safetensors", *words)
    dit.write_bytes(b"nonsense" * 100)
    fails(capsys, "dit.safetensors", *words)
    dit.write_bytes(whole)
    tensors, header = load_tensors(dit)
    del tensors["head.bias"]
    save_tensors(dit, tensors, header)
    fails(capsys, "head.bias", *words)
    dit.unlink()
    fails(capsys, "dit.safetensors", *words)
    dit.write_bytes(whole)
    (broken / "tokenizer.json").write_text("{}")
    fails(capsys, "tokenizer.json", *words)


def test_a_full_disk_leaves_nothing_behind(model: Path, tmp_path: Path) -> None:
    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))

    words = ["generate", CAPTIONS[0], f"model={model}", f"out={tmp_path / 'x.mp4'}"]
    done = subprocess.run(
        [sys.executable, "-m", "videodit", *words], capture_output=True, text=True, preexec_fn=small_files_only
    )
    assert done.returncode == 2, done.stderr
    assert "x.mp4" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_export_keeps_what_the_model_makes(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, half = tmp_path / "full", tmp_path / "half"
    assert main(["export", f"model={model}", f"out={out}"]) == 0
    assert main(["export", f"model={model}", f"out={half}", "dtype=float16"]) == 0
    assert (half / "dit.safetensors").stat().st_size < 0.7 * (out / "dit.safetensors").stat().st_size
    videos = []
    for folder in (model, out, half):
        path = tmp_path / f"{folder.name}.mp4"
        assert main(["generate", CAPTIONS[0], f"model={folder}", f"out={path}"]) == 0
        videos.append(read(path)[0].astype(int))
    assert np.array_equal(videos[0], videos[1])
    assert np.abs(videos[0] - videos[2]).mean() < 2
    fails(capsys, "dtype=int3", "export", f"model={model}", f"out={out}", "dtype=int3")
