"""What a file names is not opened as if the user had typed it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

import videodit
from tests.tiny import CAPTIONS, tiny_pipeline
from videodit.checkpoint import resolve
from videodit.checkpoint.find import describe
from videodit.checkpoint.pretrained import Part
from videodit.checkpoint.resolve import is_hub_id, locate, locate_recorded
from videodit.checkpoint.store import write_json
from videodit.cli.main import main
from videodit.errors import InputError
from videodit.untrusted import read_json


class Hub:
    """Stands for the hub: notes what is asked of it, and has nothing."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bool]] = []

    def __call__(self, hub: str, asked: str, *, cached: bool = False) -> Path:
        self.asked.append((hub, cached))
        raise InputError(f"model={asked}: not here")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    found = Hub()
    monkeypatch.setattr(resolve, "from_hub", found)
    return found


def changed(folder: Path, base: Path | str, weights: Path, *, parts: Sequence[str] = ("text", "vae")) -> Path:
    """A model that is a change of `base`: its own DiT, and the rest from there."""
    tiny_pipeline(folder, seed=1)
    for name in ("text.safetensors", "vae.safetensors"):
        (folder / name).unlink()
    digests = {part: Part.own(weights / f"{part}.safetensors").fingerprint for part in parts}
    settings = read_json(folder / "pipeline.json")
    write_json(folder / "pipeline.json", {**settings, "base": {"model": str(base), "weights": digests}})
    return folder


PATHS = ("runs/mistyped", "sweeps/x", "here/x", "a/b/c", "./x", "/x/y", "~/x", "a\\b", "..", "x")


@pytest.mark.parametrize("name", PATHS)
def test_what_looks_like_a_path_is_not_asked_of_the_hub(
    name: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in" / "here").mkdir(parents=True)  # the folder above holds nothing else
    monkeypatch.chdir(tmp_path / "in")
    with pytest.raises(InputError, match="neither a bundled model"):
        locate(name)
    assert not hub.asked and not is_hub_id(name)


def test_a_typed_hub_id_is_asked_for_and_a_file_s_only_looked_up(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        locate("Some-One/a.model-1")
    for name in ("Some-One/a.model-1", "wan2.1-t2v-1.3b"):
        with pytest.raises(InputError):
            locate_recorded(name, tmp_path / "pipeline.json", "base")
    assert [cached for _, cached in hub.asked] == [False, True, True]


def test_a_whole_path_is_read_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tiny_pipeline(tmp_path / "base")
    model = changed(tmp_path / "shared", base, base)
    parts = describe(str(model))[1]
    assert parts["vae"].weights.files == [base / "vae.safetensors"]
    assert capsys.readouterr().err == f"{model / 'pipeline.json'} names {base}, which is read; base= names another\n"
    inside = changed(tmp_path / "whole", "base", base)
    shutil.copytree(base, inside / "base")
    describe(str(inside))
    assert capsys.readouterr().err == ""  # a folder that came with it


def test_another_place_can_be_given(tmp_path: Path) -> None:
    base = tiny_pipeline(tmp_path / "base")
    model = changed(tmp_path / "shared", "/where/it/was", base)
    with pytest.raises(InputError, match="names /where/it/was, which is not there; base= says where it is"):
        describe(str(model))
    assert describe(str(model), str(base))[1]["vae"].weights.files == [base / "vae.safetensors"]
    with pytest.raises(InputError, match=r"other weights now \(text, vae\)"):
        describe(str(model), str(tiny_pipeline(tmp_path / "other", seed=2)))
    with pytest.raises(InputError, match="is no change of another model"):
        describe(str(base), str(base))


def test_nothing_comes_from_a_base_without_its_fingerprint(tmp_path: Path) -> None:
    base = tiny_pipeline(tmp_path / "base")
    model = changed(tmp_path / "shared", base, base, parts=["text"])
    with pytest.raises(InputError, match="its base has no vae with a fingerprint"):
        describe(str(model))


def test_a_base_that_names_itself_or_one_that_names_it_ends(tmp_path: Path) -> None:
    base = tiny_pipeline(tmp_path / "weights")
    one = changed(tmp_path / "one", tmp_path / "one", base)
    with pytest.raises(InputError, match="its base leads back to it"):
        describe(str(one))
    two = changed(tmp_path / "two", tmp_path / "three", base)
    changed(tmp_path / "three", two, base)
    with pytest.raises(InputError, match="its base leads back to it"):
        describe(str(two))


def run(folder: Path) -> Path:
    """A run's folder with a sample of its own."""
    (folder / "samples").mkdir(parents=True)
    (folder / "samples" / "step-1-0.mp4").write_bytes(b"its own")
    record = {"step": 1, "loss": 1.0}
    (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    write_json(folder / "config.json", {"name": "mine"})
    return folder


def test_a_report_embeds_nothing_that_links_lead_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = tmp_path / "secret"
    secret.write_text('{"name": "top secret"}')
    folder = run(tmp_path / "run")
    (folder / "samples" / "step-2.png").symlink_to(secret)
    os.mkfifo(folder / "samples" / "step-3.png")
    assert main(["report", str(folder)]) == 0
    said = capsys.readouterr().err
    page = (folder / "report.html").read_text()
    assert "aXRzIG93bg" in page and "step-2" not in page and "step-3" not in page
    assert "step-2.png is left out" in said and "step-3.png is left out" in said
    for name in ("config.json", "metrics.jsonl", "skipped.jsonl"):
        linked = run(tmp_path / f"run-{name}")
        (linked / name).unlink(missing_ok=True)
        (linked / name).symlink_to(secret)
        assert main(["report", str(linked)]) == 2
        assert "is a link out of the run's folder" in capsys.readouterr().err
        assert not (linked / "report.html").exists()


def test_a_folder_that_the_user_typed_may_be_a_link(tmp_path: Path) -> None:
    run(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert main(["report", str(tmp_path / "link")]) == 0
    assert "aXRzIG93bg" in (tmp_path / "elsewhere" / "report.html").read_text()


def test_weights_in_a_cache_may_be_links(tmp_path: Path) -> None:
    """The hub's cache links its files to blobs."""
    model = tiny_pipeline(tmp_path / "blobs")
    (tmp_path / "snapshot").mkdir()
    for path in model.iterdir():
        (tmp_path / "snapshot" / path.name).symlink_to(path)
    assert videodit.load(str(tmp_path / "snapshot"), device="cpu")(CAPTIONS[0], steps=1, frames=1).frames.shape[0] == 1
