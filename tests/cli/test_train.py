"""`videodit train`: real clips, trackers, starting over, going on, and mistakes in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.train import tiny
from videodit.checkpoint.pretrained import load_model
from videodit.cli.main import main
from videodit.data.video import write
from videodit.errors import InputError
from videodit.nn import kernels
from videodit.track.jsonl import records
from videodit.train import folder
from videodit.train import run as training
from videodit.train.build import Prepared
from videodit.train.init import find_vae, open_vae

BRIEF = "loop={steps: 3, save_every: 3, sample_every: 3, log_every: 1}"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that name a random VAE and a cache of latents made with it."""
    folder = tmp_path_factory.mktemp("prepared")
    vae_and_cache = [f"vae_from={tiny.saved_vae(folder)}", f"cache={folder / 'cache'}"]
    data = [override for override in tiny.COMMAND if override.startswith("data")]
    assert main(["encode", *data, *vae_and_cache, "workers=0"]) == 0
    return [*tiny.COMMAND, *vae_and_cache, "workers=0"]


def _losses(folder: Path) -> list[float]:
    return [record["loss"] for record in records(folder / "metrics.jsonl") if "loss" in record]


def _write_folder(root: Path) -> Path:
    """Moving squares of a few colours, tall and wide, long and short, and one file that is no video."""
    root.mkdir()
    lines = []
    for number, (height, width, frames) in enumerate([(32, 32, 9), (48, 32, 9), (32, 32, 5), (48, 32, 9)]):
        clip = np.full((frames, height, width, 3), 40 * number, dtype=np.uint8)
        for time in range(frames):
            clip[time, 8:16, 2 * time : 2 * time + 8, number % 3] = 250
        write(root / f"{number}.mp4", clip, 8.0)
        lines.append({"file_name": f"{number}.mp4", "caption": f"square number {number} moves"})
    (root / "broken.mp4").write_bytes((root / "0.mp4").read_bytes()[:300])
    lines.insert(2, {"file_name": "broken.mp4", "caption": "nothing"})
    (root / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def _real(root: Path, command: Sequence[str] = tiny.COMMAND) -> list[str]:
    """The tiny command on a folder of videos instead of the toy world."""
    networks = [override for override in command if not override.startswith("data")]
    return [*networks, "data=videofolder", f"data.root={root}", "data.frames=9", "data.area=1536", "workers=0"]


def test_real_clips_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of mixed sizes and lengths; the unreadable one is named and left out; the loss falls; the run is a model."""
    root = _write_folder(tmp_path / "clips")
    vae = f"vae_from={tiny.saved_vae(tmp_path)}"
    loop = "loop={steps: 30, save_every: 30, sample_every: 30, log_every: 1}"
    run = tmp_path / "run"
    made = ["optim.make.lr=5e-3", "packs.image=0", "packs.whole=1", f"cache={tmp_path / 'cache'}", f"run_dir={run}"]
    assert main(["train", *_real(root), vae, loop, *made]) == 0, capsys.readouterr().err
    assert capsys.readouterr().err.count(f"skipped {root / 'broken.mp4'}: ") == 1
    assert str(root / "broken.mp4") in (run / "skipped.jsonl").read_text()
    assert {record["skipped clips"] for record in records(run / "metrics.jsonl") if "skipped clips" in record} == {1}
    losses = _losses(run)
    assert len(losses) == 30 and np.mean(losses[-5:]) < 0.95 * np.mean(losses[:5])
    assert (run / "samples" / "step-000000030.png").stat().st_size > 1000
    assert (run / "model" / "pipeline.json").is_file()


def test_other_clips_captions_and_words_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """When a run goes on; where nothing changed, nothing is said."""
    root, run = _write_folder(tmp_path / "clips"), tmp_path / "run"
    words = ["train", *_real(root), f"vae_from={tiny.saved_vae(tmp_path)}", f"cache={tmp_path / 'cache'}"]
    words += [f"run_dir={run}", BRIEF]
    assert main(words) == 0
    assert main([*words, "loop.steps=4"]) == 0
    assert "clips.train" not in capsys.readouterr().err
    table = root / "metadata.jsonl"
    table.write_text(table.read_text().replace("square number 0 moves", "a zebra beside a giraffe"))
    assert main([*words, "loop.steps=5"]) == 0
    told = capsys.readouterr().err
    assert "clips.train.captions: " in told and "clips.train.count" not in told
    assert "unknown to the text encoder" in told and "zebra" in told
    write(root / "9.mp4", np.full((9, 32, 32, 3), 90, np.uint8), 8.0)
    table.write_text(table.read_text() + json.dumps({"file_name": "9.mp4", "caption": "a square"}) + "\n")
    assert main([*words, "loop.steps=6"]) == 0
    told = capsys.readouterr().err
    assert "clips.train.count: " in told and "clips.train.which: " in told and "(from here on another training)" in told


def test_held_out_clips_are_not_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The two tall clips, 18 tokens each, are of one source: their size has held-out losses and no training loss."""
    root, run = _write_folder(tmp_path / "clips"), tmp_path / "run"
    lines = [json.loads(line) for line in (root / "metadata.jsonl").read_text().splitlines()]
    lines = [line | {"source": "film 7" if line["file_name"] in ("1.mp4", "3.mp4") else "film 0"} for line in lines]
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    made = ["packs.image=0", "packs.whole=1", f"cache={tmp_path / 'cache'}", f"run_dir={run}"]
    command = ["train", *_real(root), f"vae_from={tiny.saved_vae(tmp_path)}", BRIEF, *made]
    assert main(command) == 0, capsys.readouterr().err
    names = {name for record in records(run / "metrics.jsonl") for name in record}
    assert {name for name in names if name.startswith("heldout/loss/") and "x" in name} == {"heldout/loss/3x6x4"}
    assert {name for name in names if name.startswith("loss/tokens")} == {"loss/tokens 8-15"}


def test_a_vae_trains_on_real_clips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where they are smaller than the crops. It goes on for more steps, and says what else is new."""
    root, run = _write_folder(tmp_path / "clips"), tmp_path / "vae"
    base = [*_real(root, tiny.VAE_COMMAND), "crops.pixels=9000", f"run_dir={run}"]
    assert main(["train", *base, BRIEF]) == 0, capsys.readouterr().err
    told = capsys.readouterr().err
    assert told.count(f"skipped {root / 'broken.mp4'}: ") >= 1
    assert len(_losses(run)) == 3
    assert main(["train", *base, BRIEF.replace("steps: 3", "steps: 5"), "optim.make.lr=2e-3"]) == 0
    told = capsys.readouterr().err
    assert "another config: loop.steps: 3 -> 5" in told and "optim.make.lr: 0.001 -> 0.002" in told
    assert told.count("another config") == 2
    assert len(_losses(run)) == 5
    assert load_model(run / "model" / "vae.safetensors").stride == (4, 8, 8)


def test_the_bundled_vae_encodes() -> None:
    """It is stored in half precision, and clips come in single."""
    assert open_vae(find_vae("toy")).encode(torch.zeros(1, 3, 5, 16, 16)).shape == (1, 16, 2, 2, 2)


def test_the_kernel_reaches_attention(tmp_path: Path, prepared: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the steps and of the samples; the losses are those of another kernel, within rounding."""
    seen: list[str] = []
    for name in ("sdpa", "reference"):
        kernel = kernels.KERNELS[name]
        spy = lambda *args, kernel=kernel, name=name: (seen.append(name), kernel(*args))[1]  # noqa: E731
        monkeypatch.setitem(kernels.KERNELS, name, spy)
    losses = []
    for name in ("sdpa", "reference"):
        seen.clear()
        run = tmp_path / name
        assert main(["train", *prepared, BRIEF, f"run_dir={run}", f"kernel={name}", "memory=off"]) == 0
        assert set(seen) == {name}
        losses.append(_losses(run))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_every_tracker_has_the_run(tmp_path: Path, prepared: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """jsonl, TensorBoard and wandb offline, with numbers, samples and the config."""
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main(["train", *prepared, "tracker=all", BRIEF, f"run_dir={tmp_path}"]) == 0
    assert len(_losses(tmp_path)) == 3
    assert next((tmp_path / "tensorboard").glob("events.out.tfevents.*")).stat().st_size > 1000
    offline = next((tmp_path / "wandb").glob("offline-run-*"))
    assert list(offline.glob("*.wandb")) and list(offline.rglob("*.mp4"))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["precision"] == "fp32" and config["model"]["dim"] == 32 and "fresh" not in config
    assert list((tmp_path / "samples").glob("*.mp4")) and list((tmp_path / "samples").glob("*.png"))


def test_a_learned_tokenizer_is_kept_only_with_a_checkpoint(tmp_path: Path, prepared: list[str]) -> None:
    """One left behind by a start that came to nothing would know the words of other captions."""
    (tmp_path / "tokenizer.json").write_text("{}")
    assert main(["train", *prepared, BRIEF, f"run_dir={tmp_path}"]) == 0
    words = (tmp_path / "tokenizer.json").read_bytes()
    assert b"ball" in words
    assert main(["train", *prepared, BRIEF, f"run_dir={tmp_path}"]) == 0
    assert (tmp_path / "tokenizer.json").read_bytes() == words


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("stpes=4", "unknown key 'stpes'"),
        ("loop.stpes=4", "unknown key 'loop.stpes'"),
        ("stage=dti", "stage=dti: must be 'dit' or 'vae', not 'dti'"),
        ("vae_from=no/such/run", "no VAE in no/such/run"),
        ("precision=fp8", "precision=fp8: it is auto, fp32 or bf16"),
        ("kernel=flash", "kernel=flash: no such kernel, there are auto, sdpa"),
        ("kernel=flex", "kernel=flex: has no backward on cpu, only on CUDA; kernels that can: sdpa, reference"),
        ("device=toaster", "device=toaster"),
        ("device=cuda:77", "device=cuda:77"),
        ("loop.save_every=0", "loop.save_every=0: must be at least 1, not 0"),
        ("loop.steps=many", "loop.steps=many: expected a number"),
        ("request.height=0", "height=0"),
        ("request.sampler=magic", "sampler=magic"),
        ("keep=0", "keep=0"),
        ("model.channels=5", "have 4 channels, not 5"),
        ("freeze=[txt]", "freeze=txt"),
        ("init=no/such/model", "no/such/model"),
        ("samples.prompts=['']", "prompt: it is empty"),
        ("model=huge", "model=huge: not among"),
        ("+data.train.0.split=holdout", "unknown split 'holdout'"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, prepared: list[str], capsys: pytest.CaptureFixture[str], wrong: str, words: str
) -> None:
    """Exit code 2, and before any step is made."""
    if wrong.startswith("init="):  # beside which networks of one's own are another mistake
        prepared = [word for word in prepared if not word.startswith(("model", "text", "area"))]
    assert main(["train", *prepared, BRIEF, f"run_dir={tmp_path / 'run'}", wrong]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("videodit: error: ")]
    assert len(told) == 1 and words in told[0]
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_two_runs_at_once(tmp_path: Path, prepared: list[str], capsys: Any) -> None:
    """The second leaves, also where it was to start over; once the first is gone, however it went, all is as before."""
    run = tmp_path / "run"
    command = ["train", *prepared, BRIEF, f"run_dir={run}"]
    assert main([*command, "loop.steps=1"]) == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    hold = "import sys, time\nfrom pathlib import Path\nfrom videodit.checkpoint.store import sole\n"
    hold += "with sole(Path(sys.argv[1]) / '.lock', 'x'):\n    print('held', flush=True)\n    time.sleep(600)\n"
    first = subprocess.Popen([sys.executable, "-c", hold, str(run)], stdout=subprocess.PIPE)
    try:
        assert first.stdout.readline() == b"held\n"
        assert main([*command, "fresh=true"]) == 2
        told = capsys.readouterr().err.splitlines()[-1]
        assert f"run_dir={run}: another run is at it (process {first.pid}" in told
        assert {path: path.read_bytes() for path in before} == before
    finally:
        first.kill()
        first.wait()
    assert (run / ".lock").exists() and main(command) == 0 and not (run / ".lock").exists()
    assert len(_losses(run)) == 3


def test_a_run_needs_a_folder(tmp_path: Path, prepared: list[str], capsys: Any) -> None:
    (tmp_path / "file").write_text("")
    for name in ("file", "file/below"):
        assert main(["train", *prepared, BRIEF, f"run_dir={tmp_path / name}"]) == 2
        assert "file" in capsys.readouterr().err.splitlines()[-1]


def test_a_vae_is_not_any_file_of_weights(tmp_path: Path, prepared: list[str], capsys: Any) -> None:
    from videodit.checkpoint.store import save_model

    save_model(tmp_path / "dit.safetensors", tiny.dit())
    assert main(["train", *prepared, f"vae_from={tmp_path / 'dit.safetensors'}", f"run_dir={tmp_path / 'run'}"]) == 2
    assert "dit.safetensors is not a VAE" in capsys.readouterr().err


def test_a_damaged_checkpoint_stops_the_command(tmp_path: Path, prepared: list[str], capsys: Any) -> None:
    assert main(["train", *prepared, BRIEF, f"run_dir={tmp_path}"]) == 0
    (newest,) = (tmp_path / "checkpoints" / "step-000000003").glob("*.safetensors")
    newest.write_bytes(newest.read_bytes()[:-100])
    assert main(["train", *prepared, BRIEF, f"run_dir={tmp_path}"]) == 2
    assert "step-000000003" in capsys.readouterr().err.splitlines()[-1]
    assert main(["train", *prepared, BRIEF, f"run_dir={tmp_path}", "fresh=true"]) == 0


class Stages:
    """Records which stages ran, and what lay in their folders."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran: list[tuple[str, str, list[str]]] = []
        monkeypatch.setattr(training, "prepare", lambda cfg, folder, mesh: Prepared(lambda: None, 1, lambda: None))
        monkeypatch.setattr(training, "check", lambda cfg, plan, mesh: None)
        monkeypatch.setattr(training, "fit", lambda cfg, folder, made, mesh: self.note(cfg.stage, folder))

    def note(self, stage: str, folder: Path) -> None:
        self.ran.append((stage, folder.name, sorted(path.name for path in folder.iterdir() if path.name != ".lock")))
        (folder / "config.json").write_text("{}")
        (folder / "checkpoints").mkdir(exist_ok=True)


def test_runs_that_come_first_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = Stages(monkeypatch)
    assert main(["train", "experiment=toy_smoke", f"run_dir={tmp_path / 'run'}"]) == 0
    assert [ran[:2] for ran in stages.ran] == [("vae", "vae"), ("dit", "run")]


def test_starting_over_spares_what_came_before_and_what_is_not_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runs of `after` are made after the folder was cleared, not before; they start over where told so."""
    stages, run = Stages(monkeypatch), tmp_path / "run"
    command = ["train", "experiment=toy_smoke", f"run_dir={run}"]
    assert main(command) == 0
    (run / "my notes.txt").write_text("keep me")
    (run / "cache").mkdir()
    assert main([*command, "fresh=true"]) == 0
    assert main(command) == 0
    kept = ["cache", "my notes.txt", "vae"]
    written = ["checkpoints", "config.json"]
    assert stages.ran[2:] == [
        ("vae", "vae", []),
        ("dit", "run", kept),
        ("vae", "vae", written),
        ("dit", "run", sorted([*kept, *written])),
    ]


def test_precision_is_kept_when_a_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`auto` is measured once: another answer later would be another training. Being told so is heeded, and said."""
    path, device = tmp_path / "config.json", torch.device("cpu")
    monkeypatch.setattr(folder, "pick_precision", lambda name, device: {"auto": "bf16"}.get(name, name))
    assert folder.settled({"precision": "auto", "fresh": True}, path, device, resuming=False) == {"precision": "bf16"}
    path.write_text('{"precision": "fp32"}')
    assert folder.settled({"precision": "auto"}, path, device, resuming=True) == {"precision": "fp32"}
    assert folder.settled({"precision": "auto"}, path, device, resuming=False) == {"precision": "bf16"}
    assert capsys.readouterr().err == ""
    assert folder.settled({"precision": "bf16"}, path, device, resuming=True) == {"precision": "bf16"}
    assert "precision: fp32 -> bf16 (from here on another training)" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["null", "[]", '"x"', '{"precision": [1]}', '{"precision": 16}'])
def test_a_damaged_config_of_a_run_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match="config.json: "):
        folder.settled({"precision": "auto"}, tmp_path / "config.json", torch.device("cpu"), resuming=True)


def test_a_config_without_a_precision_is_of_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    now = folder.settled({"precision": "bf16"}, tmp_path / "config.json", torch.device("cpu"), resuming=True)
    assert now == {"precision": "bf16"}


def test_what_is_safe_to_change_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, device = tmp_path / "config.json", torch.device("cpu")
    before = {"seed": 0, "loop": {"steps": 10, "clip_norm": 1.0}, "packs": {"tokens": 64, "most": 9}}
    now = {"seed": 1, "loop": {"steps": 20, "clip_norm": 2.0}, "packs": {"tokens": 32, "most": 8}}
    before, now = ({"precision": "fp32", **config} for config in (before, now))
    path.write_text(json.dumps(before))
    folder.settled(now, path, device, resuming=True)
    told = {line.split(": ")[1]: "(safe)" in line for line in capsys.readouterr().err.splitlines()}
    assert told == {
        "loop.clip_norm": False, "loop.steps": True, "packs.most": True, "packs.tokens": False, "seed": False
    }  # fmt: skip
    first, longer, other = (folder.stamp(config)["config"] for config in (
        before, {**before, "loop": {"steps": 99, "clip_norm": 1.0}}, {**before, "seed": 3}))  # fmt: skip
    assert first == longer != other


def test_differences_are_named_by_their_keys() -> None:
    before = {"a": 1, "b": {"c": [1, 2], "d": None, "gone": 3}, "fresh": True}
    now = {"a": 1, "b": {"c": [1, 3], "d": None, "new": "x"}}
    assert list(folder.differences(before, now)) == ["b.c: [1, 2] -> [1, 3]", "b.gone: 3 -> None", "b.new: None -> x"]


def test_the_command_imports_no_tracker_that_is_not_chosen(tmp_path: Path, prepared: list[str]) -> None:
    """In this process others may have; a run with jsonl alone must not need them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("wandb", "tensorboard", "torch.utils.tensorboard"):
            patch.setitem(sys.modules, name, None)  # importing one of these now raises ImportError
        assert main(["train", *prepared, BRIEF, f"run_dir={tmp_path}"]) == 0
