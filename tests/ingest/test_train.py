"""Sets train what they were made for: a public model of tiny random weights, and one of ours from nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ingest.commands import folder, here, rows
from tests.parity import pipelines
from tests.train import tiny
from videodit.cli.main import main
from videodit.data.set import training_set
from videodit.track.jsonl import records

SHAPE = ["shape.frames=5", "shape.shortest=5", "shape.areas=[1024,2304]", "heldout_share=0.3", "report=false"]
BRIEF = "loop={steps: 3, save_every: 3, sample_every: 3, log_every: 1}"


def forbidden(*_: object, **__: object) -> None:
    raise AssertionError("the set has it")


def test_a_public_model_trains_from_the_set_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latents of its VAE and states of its text encoder are in the set: neither videos nor encoder are opened."""
    public = tmp_path / "public"
    pipelines.pipeline("2.1", public)
    videos, out = folder(tmp_path / "videos", 4), tmp_path / "set"
    assert here(videos, out, *SHAPE, f"vae={public}", f"text={public}") == 0
    clips = rows(out)
    assert {row["split"] for row in clips} == {"train", "heldout"}
    assert all(len(row["shards"]) == len(row["sizes"]) >= 1 for row in clips)
    monkeypatch.setattr("videodit.checkpoint.texts.Remembered._open", forbidden)
    monkeypatch.setattr("videodit.data.set.SetClips.__getitem__", forbidden)
    videos.rename(tmp_path / "moved")
    command = ["train", "data=set", f"data.root={out}", f"init={public}", "adapter=lora", "adapter.rank=2", BRIEF,
               "packs={tokens: 64, image: 0, whole: 1}", "precision=fp32", "optim.warmup=1", "samples.prompts=[]",
               "request.height=32", "request.width=32", "request.frames=5", "request.steps=1", "workers=0"]  # fmt: skip
    assert main([*command, f"run_dir={tmp_path / 'run'}"]) == 0
    numbers = list(records(tmp_path / "run" / "metrics.jsonl"))
    assert sum("loss" in record for record in numbers) == 3 and any("heldout/loss" in record for record in numbers)


def test_captions_are_the_manifests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A set can be captioned anew: latents stay, and training sees the new words."""
    videos, out = folder(tmp_path / "videos", 3), tmp_path / "set"
    vae = tiny.saved_vae(tmp_path)
    assert here(videos, out, *SHAPE, f"vae={vae}") == 0
    before = sorted(path.name for path in (out / "cache").iterdir())
    (videos / "1.txt").write_text("quite another one")
    assert here(videos, out, *SHAPE, f"vae={vae}") == 0
    assert sorted(path.name for path in (out / "cache").iterdir()) == before
    how = {"root": out, "captions": "long", "sources": None, "reader": "av"}
    told = {clips.caption(i) for split in ("train", "heldout") for clips in [training_set(split=split, **how)]
            for i in range(len(clips))}  # fmt: skip
    assert told == {"clip number 0", "quite another one", "clip number 2"}
    capsys.readouterr()
    assert main(["info", str(out)]) == 0
    about = capsys.readouterr().out
    assert "9 of 3 files" in about and "9 caption" in about and f"sources       {videos}" in about
    model = [key for key in tiny.COMMAND if not key.startswith("data")]
    command = ["train", *model, "data=set", f"data.root={out}", f"vae_from={vae}", BRIEF, "workers=0",
               "samples.prompts=[]", f"run_dir={tmp_path / 'run'}"]  # fmt: skip
    assert main(command) == 0
    assert "quite" in (tmp_path / "run" / "tokenizer.json").read_text()
