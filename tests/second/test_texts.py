"""A model has the text encoders that its denoiser reads: two, unlike in width and tokenizer, do all that one does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import videodit
from tests.compare import assert_equal, distance
from tests.second.house import NAME, furnish, opened
from tests.tiny import CAPTIONS, PIPELINE, TEXT, VAE, shake
from tests.train import tiny
from videodit.checkpoint.parts import FILES, TOKENIZERS
from videodit.checkpoint.store import save_model, write_json
from videodit.cli.main import main
from videodit.decode import Way
from videodit.errors import InputError
from videodit.models.build import build
from videodit.models.text import TextEncoder, byte_tokenizer, train_tokenizer
from videodit.plan.generation import Job, Planner, Setup
from videodit.plan.machine import Limit
from videodit.plan.training import Training, dit_step
from videodit.shapes import LatentShape

DENOISER = {"latents": 4, "patch": [1, 2, 2], "size": 24, "early": 1, "late": 2, "groups": 2, "words": [16, 24]}
BYTES = TEXT | {"vocabulary": 300, "dim": 24, "bias_per_layer": True}
PARTS = {"dit": (NAME, DENOISER), "text": ("t5", TEXT), "text_2": ("t5", BYTES), "vae": ("video_vae", VAE)}
BRIEF = "loop={{steps: {}, save_every: 2, sample_every: 4, log_every: 1}}"
OF_A_MODEL = ("model", "text", "vae", "area")
SMALL: dict[str, Any] = {"steps": 2, "frames": 5, "size": "32x32"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A random one in a house that knows its denoiser."""
    place = tmp_path_factory.mktemp("two")
    with opened(furnish(place / "conf")):
        folder = place / "model"
        torch.manual_seed(0)
        for name, (architecture, arguments) in PARTS.items():
            save_model(folder / FILES[name], shake(build(architecture, **arguments)))
        train_tokenizer(CAPTIONS, folder / TOKENIZERS["text"], vocabulary=32)
        byte_tokenizer(folder / TOKENIZERS["text_2"])
        write_json(folder / "pipeline.json", PIPELINE)
        yield folder


@pytest.fixture(scope="module")
def command(model: Path) -> list[str]:
    """A training's that starts from it."""
    own = [word for word in tiny.COMMAND if not word.startswith(OF_A_MODEL)]
    return ["train", *own, f"init={model}", f"cache={model.parent / 'cache'}", "workers=0"]


@pytest.fixture(scope="module")
def run(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert main([*command, BRIEF.format(4), f"run_dir={folder}"]) == 0
    return folder


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Of what trains."""
    return {
        f"{name}/{key}": value
        for name in ("dit", "text", "text_2")
        for key, value in load_file(run / "model" / FILES[name]).items()
    }


def test_each_reads_by_its_own_tokenizer(model: Path) -> None:
    pipe = videodit.load(str(model), device="cpu")
    streams = pipe.encode(["a red ball", ""]).streams
    assert {name: stream.lengths for name, stream in streams.items()} == {"text": (4, 1), "text_2": (11, 1)}
    assert {name: stream.states.shape[1] for name, stream in streams.items()} == {"text": 16, "text_2": 24}


@pytest.mark.parametrize("name", [FILES["text_2"], TOKENIZERS["text_2"]])
def test_a_file_of_the_second_that_is_missing_is_named(model: Path, tmp_path: Path, name: str) -> None:
    folder = copytree(model, tmp_path / "copy")
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"{folder} lacks {name}"):
        videodit.load(str(folder), device="cpu")


def test_one_that_no_denoiser_reads_is_refused(model: Path, tmp_path: Path) -> None:
    folder = copytree(model, tmp_path / "copy")
    save_model(folder / FILES["dit"], build(NAME, **DENOISER | {"words": [16]}))
    with pytest.raises(InputError, match="its text_dim is None, but dim of .*text_2.safetensors is 24"):
        videodit.load(str(folder), device="cpu")


def test_the_second_counts(model: Path, tmp_path: Path) -> None:
    folder = copytree(model, tmp_path / "copy")
    torch.manual_seed(7)
    save_model(folder / FILES["text_2"], shake(build("t5", **BYTES)))
    one, other = (videodit.load(str(place), device="cpu")("a red ball", **SMALL).clip for place in (model, folder))
    assert distance(one, other) > 1e-3


def test_both_train(model: Path, run: Path) -> None:
    assert sorted(path.name for path in (run / "samples").glob("*.mp4"))
    before = {f"{name}/{key}": value for name in PARTS for key, value in load_file(model / FILES[name]).items()}
    changed = {key.split("/")[0] for key, value in weights(run).items() if not torch.equal(value, before[key])}
    assert changed == {"dit", "text", "text_2"}
    record = videodit.load(str(run), device="cpu")("a large red ball", **SMALL).record
    assert record["weights"].keys() == PARTS.keys()


def test_it_resumes_to_the_bit(run: Path, command: list[str], tmp_path: Path) -> None:
    for steps in (2, 4):
        assert main([*command, BRIEF.format(steps), f"run_dir={tmp_path}"]) == 0
    ours, theirs = weights(tmp_path), weights(run)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_caption_is_left_out_for_both(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: dict[str, set[str]] = {"text": set(), "text_2": set()}
    call = TextEncoder.__call__

    def listening(self: TextEncoder, prompts: list[str], device: torch.device) -> Any:
        heard[self.name].add(" | ".join(prompts))
        return call(self, prompts, device)

    monkeypatch.setattr(TextEncoder, "__call__", listening)
    assert main([*command, BRIEF.format(2), f"run_dir={tmp_path}", "drop=0.5"]) == 0
    captions = {caption for batch in heard["text"] for caption in batch.split(" | ")}
    assert heard["text"] == heard["text_2"] and "" in captions and len(captions) > 2


def test_an_adapter_under_frozen_ones(model: Path, run: Path, command: list[str], tmp_path: Path) -> None:
    """Their states come from disk; what is published has both from its base."""
    lora = ["adapter=lora", "adapter.rank=2", "adapter.alpha=2", "adapter.targets=[mixer.qkv]"]
    words = [word for word in command if not word.startswith("samples")]
    assert main([*words, *lora, "samples.prompts=[a red ball]", BRIEF.format(2), f"run_dir={tmp_path}"]) == 0
    base = json.loads((tmp_path / "model" / "pipeline.json").read_text())["base"]
    assert base["weights"].keys() == PARTS.keys()
    pipes = [videodit.load(str(place), device="cpu") for place in (tmp_path, model)]
    mine, other = (pipe.encode(["a red ball"]).streams for pipe in pipes)
    assert mine.keys() == other.keys() and all(torch.equal(mine[name].states, other[name].states) for name in mine)


def test_networks_that_come_and_go_make_the_same_video(model: Path) -> None:
    none, whole, block = (
        videodit.load(str(model), device="cpu", offload=offload)("a small blue ball", seed=1, **SMALL).clip
        for offload in ("none", "model", "block")
    )
    assert torch.equal(none, whole)
    assert_equal(none, block)


def test_a_video_of_a_pack_is_made_again(model: Path, tmp_path: Path) -> None:
    """Its layout has the lengths of prompts and negatives by each text encoder."""
    pipe = videodit.load(str(model), device="cpu")
    one, other = pipe(["a red ball", "a small blue cube spins"], negative="gray", **SMALL)
    layout = other.record["made_with"]["layout"]
    assert (layout["prompts"], layout["negatives"]) == ([4, 6], [2, 2])
    assert layout["others"] == [{"prompts": [11, 24], "negatives": [5, 5]}]
    other.save(tmp_path / "other.mp4")
    again = tmp_path / "again.mp4"
    assert main(["generate", f"model={model}", f"recipe={tmp_path / 'other.mp4'}", f"out={again}"]) == 0
    assert again.read_bytes() == (tmp_path / "other.mp4").read_bytes()
    alone = {key: value for key, value in layout.items() if key != "others"}
    for broken in (alone, layout | {"others": layout["others"] * 2}):
        with pytest.raises(InputError, match="it is not of this request and this model"):
            pipe.run([pipe.request("a small blue cube spins", negative="gray", **SMALL)], layout=broken)


def test_a_step_is_planned(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Weights, gradients, averages and the optimizer's state are those of three networks; both texts take memory."""
    assert main([*command, "plan=true", "run_dir=never"]) == 0
    assert capsys.readouterr().out.startswith("a step: up to ")
    specs = {name: {"architecture": PARTS[name][0], "arguments": PARTS[name][1]} for name in ("dit", "text", "text_2")}
    networks = [build(one["architecture"], **one["arguments"]) for one in specs.values()]
    count = sum(p.numel() for network in networks for p in network.parameters())
    shapes, how, words = [LatentShape(2, 4, 4)], Training(torch.float32, (), False), {"text": (5,), "text_2": (9,)}
    plan = dit_step(specs, shapes, words, how)
    assert (plan.state, plan.checkpoint) == (16 * count, 16 * count)
    assert all(dit_step(specs, shapes, words | {name: (90,)}, how).peak > plan.peak for name in words)


def test_a_generation_is_planned(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both text encoders are open together, or one after the other."""
    assert main(["plan", "a ball", f"model={model}", "device=cpu", "size=32x32", "frames=5"]) == 0
    assert "denoise" in capsys.readouterr().out
    parts = videodit.load(str(model), device="cpu").parts
    job = Job((LatentShape(2, 4, 4),), {"text": (4,), "text_2": (11,)}, {"text": (1,), "text_2": (1,)}, 2, guided=True)
    planner = Planner(parts, Limit("this test", 2**40), base=0)
    at_once, in_turn = (
        planner.plan(job, Setup(offload, torch.float32, Way(4))).stages[0].memory for offload in ("none", "model")
    )
    counts = [parts.parts[name].count for name in ("text", "text_2")]
    assert at_once - in_turn == 4 * min(counts)


def test_it_is_exported(run: Path, tmp_path: Path) -> None:
    assert main(["export", f"model={run}", f"out={tmp_path / 'model'}"]) == 0
    ours, theirs = weights(tmp_path), weights(run)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for name in ("text", "text_2"):
        own, other = (place / "model" / TOKENIZERS[name] for place in (tmp_path, run))
        assert own.read_bytes() == other.read_bytes()


def test_a_config_describes_one(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second one comes with a model."""
    words = [word for word in tiny.COMMAND if not word.startswith("model")]
    places = [f"cache={tmp_path / 'cache'}", f"vae_from={tiny.saved_vae(tmp_path)}", f"run_dir={tmp_path / 'run'}"]
    assert main(["train", *words, *places, f"model={NAME}", "model.words=[16,24]", "workers=0"]) == 2
    assert "model: it reads text_2, which text= does not describe" in capsys.readouterr().err
