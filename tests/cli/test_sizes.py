"""Sizes of clips are those that the VAE and the DiT of a run take, whatever these are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.parity import pipelines
from tests.parity.pipelines import WORDS
from tests.tiny import DIT, shake, tiny_pipeline
from tests.train import tiny
from videodit.checkpoint.latents import LatentCache
from videodit.checkpoint.parts import FILES
from videodit.checkpoint.store import save_model
from videodit.cli.main import main
from videodit.cli.typed import settings
from videodit.data.set import read_manifest
from videodit.data.video import write
from videodit.errors import InputError
from videodit.models.build import build
from videodit.shapes import Sizes
from videodit.track.jsonl import records
from videodit.train.inputs import datasets_of, sizes_of
from videodit.untrusted import read_json

EDGES = [f"data.{split}.0.{edge}=48" for split in ("train", "heldout") for edge in ("height", "width")]
ASPECTS = {"wide": (160, 90), "tall": (90, 160), "old": (128, 96), "square": (112, 112)}  # width, height
AREA = 6240  # 104x60, an eighth of 832x480
LOOP = "loop={steps: 1, save_every: 1, sample_every: 100, log_every: 1}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny random models: of the 5B's family (a VAE of 4x16x16, patches of 1x2x2) and ours; and captioned clips."""
    place = tmp_path_factory.mktemp("sizes")
    pipelines.pipeline("2.2-5b", place / "5b")
    tiny_pipeline(place / "ours")
    (place / "clips").mkdir()
    lines = []
    for number, (name, (width, height)) in enumerate(ASPECTS.items()):
        clip = np.full((5, height, width, 3), 50 * number, dtype=np.uint8)
        clip[:, 8:40, 8:40, number % 3] = 250
        clip[:, 48 : 50 + 10 * number] = np.linspace(0, 255, width, dtype=np.uint8)[:, None]
        write(place / "clips" / f"{name}.mp4", clip, 8.0)
        lines.append(f'{{"file_name": "{name}.mp4", "caption": "{WORDS[number % 2]}"}}\n')
    (place / "clips" / "metadata.jsonl").write_text("".join(lines))
    return place


@pytest.fixture(autouse=True)
def here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDEODIT_CACHE", str(place / "states"))
    monkeypatch.chdir(tmp_path)


def data(place: Path) -> list[str]:
    """The clips of all proportions, for every command that takes data."""
    clips = place / "clips"
    return [
        "data=videofolder", f"data.root={clips}", f"data.heldout_root={clips}", "data.frames=5", f"data.area={AREA}",
        "workers=0", "cache=latents",
    ]  # fmt: skip


def train(*overrides: str) -> list[str]:
    """`videodit train`, one step."""
    return [
        "train", "packs={tokens: 64, image: 0, whole: 1}", "precision=fp32", "samples.prompts=[]", "workers=0",
        "request.height=32", "request.width=32", "request.frames=5", "request.steps=1", "run_dir=run", "cache=latents",
        LOOP, *overrides,
    ]  # fmt: skip


def shapes() -> list[tuple[int, int]]:
    """Heights and widths of all latents that were made."""
    cache = LatentCache(Path("latents"))
    assert {cache.shape(i).frames for i in range(len(cache))} == {2}
    return sorted((cache.shape(i).height, cache.shape(i).width) for i in range(len(cache)))


def made() -> dict[Path, int]:
    """The files of latents, and when they were written."""
    return {path: path.stat().st_mtime_ns for path in Path("latents").glob("*.safetensors")}


def refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The line in which a command refuses, before it encodes anything."""
    capsys.readouterr()
    assert main(command) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("videodit: error: ")]
    assert len(told) == 1 and not made()
    return told[0].removeprefix("videodit: error: ")


def test_clips_fit_a_vae_of_16_pixels_under_patches_of_two(place: Path) -> None:
    """All proportions, each as near as multiples of 32 pixels are; and what `encode` made is what `train` finds."""
    assert main(["encode", *data(place), f"init={place / '5b'}"]) == 0
    assert shapes() == [(4, 4), (4, 6), (4, 6), (6, 4)]  # square, old and wide, tall
    before = made()
    assert main(train(*data(place), f"init={place / '5b'}", "adapter=lora", "adapter.rank=2")) == 0
    assert [record["loss"] for record in records(Path("run/metrics.jsonl")) if "loss" in record]
    assert before and made() == before


@pytest.mark.slow
def test_a_plan_by_numbers_alone_takes_the_same_sizes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the public model, whose files are not here."""
    planned = ["plan=true", "device=cuda", "limit=80GiB", "init=wan2.2-ti2v-5b", "adapter=lora"]
    assert main(["train", *data(place), *planned]) == 0
    assert "it fits into the 80.0 GiB" in capsys.readouterr().out and not made()


def test_sizes_and_names_of_latents_are_as_ever_for_8_pixels(place: Path) -> None:
    """Those that were made when the numbers stood in YAML are found."""
    cfg = settings("train", [*data(place), f"init={place / 'ours'}"])
    assert sizes_of(cfg) == Sizes((4, 8, 8), (1, 2, 2))
    (clips,) = datasets_of(cfg, "train", sizes_of(cfg))
    assert [tuple(clips[i].clip.shape[2:]) for i in range(4)] == [(64, 112), (112, 64), (64, 96), (80, 80)]
    assert clips.fingerprint(0).endswith(f"-{WORDS[0]}-5xNonexNone/{AREA}@8.0-crop-(4, 8, 8)-(1, 2, 2)")
    for words in ([], ["stage=vae"], ["experiment=toy_fast"], ["experiment=toy_dit"], ["experiment=toy_smoke"]):
        assert sizes_of(settings("train", words)) == Sizes((4, 8, 8), (1, 2, 2)), words


def test_the_patch_is_that_of_the_dit_that_trains(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A new one's too, and `encode` takes the same keys; what a teacher lacks is no size."""
    vae = [f"vae_from={place / 'ours'}", "model=tiny"]
    assert main(["encode", *data(place), *vae, "model.patch=[1,4,4]"]) == 0
    assert shapes() == [(8, 8), (8, 12), (8, 12), (12, 8)]
    before = made()
    small = ["text=tiny", "vae=tiny", "vae.latent_channels=4"]
    assert main(train(*data(place), *vae, *small, "model.patch=[1,4,4]")) == 0
    assert made() == before
    asked = ["request.guidance=1", "request.steps=1", f"teacher={{model: {place / 'ours'}, steps: 1, guidance: 2}}"]
    student = settings("train", [*vae, *asked, "model.patch=[1,1,3]"])
    assert sizes_of(student) == Sizes((4, 8, 8), (1, 2, 6))
    save_model(tiny_pipeline(place / "two") / FILES["dit"], shake(build("dit", **{**DIT, "patch": [2, 2, 2]})))
    student = replace(student, teacher=replace(student.teacher, model=str(place / "two")))
    with pytest.raises(InputError, match="two: its DiT takes 2 latent frames at a time, the student's 1"):
        sizes_of(student)
    other = settings("train", [*vae, "model.patch=[2,1,1]"]).model
    assert sizes_of(replace(student, model=other)) == Sizes((4, 8, 8), (2, 2, 2))


def test_a_run_before_that_is_not_there_says_what_its_vae_will_take(place: Path) -> None:
    first = '["stage=vae","vae=tiny","vae.patch=4","run_dir=first"]'
    second = f"""["stage=vae","init=first","run_dir=second",'after=[{first}]']"""
    words = [f"after=[{first},{second}]", "vae_from=second"]
    assert sizes_of(settings("train", words)).stride == (4, 16, 16)


CANNOT = {
    "frames": (["data.frames=6"], "data.frames=6: ", "1 + k*4 frames", "9 frames would do"),
    "area": (["data.area=1000"], "data.area=1000: ", "32x32 is the least, 1024 pixels"),
    "size": (
        ["data.area=null", *EDGES],
        "data: height=48, width=48: ", "multiples of 32", "64x64, 5 frames would do",
    ),
    "held out": (
        ["data.heldout.0.area=null", "data.heldout.0.height=32", "data.heldout.0.width=80"],
        "data: height=32, width=80: ", "96x32, 5 frames would do",
    ),
    "older key": (["+data.train.0.stride=[4,8,8]"], "data.train.0.stride: ", "VAE and the DiT", "leave it out"),
    "older key without +": (["data.train.0.patch=[1,2,2]"], "data.train.0.patch: ", "VAE and the DiT", "leave it out"),
}  # fmt: skip


@pytest.mark.parametrize("command", ["train", "encode"])
@pytest.mark.parametrize("what", CANNOT)
def test_what_does_not_fit_is_refused_before_anything_is_encoded(
    place: Path, command: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words, key, *told = CANNOT[what]
    begun = ["encode", *data(place)] if command == "encode" else train(*data(place))
    line = refused([*begun, f"init={place / '5b'}", *words], capsys)
    assert key in line and all(one in line for one in told), line


def test_a_data_set_of_other_sizes_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Toy worlds, and the crops of a VAE's training."""
    line = refused(train("data=toy_small", f"init={place / '5b'}"), capsys)
    assert line.startswith("data.train.1: clips of 48x32, 9 frames do not fit: a VAE of stride 4x16x16")
    assert line.endswith("64x32, 9 frames would do")
    crop = "crops.crops.0={_target_: videodit.data.batches.Crop, frames: 9, height: 32, width: 40, weight: 1}"
    line = refused(["train", "stage=vae", *tiny.CLIPS, *tiny.VAE, "vae.patch=4", "run_dir=run", crop], capsys)
    assert line.startswith("crops.crops.0: clips of 40x32, 9 frames do not fit") and "48x32" in line


def test_a_config_from_before_goes_on(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its data sets have a stride and a patch, which make no difference."""
    command = train(*data(place), f"init={place / 'ours'}")
    assert main(command) == 0
    said = read_json(Path("run/config.json"), dict[str, Any])
    for split in ("train", "heldout"):
        assert "stride" not in said["data"][split][0]
        said["data"][split][0] |= {"stride": [4, 8, 8], "patch": [1, 2, 2]}
    Path("run/config.json").write_text(json.dumps(said))
    capsys.readouterr()
    assert main([*command, "loop.steps=2"]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "another config" in line]
    assert told == ["resuming with another config: loop.steps: 1 -> 2 (safe)"]
    assert main(["info", "run"]) == 0 and main(["report", "run"]) == 0


def ingest(place: Path, out: str, *overrides: str) -> list[str]:
    """`videodit ingest` of the clips."""
    shape = ["shape.frames=5", f"shape.areas=[{AREA}]", "heldout_share=0.3", "report=false", "engine.workers=1"]
    return ["ingest", str(place / "clips"), f"out={out}", *shape, "select.frozen=null", *overrides]


def sizes(out: str) -> set[tuple[int, int]]:
    """Of a set's clips."""
    return {tuple(size) for several in read_manifest(Path(out))["sizes"].to_pylist() for size in several}


def test_a_set_has_the_sizes_of_the_model_that_encodes_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that was made for other sizes is refused, in a line that says how to make one that fits."""
    assert main(ingest(place, "usual", "vae=")) == 0
    assert sizes("usual") > {(64, 112)} and all(not edge % 16 for size in sizes("usual") for edge in size)
    on = ["data=set", f"init={place / '5b'}", "adapter=lora"]
    line = refused(train("data.root=usual", *on), capsys)
    assert line.startswith("data.train.0, usual: clips of ") and "shape.multiple=32" in line
    assert main(ingest(place, "coarse", "vae=", "shape.multiple=32")) == 0
    assert main(ingest(place, "own", f"vae={place / '5b'}")) == 0
    assert sizes("own") == sizes("coarse") and all(not edge % 32 for size in sizes("own") for edge in size)
    line = refused(ingest(place, "not", f"vae={place / '5b'}", "shape.multiple=48"), capsys)
    assert line == "shape.multiple=48: the VAE and the DiT take multiples of 32"
    assert refused(ingest(place, "not", "shape.stride=[4,16,16]"), capsys).startswith("shape.stride: sizes are those")
    assert main(train("data.root=own", *on)) == 0
