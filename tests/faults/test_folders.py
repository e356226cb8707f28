"""Public folders and files as they are published: opened as their makers do, or refused in a line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from safetensors.torch import load_file, save_file

import videodit
from tests.loose import single_files
from tests.parity import pipelines
from videodit.checkpoint.find import describe
from videodit.checkpoint.store import write_json
from videodit.cli.main import main
from videodit.errors import InputError
from videodit.models.text import Tokenizer, clean
from videodit.untrusted import read_json

SMALL = {"size": "32x32", "frames": 5, "steps": 2}
OF_2025 = (  # keys of a VAE's config that diffusers 0.35 was the first to write
    *("decoder_base_dim", "in_channels", "out_channels", "is_residual", "patch_size", "scale_factor_spatial"),
    *("scale_factor_temporal", "clip_output"),
)


@pytest.fixture(scope="module", params=["2.1", "a14b"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wan")
    pipelines.pipeline(request.param, folder)
    return folder


@pytest.fixture
def wan(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "wan"))


def generated(model: Path, out: Path, *words: str) -> int:
    """What `videodit generate` ends with."""
    small = [f"{key}={value}" for key, value in SMALL.items()]
    return main(["generate", "a red ball", f"model={model}", f"out={out}", "device=cpu", *small, *words])


# ---------------------------------------------------------------------------------------------------------- absent keys


def test_a_vae_of_2025(wan: Path, tmp_path: Path) -> None:
    file = wan / "vae" / "config.json"
    before = videodit.load(str(wan), device="cpu")("a red ball", **SMALL).clip
    write_json(file, {key: value for key, value in read_json(file).items() if key not in OF_2025})
    assert (videodit.load(str(wan), device="cpu")("a red ball", **SMALL).clip == before).all()
    assert generated(wan, tmp_path / "a.mp4") == 0


# ---------------------------------------------------------------------------------------------------------- two experts

PAIRS = [  # for high noise, for low noise
    ("wan2.2_t2v_high_noise_14B_fp16", "wan2.2_t2v_low_noise_14B_fp16"),
    ("Wan2_2-T2V-A14B_HIGH_bf16", "Wan2_2-T2V-A14B-LOW_bf16"),
    ("wan22-high-q8", "wan22-low-q8"),
    ("Wan2.2-T2V-A14B-HighNoise-Q8_0", "Wan2.2-T2V-A14B-LowNoise-Q8_0"),
    ("high_noise_model", "low_noise_model"),
]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("which", [0, 1])
def test_one_expert_alone_is_refused(
    pair: tuple[str, str],
    which: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = single_files(tmp_path, monkeypatch)
    (folder / "dit.safetensors").rename(file := folder / f"{pair[which]}.safetensors")
    shutil.copy(file, folder / "Wan2_1-T2V-14B_bf16.safetensors")  # no other expert
    own, other = ("high", "low") if which == 0 else ("low", "high")
    assert generated(file, tmp_path / "o.mp4") == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert f"{file}: it is the expert for {own} noise; the one for {other} noise is not beside it" in told
    (folder / "Wan2_1-T2V-14B_bf16.safetensors").unlink()
    with pytest.raises(InputError, match="is not beside it"):
        describe(str(folder))


@pytest.mark.parametrize("pair", PAIRS)
def test_two_experts_are_a_model(pair: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = single_files(tmp_path, monkeypatch)
    (folder / "dit.safetensors").rename(folder / f"{pair[0]}.safetensors")
    shutil.copy(folder / f"{pair[0]}.safetensors", folder / f"{pair[1]}.safetensors")
    for model in (folder, folder / f"{pair[0]}.safetensors", folder / f"{pair[1]}.safetensors"):
        parts = describe(str(model))[1]
        assert [parts[name].weights.files[0].stem for name in ("dit", "dit_low")] == list(pair)


NO_EXPERTS = ("wan2.1_t2v_high_quality", "wan-highres", "Wan2_1-T2V-14B_fp8", "wan2.2_ti2v_5B_fp16")


@pytest.mark.parametrize("name", NO_EXPERTS)
def test_another_name_is_no_expert(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = single_files(tmp_path, monkeypatch)
    (folder / "dit.safetensors").rename(file := folder / f"{name}.safetensors")
    assert set(describe(str(file))[1]) == {"dit", "text", "vae"}


def test_half_of_a_folder_is_refused(tmp_path: Path) -> None:
    """A transformer of two by itself, and an index that names one only."""
    pipelines.pipeline("a14b", tmp_path / "a14b")
    for name, noise in (("transformer", "high"), ("transformer_2", "low")):
        with pytest.raises(InputError, match=f"{name}: it is the expert for {noise} noise"):
            describe(str(tmp_path / "a14b" / name))
    file = tmp_path / "a14b" / "model_index.json"
    index = read_json(file)
    write_json(file, {**index, "transformer_2": [None, None]})
    with pytest.raises(InputError, match=r"boundary_ratio, but no transformer_2"):
        describe(str(tmp_path / "a14b"))
    write_json(file, {**index, "transformer": [None, None]})
    with pytest.raises(InputError, match="names no transformer"):
        describe(str(tmp_path / "a14b"))


# ------------------------------------------------------------------------------------------ files as others repack them


def change(file: Path, how: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    """Write a file again with other tensors."""
    save_file(how(load_file(file)), file)


def equal(one: Path, other: Path) -> None:
    """The networks of two models are the same to the bit."""
    ours, theirs = describe(str(one))[1], describe(str(other))[1]
    assert ours.keys() == theirs.keys()
    for name in ours:
        a, b = ours[name].load().state_dict(), theirs[name].load().state_dict()
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a), name


def test_a_text_encoder_that_brings_its_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = single_files(tmp_path, monkeypatch)
    change(folder / "text.safetensors", lambda held: {**held, "spiece_model": torch.zeros(100, dtype=torch.uint8)})
    equal(folder, tmp_path / "theirs")
    assert generated(folder, tmp_path / "a.mp4") == 0


def test_other_bytes_beside_weights_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = single_files(tmp_path, monkeypatch)
    change(folder / "text.safetensors", lambda held: {**held, "other": torch.zeros(100, dtype=torch.uint8)})
    assert generated(folder, tmp_path / "a.mp4") == 2
    assert "text.safetensors: unknown: other" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        *(("dit", one) for one in ("model.diffusion_model.", "diffusion_model.", "model.", "transformer.", "net.")),
        *(("vae", one) for one in ("vae.", "first_stage_model.")),
        *(("text", one) for one in ("text_encoder.", "text_encoders.umt5xxl.transformer.")),
    ],
)
def test_prefixes_in_use(name: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = single_files(tmp_path, monkeypatch)
    change(folder / f"{name}.safetensors", lambda held: {prefix + key: x for key, x in held.items()})
    equal(folder, tmp_path / "theirs")


WHOLE = {"dit": "model.diffusion_model.", "vae": "vae.", "text": "text_encoders.umt5xxl.transformer."}


def test_a_whole_model_in_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = single_files(tmp_path, monkeypatch)
    held = {}
    for name, prefix in WHOLE.items():
        held |= {prefix + key: x for key, x in load_file(folder / f"{name}.safetensors").items()}
        (folder / f"{name}.safetensors").unlink()
    save_file(held, file := folder / "all.safetensors")
    for model in (folder, file):
        equal(model, tmp_path / "theirs")
    save_file({**held, "stranger": torch.zeros(2)}, file)
    assert generated(file, tmp_path / "a.mp4") == 2
    assert "all.safetensors: unknown: stranger" in capsys.readouterr().err


def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, transformers: str, encoders: str) -> Path:
    """ComfyUI's folder of the model, with other models' files in it; the transformer's file is returned."""
    folder, models = single_files(tmp_path, monkeypatch), tmp_path / "ComfyUI" / "models"
    for place in (transformers, encoders, "vae", "loras", "configs"):
        (models / place).mkdir(parents=True)
    (folder / "dit.safetensors").rename(file := models / transformers / "wan.safetensors")
    shutil.move(folder / "config.json", file.parent)
    shutil.move(folder / "text.safetensors", models / encoders / "umt5_xxl_fp16.safetensors")
    shutil.move(folder / "tokenizer.json", models / encoders)
    shutil.move(folder / "vae.safetensors", models / "vae" / "wan_2.1_vae.safetensors")
    other = {key: x for key, x in load_file(models / encoders / "umt5_xxl_fp16.safetensors").items()
             if "block.1.layer.0.SelfAttention.relative" not in key}  # fmt: skip
    save_file(other, models / encoders / "a_t5xxl.safetensors")
    save_file({"decoder.mid.attn_1.k.weight": torch.zeros(2)}, models / "vae" / "ae.safetensors")
    (models / "vae" / "damaged.safetensors").write_bytes(b"no")
    return file


@pytest.mark.parametrize(("transformers", "encoders"), [("diffusion_models", "text_encoders"), ("unet/wan", "clip")])
def test_the_tree_of_comfyui(
    transformers: str, encoders: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    file = tree(tmp_path, monkeypatch, transformers=transformers, encoders=encoders)
    for model in (file, tmp_path / "ComfyUI", tmp_path / "ComfyUI" / "models"):
        equal(model, tmp_path / "theirs")
    assert generated(file, tmp_path / "a.mp4") == 0
    place = tmp_path / "ComfyUI" / "models" / encoders
    narrow = {key: x.half() for key, x in load_file(place / "umt5_xxl_fp16.safetensors").items()}
    save_file(narrow, place / "a_half.safetensors")
    equal(file, tmp_path / "theirs")
    assert "umt5_xxl_fp16.safetensors is taken" in capsys.readouterr().err
    shutil.copy(file, file.with_name("another.safetensors"))
    assert generated(tmp_path / "ComfyUI", tmp_path / "b.mp4") == 2
    assert "name one file" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------- prompts

PROMPTS = (
    *("a dog\u2019s ball", "\u201copen\u201d", "\u8272\u8c03\uff0c\u8fc7\u66dd", "\ufb01re", "e\u0301", "\ufeffa cat"),
    *("caf\u00c3\u00a9", "a &amp;lt; b", " two\n blanks\u00a0 ", "\u2160\uff21", "plain"),
)


@pytest.mark.parametrize("prompt", PROMPTS, ids=ascii)
def test_prompts_are_prepared_as_the_makers_do(prompt: str) -> None:
    assert clean(prompt, mends=True) == prompt_clean(prompt)


def test_a_mended_prompt_is_another_for_public_models_alone(wan: Path, tmp_path: Path) -> None:
    """A byte order mark is nothing to them; a model of ours, and a record, have what was asked."""
    same, marked = "a red ball", "\ufeffa red ball"
    pipe = videodit.load(str(wan), device="cpu")
    before, after = (pipe.encode([prompt]).streams["text"].states for prompt in (same, marked))
    assert torch.equal(before, after)
    assert pipe(marked, **SMALL).record["prompt"] == marked
    own = pipe.parts.tokenizers["text"]
    plain = Tokenizer(path=own.path)
    ids = [words([same])[0].tolist() == words([marked])[0].tolist() for words in (own, plain)]
    assert ids == [True, False]
    assert not videodit.load("toy", device="cpu").parts.tokenizers["text"].mends


def test_the_copy_in_our_layout_prepares_them_too(saved: Path, tmp_path: Path) -> None:
    assert main(["export", f"model={saved}", f"out={tmp_path / 'own'}", "format=videodit"]) == 0
    assert videodit.load(str(tmp_path / "own"), device="cpu").parts.tokenizers["text"].mends


# --------------------------------------------------------------------------------------- 8-bit weights and scales


def eighths(
    held: dict[str, torch.Tensor], end: str, *, rows: bool = False, marked: bool = False
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A file's tensors as `fp8_scaled` files have them, and what their values are: the matrices of blocks alone."""
    out, values = {}, {}
    for name, x in held.items():
        if x.dim() != 2 or "block" not in name or not name.endswith(".weight"):
            out[name], values[name] = x, x
            continue
        scale = x.abs().amax(dim=1, keepdim=True) / 448 if rows else x.abs().max() / 448
        small = (x / scale).to(torch.float8_e4m3fn)
        out |= {name: small, name.removesuffix(".weight") + end: scale}
        out |= {name.removesuffix("weight") + "scale_input": torch.ones(())} if end == ".scale_weight" else {}
        if marked:
            content = list(b'{"format": "float8_e4m3fn"}')
            out[name.removesuffix("weight") + "comfy_quant"] = torch.tensor(content, dtype=torch.uint8)
        values[name] = small.float() * scale
    assert len(out) > len(held)
    return out, values


SCALED = [(".scale_weight", False, False), (".weight_scale", False, True), (".weight_scale", True, False)]


@pytest.mark.parametrize(("end", "rows", "marked"), SCALED)
@pytest.mark.parametrize("offload", ["none", "block"])
def test_scaled_weights(
    end: str, rows: bool, marked: bool, offload: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network computes with 8-bit values times their scales, as if these were in the file."""
    folder = single_files(tmp_path, monkeypatch)
    plain = Path(shutil.copytree(folder, tmp_path / "plain"))
    for name in ("dit", "text"):
        held, values = eighths(load_file(folder / f"{name}.safetensors"), end, rows=rows, marked=marked)
        mark = {"scaled_fp8": torch.empty(0, dtype=torch.float8_e4m3fn)} if end == ".scale_weight" else {}
        save_file({**held, **mark}, folder / f"{name}.safetensors")
        save_file(values, plain / f"{name}.safetensors")
    equal(folder, plain)
    one, two = (videodit.load(str(x), device="cpu", offload=offload)("a red ball", **SMALL) for x in (folder, plain))
    assert torch.equal(one.clip, two.clip)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("comfy_quant", torch.tensor(list(b'{"format": "nvfp4"}'), dtype=torch.uint8), "nvfp4; of 8-bit weights"),
        ("comfy_quant", torch.tensor(list(b"[]"), dtype=torch.uint8), "comfy_quant: "),
        ("weight_scale", torch.ones(3), r"weight_scale is (3,); expected one number"),
        ("weight_scale", torch.tensor(float("nan")), "weight_scale holds values that are not finite"),
        ("weight_scale", torch.ones((), dtype=torch.int32), "weight_scale is of type I32"),
    ],
)
def test_scales_that_say_something_else(
    name: str, value: torch.Tensor, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = single_files(tmp_path, monkeypatch)
    held, _ = eighths(load_file(folder / "dit.safetensors"), ".weight_scale", marked=True)
    save_file({**held, f"blocks.0.attn1.to_q.{name}": value}, folder / "dit.safetensors")
    assert generated(folder, tmp_path / "a.mp4") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert told in said and str(folder / "dit.safetensors") in said


# ---------------------------------------------------------------------------------------------------------- before work


def test_what_a_file_lacks_is_told_before_anything_is_made(
    wan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of every part, also of those that are opened last: no video is denoised for a VAE that cannot be opened."""
    for part in sorted(file.parent for file in wan.glob("*/*.safetensors")):
        file = next(part.glob("*.safetensors"))
        sound = load_file(file)
        first = min(sound)
        for tensors in ({name: x for name, x in sound.items() if name != first}, {**sound, "other": torch.zeros(3)}):
            save_file(tensors, file)
            assert generated(wan, tmp_path / "a.mp4") == 2
            told = capsys.readouterr().err
            assert f"{file}: " in told and (first in told or "unknown: other" in told)
            assert "denoise" not in told and not list(tmp_path.glob("a*"))
            assert main(["export", f"model={wan}", f"out={tmp_path / 'export'}"]) == 2
            assert not (tmp_path / "export").exists() or not list((tmp_path / "export").iterdir())
            assert main(["info", str(wan)]) == 0 and f"no model      {file}: " in capsys.readouterr().out
        save_file(sound, file)
