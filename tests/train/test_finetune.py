"""Fine-tuning through `videodit train`: of our models and public ones, of all weights and of adapters."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanPipeline
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import videodit
from tests.compare import assert_equal, denoised
from tests.parity import pipelines
from tests.parity.pipelines import WORDS
from tests.tiny import DIT, tiny_pipeline
from tests.train import tiny
from tests.train.test_resume import state
from videodit.checkpoint.find import describe
from videodit.checkpoint.store import write_json
from videodit.cli.main import main
from videodit.data.video import read, write
from videodit.models.build import build
from videodit.models.pack import Ragged, patchify
from videodit.plan.training import Training, dit_step
from videodit.shapes import LatentShape
from videodit.track.jsonl import records
from videodit.train import init
from videodit.train.adapter import LoRA
from videodit.untrusted import read_json

REQUEST = {"frames": 5, "height": 32, "width": 32, "fps": 16.0, "steps": 2, "guidance": 3.0, "seed": 1}
LOOP = "loop={{steps: {steps}, save_every: 2, sample_every: 100, log_every: 1}}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny public model, one of ours, and clips with captions."""
    place = tmp_path_factory.mktemp("finetune")
    pipelines.pipeline("2.1", place / "public")
    tiny_pipeline(place / "ours")
    (place / "clips").mkdir()
    lines = []
    for number in range(3):
        clip = np.full((5, 32, 32, 3), 70 * number, dtype=np.uint8)
        clip[:, 8:16, 4 * number : 4 * number + 8, number] = 250
        write(place / "clips" / f"{number}.mp4", clip, 8.0)
        lines.append(f'{{"file_name": "{number}.mp4", "caption": "{WORDS[number % 2]}"}}\n')
    (place / "clips" / "metadata.jsonl").write_text("".join(lines))
    return place


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    monkeypatch.setenv("VIDEODIT_CACHE", str(place / "states"))


def command(place: Path, run: str, init: str, *overrides: str, steps: int = 2) -> list[str]:
    """`videodit train` on the clips, a few steps."""
    return [
        "train", "data=videofolder", f"data.root={place / 'clips'}", f"data.heldout_root={place / 'clips'}",
        "data.frames=5", "data.area=1024",
        "packs={tokens: 64, image: 0, whole: 1}", "precision=fp32", "optim.warmup=1", "ema=0.5", "samples.prompts=[]",
        "request.height=32", "request.width=32", "request.frames=5", "request.steps=1", "workers=0",
        f"cache={place / 'latents'}", f"run_dir={place / run}", f"init={place / init}", LOOP.format(steps=steps),
        *overrides,
    ]  # fmt: skip


ADAPTER = ("adapter=lora", "adapter.rank=3", "adapter.alpha=6", "optim.make.lr=0.05")


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    """A LoRA run on the public model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDEODIT_CACHE", str(place / "states"))
        assert main(command(place, "lora", "public", *ADAPTER, steps=4)) == 0
    return place / "lora"


def clip(model: Path, **how: object) -> torch.Tensor:
    return videodit.load(str(model), device="cpu", **how)(WORDS[0], sampler="unipc", **REQUEST).clip


def theirs(model: Path, adapter: Path | None = None) -> torch.Tensor:
    """What diffusers makes of a folder."""
    pipe = WanPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    if adapter:
        pipe.load_lora_weights(str(adapter))
    asked = {"num_inference_steps": 2, "guidance_scale": 3.0, "negative_prompt": ""}
    return pipelines.clip(pipe, WORDS[0], size=(5, 32, 32), seed=1, **asked)


def test_a_run_is_a_model_and_its_file_an_adapter(place: Path, trained: Path, tmp_path: Path) -> None:
    """The run, the file on the base, the file in diffusers, and the merged weights in both layouts: the same pixels."""
    assert sorted(path.name for path in (trained / "model").iterdir()) == ["adapter.safetensors", "pipeline.json"]
    expected = clip(trained)
    assert (expected - clip(place / "public")).abs().max() > 0.02, "training changed nothing"
    assert torch.equal(expected, clip(place / "public", lora=trained))
    assert torch.equal(expected, clip(place / "public", lora={trained / "model" / "adapter.safetensors": 1}))
    assert main(["export", f"model={trained}", "format=adapter", f"out={tmp_path / 'a.safetensors'}"]) == 0
    assert (theirs(place / "public", tmp_path / "a.safetensors") - expected).abs().max() < 2e-3
    for form in ("videodit", "diffusers"):
        assert main(["export", f"model={trained}", f"format={form}", f"out={tmp_path / form}"]) == 0
        assert torch.equal(clip(tmp_path / form), expected)
    assert (theirs(tmp_path / "diffusers") - expected).abs().max() < 2e-3
    lora = f"lora={trained}:0.5"
    assert main(["export", f"model={place / 'public'}", lora, f"out={tmp_path / 'half'}"]) == 0
    assert torch.equal(clip(tmp_path / "half"), clip(place / "public", lora=f"{trained}:0.5"))


def test_the_file_says_what_it_is(trained: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(trained / "model")]) == 0
    told = capsys.readouterr().out
    assert f'a change of   {{"model": "{place / "public"}", "weights": {{"dit": ' in told and '"rank": 3' in told
    keys = load_file(trained / "model" / "adapter.safetensors")
    assert len(keys) == 2 * 2 * 10 and all(key.startswith("diffusion_model.blocks.") for key in keys)
    assert keys["diffusion_model.blocks.1.cross_attn.o.lora_A.weight"].shape == (3, 40)


def test_only_the_adapter_has_gradients_averages_and_a_place_in_checkpoints(place: Path, trained: Path) -> None:
    tensors, _ = state(trained / "checkpoints")
    assert {name.split("/")[0] for name in tensors} == {"model", "ema", "optim"}
    names = {name for name in tensors if name.startswith(("model/", "ema/"))}
    assert names and all(".lora_A." in name or ".lora_B." in name for name in names)
    sizes = sum(path.stat().st_size for path in (trained / "checkpoints").rglob("*.safetensors"))
    assert sizes < 3 * 5 * (trained / "model" / "adapter.safetensors").stat().st_size
    norms = next(record for record in records(trained / "metrics.jsonl") if "loss" in record)
    assert norms["gradient norm"] > 0


def test_going_on_is_never_having_stopped(place: Path, trained: Path) -> None:
    """Half the steps, and then the rest by the same command."""
    for steps in (2, 4):
        assert main(command(place, "broken", "public", *ADAPTER, steps=steps)) == 0
    (ours, _), (theirs, _) = state(place / "broken" / "checkpoints"), state(trained / "checkpoints")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    files = [(run / "model" / "adapter.safetensors").read_bytes() for run in (place / "broken", trained)]
    assert files[0] == files[1] and torch.equal(clip(place / "broken"), clip(trained))


def test_captions_are_encoded_once_and_the_encoder_is_closed(
    place: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no(*_: object, **__: object) -> None:
        raise AssertionError("the encoder was opened")

    monkeypatch.setattr("videodit.checkpoint.texts.Remembered._open", no)
    assert main(command(place, "again", "public", *ADAPTER, "parallel.recompute=blocks")) == 0
    losses = [[record["loss"] for record in records(run / "metrics.jsonl") if "loss" in record][:2]
              for run in (place / "again", trained)]  # fmt: skip
    assert losses[0] == losses[1]
    for states in (place / "latents" / "text").iterdir():  # a run that needs them makes them again
        states.unlink()
    with pytest.raises(AssertionError, match="the encoder was opened"):
        from videodit.cli import compose, train
        from videodit.cli.typed import typed
        from videodit.config import conf_dir

        line = compose.parse(conf_dir(), "train", command(place, "other", "public", *ADAPTER)[1:], positional=None,
                             sweeps=True)  # fmt: skip
        train.run(typed("train", compose.config(conf_dir(), "train", line)))


@pytest.mark.parametrize(("dora", "rslora"), [(False, True), (True, False)], ids=["rslora", "dora"])
def test_merged_weights_compute_what_trained(place: Path, tmp_path: Path, dora: bool, rslora: bool) -> None:
    """PEFT beside the weights, with the GELU of ffn.0 after the sum; and the weights with the file's change."""
    part = describe(str(place / "public"))[1]["dit"]
    dit = part.load()
    adapter = LoRA(rank=2, alpha=3.0, targets=["attention.q", "cross.v", "ffn.0", "ffn.2"], dora=dora, rslora=rslora)
    adapter.inject(dit)
    trained = {name for name, parameter in dit.named_parameters() if parameter.requires_grad}
    assert trained and all(".lora_" in name for name in trained)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in sorted(trained):
            parameter = dit.get_parameter(name)
            parameter += 0.3 * torch.randn(parameter.shape, generator=random)
    from videodit.checkpoint.adapters import attach, save_adapter

    changes = adapter.changes({name: tensor.detach() for name, tensor in dit.state_dict().items()})
    save_adapter(tmp_path / "a.safetensors", changes, part.spec, {})
    merged = attach({"dit": part}, {str(tmp_path / "a.safetensors"): 1.0})["dit"].load()
    x, t = torch.randn(4, 2, 4, 4, generator=random), torch.tensor([0.4], dtype=torch.float64)
    text = Ragged(torch.randn(3, pipelines.TEXT_DIM, generator=random), (3,))
    with torch.no_grad():
        before, after, expected = (
            denoised(network, patchify([x], dit.patch), t, text) for network in (part.load(), merged, dit)
        )
    assert_equal(after, expected)
    assert (before - expected).abs().max() > 0.1
    names = safe_open(tmp_path / "a.safetensors", "pt").keys()
    assert all(name.startswith("transformer." if dora else "diffusion_model.") for name in names)


def test_dora_through_the_command(place: Path) -> None:
    assert main(command(place, "dora", "public", *ADAPTER, "adapter.dora=true", "adapter.rslora=true")) == 0
    expected = theirs(place / "public", place / "dora" / "model" / "adapter.safetensors")
    assert (clip(place / "dora") - expected).abs().max() < 2e-3


def test_all_weights_of_a_public_model(place: Path) -> None:
    """Its text encoder and VAE stay where they are; settings are the model's."""
    run = command(place, "full", "public", "optim=adamw", "optim.make.lr=0.01")
    assert main(run) == 0
    model = place / "full" / "model"
    assert sorted(path.name for path in model.iterdir()) == ["dit.safetensors", "pipeline.json"]
    settings, parts, _ = describe(str(model))
    base = describe(str(place / "public"))
    assert settings == base[0] and parts["text"].fingerprint == base[1]["text"].fingerprint
    assert (clip(model) - clip(place / "public")).abs().max() > 0.02
    assert main([*command(place, "on_full", "full", *ADAPTER)]) == 0  # a change of a change
    assert (clip(place / "on_full") - clip(model)).abs().max() > 1e-3


def test_a_model_of_ours(place: Path) -> None:
    """All of it trains, text encoder included, and is published whole; an adapter leaves it as it is."""
    assert main(command(place, "own", "ours", "optim=adamw")) == 0
    names = sorted(path.name for path in (place / "own" / "model").iterdir())
    assert names == ["dit.safetensors", "pipeline.json", "text.safetensors", "tokenizer.json", "vae.safetensors"]
    before, after = (describe(str(place / name))[1]["text"].load().state_dict() for name in ("ours", "own"))
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert main(command(place, "own_lora", "ours", *ADAPTER)) == 0
    assert sorted(path.name for path in (place / "own_lora" / "model").iterdir()) == [
        "adapter.safetensors", "pipeline.json"
    ]  # fmt: skip
    assert describe(str(place / "own_lora"))[0] == describe(str(place / "ours"))[0]


def test_the_bundled_model(place: Path) -> None:
    """Its file is older than some arguments."""
    assert main([*command(place, "toy", "ours", *ADAPTER), "init=toy"]) == 0
    assert read_json(place / "toy" / "model" / "pipeline.json")["base"]["model"] == "toy"
    assert describe(str(place / "toy"))[1]["dit"].added


def test_another_vae_is_published_beside(place: Path) -> None:
    """One whose latents have as many channels."""
    assert main(command(place, "other_vae", "ours", *ADAPTER, f"vae_from={place / 'public'}")) == 0
    model = place / "other_vae" / "model"
    assert (model / "vae.safetensors").is_file()
    ours, public = (describe(str(path))[1]["vae"].load().state_dict() for path in (model, place / "public"))
    assert all(torch.equal(ours[name], public[name]) for name in public)


def test_generate_takes_adapters_and_records_them(place: Path, trained: Path, tmp_path: Path, capsys) -> None:
    out, again = tmp_path / "a.mp4", tmp_path / "b.mp4"
    size = ["size=32x32", "frames=5", "steps=2"]
    asked = [f"model={place / 'public'}", f"lora={trained}:0.8"]
    assert main(["generate", WORDS[0], *asked, *size, f"out={out}"]) == 0
    assert read_json(out.with_name("a.mp4.json"))["lora"] == {str(trained): 0.8}
    assert main(["generate", f"recipe={out}", *asked, f"out={again}"]) == 0
    assert np.array_equal(read(out)[0], read(again)[0])
    assert main(["generate", f"recipe={out}", asked[0], f"out={again}"]) == 2
    told = capsys.readouterr().err
    assert "recipe: made with lora=" in told and "other weights (dit)" in told


def test_the_base_must_be_there_and_the_same(place: Path, trained: Path, tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained / "model", run)
    settings = read_json(run / "pipeline.json")
    for base, words in (
        ({**settings["base"], "model": "/no/where"}, f"{run} is a change of another model, which cannot be opened"),
        ({**settings["base"], "weights": {"dit": "0"}}, "has other weights now (dit)"),
        ("public", "pipeline.json: base: must be a valid dictionary"),
    ):
        write_json(run / "pipeline.json", {**settings, "base": base})
        assert main(["info", str(run)]) in (0, 2)
        assert main(["generate", "a ball", f"model={run}", f"out={tmp_path / 'x.mp4'}"]) == 2
        told = capsys.readouterr().err.strip().splitlines()[-1]
        assert words in told and told.startswith("videodit: error: ")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["adapter.rank=0"], "adapter.rank=0: must be a whole number"),
        (["adapter.alpha=-1"], "adapter.alpha=-1"),
        (["adapter.targets=[attention.w]"], "adapter.targets=attention.w: they are some of attention.q"),
        (["adapter=dora"], "adapter=dora: not among lora, none"),
        (["init="], "adapter=lora: it changes a model: name that with init="),
        (["stage=vae"], "adapter=lora: it changes a DiT, not a VAE"),
        (["flow=cosine_ddpm"], "flow=cosine_ddpm: init="),
        (["vae_from=toy"], "vae_from=toy: its latents have"),
    ],
)
def test_mistakes(place: Path, capsys: pytest.CaptureFixture[str], wrong: list[str], words: str) -> None:
    given = command(place, "wrong", "public", *ADAPTER)
    if wrong == ["stage=vae"]:  # beside which a DiT's keys are another mistake
        given = [word for word in given if not word.startswith(("packs", "samples", "request"))]
    assert main([*given, *wrong]) == 2
    assert words in capsys.readouterr().err.strip().splitlines()[-1]


def test_more_mistakes(place: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def said(*args: str) -> str:
        assert main(list(args)) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    assert "this run would write over it" in said(*command(place, "lora", "lora", *ADAPTER))
    pipelines.pipeline("a14b", tmp_path / "two")
    assert "it has two experts" in said(*command(place, "wrong", "public", *ADAPTER, f"init={tmp_path / 'two'}"))
    assert "toy has no adapter" in said("export", "model=toy", "format=adapter", f"out={tmp_path / 'a'}")
    assert "for another model" in said("generate", "a ball", f"lora={trained}", f"out={tmp_path / 'x.mp4'}")
    monkeypatch.setitem(sys.modules, "peft", None)
    assert 'adapter=lora needs peft: pip install "videodit[lora]"' in said(*command(place, "wrong", "public", *ADAPTER))


def test_a_plan_knows_what_trains(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An adapter's averages, gradients, optimizer and checkpoint are small; its states are at hand."""
    assert main([*command(place, "planned", "public", *ADAPTER), "plan=true"]) == 0
    assert capsys.readouterr().out.startswith("a step: ")
    specs = {"dit": {"architecture": "dit", "arguments": DIT | {"dim": 96, "ffn": 384}}}
    adapter = LoRA(rank=2, alpha=2.0, targets=["attention.q"], dora=False, rslora=False)
    shapes, words = [LatentShape(2, 4, 4)], {"text": (3,)}

    def inject(networks: torch.nn.ModuleDict) -> None:
        adapter.inject(networks["dit"])

    whole, small = (
        dit_step(specs, shapes, words, Training(torch.float32, (), False, change=change)) for change in (None, inject)
    )
    count = sum(p.numel() for p in build("dit", **specs["dit"]["arguments"]).parameters())
    trained = DIT["layers"] * 2 * 2 * 96
    assert (whole.state, whole.checkpoint) == (16 * count, 16 * count)
    assert (small.state, small.checkpoint) == (4 * count + 16 * trained, 16 * trained)
    assert small.peak < whole.peak
    # Weights that stay in half precision take half, and autocast need not keep a copy of them.
    kept, half = (
        dit_step(specs, shapes, words, Training(torch.bfloat16, (), False, change=inject, kept=kind))
        for kind in (torch.float32, torch.bfloat16)
    )
    assert (half.state, half.checkpoint) == (2 * count + 16 * trained, small.checkpoint)
    assert half.peak < kept.peak - 1.05 * (2 * count) * 0.5


def test_weights_that_stay_may_be_in_half_precision(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: the adapter is in float32, and is trained, measured and sampled."""
    dit = describe(str(place / "public"))[1]["dit"].load(dtype=torch.bfloat16)
    LoRA(rank=2, alpha=2.0, targets=["attention.q", "ffn.0"], dora=False, rslora=False).inject(dit)
    trained = [parameter for parameter in dit.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in trained} == {torch.float32}
    assert dit.blocks[0].ffn[0].base_layer.weight.dtype == torch.bfloat16
    monkeypatch.setattr(init, "kept_in", lambda *_: torch.bfloat16)
    sampled = ["precision=bf16", f"samples.prompts=[{WORDS[0]}]", "samples.seed=3"]
    assert main([*command(place, "half", "public", *ADAPTER), *sampled, LOOP.format(steps=2).replace("100", "2")]) == 0
    found = list(records(place / "half" / "metrics.jsonl"))
    assert any("heldout/loss" in record for record in found) and list((place / "half" / "samples").glob("*.mp4"))
    assert [record["gradient norm"] > 0 for record in found if "loss" in record] == [True, True]
    names = load_file(place / "half" / "model" / "adapter.safetensors")
    assert {tensor.dtype for tensor in names.values()} == {torch.float32}
    assert any(tensor.any() for name, tensor in names.items() if "lora_B" in name)


def test_what_wraps_the_first_linear_gives_its_sum_before_the_gelu() -> None:
    from videodit.nn.linear import FeedForward

    class Beside(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) + x.sum(-1, keepdim=True)

    ffn, x = FeedForward(dim=6, hidden=8), torch.randn(3, 6)
    expected = ffn[2](nn.functional.gelu(ffn[0](x) + x.sum(-1, keepdim=True), approximate="tanh"))
    ffn[0] = Beside(ffn[0])
    assert_equal(ffn(x), expected)
    assert tiny.CHANNELS == pipelines.LATENTS


@pytest.mark.parametrize(("how", "frozen"), [(["adapter=lora"], True), (["freeze=[text]"], True), ([], False)])
def test_words_that_a_frozen_text_encoder_will_not_learn_are_told_before_training(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: list[str], frozen: bool
) -> None:
    """With their count, examples and what helps; one that trains takes them in."""
    shutil.copytree(place / "clips", tmp_path / "clips")
    rows = [{"file_name": f"{number}.mp4", "caption": "a zebra, 红色的狗 of a large ball"} for number in range(3)]
    (tmp_path / "clips" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    where = [f"data.{key}={tmp_path / 'clips'}" for key in ("root", "heldout_root")]
    assert main(command(place, tmp_path.name, "ours", *where, *how, "plan=true")) == 0
    told = capsys.readouterr().err
    assert ("words are unknown to the text encoder, such as" in told) == frozen
    if frozen:
        assert "zebra" in told and "it is frozen and will not learn them" in told and "init=" in told
