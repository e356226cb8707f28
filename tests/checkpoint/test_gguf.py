"""GGUF files of transformers and umT5: values as the `gguf` package dequantises them, and refusals in a line."""

from __future__ import annotations

import shutil
import struct
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import save_file
from transformers import UMT5Config, UMT5EncoderModel

import videodit
from tests.compare import shaken
from tests.loose import know_vae
from tests.parity import pipelines
from videodit.checkpoint.families import t5
from videodit.checkpoint.family import table
from videodit.checkpoint.find import describe
from videodit.checkpoint.keymap import names_of, reverse, translate
from videodit.checkpoint.weights import Weights
from videodit.cli.main import main
from videodit.errors import InputError

WIDE = 256  # a row of Q4_K's blocks
SMALL = {"size": "32x32", "frames": 5, "steps": 2}


def quantized(x: torch.Tensor, kind: Kind, draw: np.random.Generator) -> np.ndarray:
    """Bytes of this type: of the values themselves, or of small random ones, which no part of the package makes."""
    if kind != Kind.Q4_K:
        return gguf.quantize(x.float().numpy(), kind)
    blocks = x.numel() // WIDE
    scales = (draw.random((blocks, 2)) * 0.002).astype(np.float16).view(np.uint8)
    rest = draw.integers(0, 256, (blocks, 140), dtype=np.uint8)
    return np.concatenate([scales.reshape(blocks, 4), rest], axis=1).reshape(len(x), -1)


def write(path: Path, held: dict[str, torch.Tensor], kind: Kind, name: str) -> dict[str, torch.Tensor]:
    """A GGUF file whose matrices of blocks are of this type, and the values that it has by the package's own word."""
    writer, values, draw = gguf.GGUFWriter(path, name), {}, np.random.default_rng(0)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", "c"] * 5)
    writer.add_array("tokenizer.ggml.scores", [0.5] * 15)
    for key, x in held.items():
        if x.dim() == 2 and x.shape[1] % WIDE == 0 and "bl" in key:
            raw = quantized(x, kind, draw)
            writer.add_tensor(key, raw, raw_dtype=kind)
            values[key] = torch.from_numpy(gguf.dequantize(raw, kind)).reshape(x.shape)
            continue
        plain = x.half() if x.dim() == 2 else x
        if x.dim() > 4:  # more dimensions than the format has
            writer.add_array(f"comfy.gguf.orig_shape.{key}", list(x.shape))
        writer.add_tensor(key, (plain.flatten(1) if x.dim() > 4 else plain).contiguous().numpy())
        values[key] = plain
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file()
    writer.close()
    return values


def renamed(held: dict[str, torch.Tensor], part: str, layout: str, arguments: dict) -> dict[str, torch.Tensor]:
    """A state with our names under those of another layout."""
    rows = t5.table(layout, arguments) if part == "text" else table("wan", part, layout, arguments)
    return translate(held, reverse(rows), names_of(held, rows), source="a test")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of diffusers as wide as a block, two layers, with 8-bit rows beside it to spare."""
    folder = tmp_path_factory.mktemp("theirs")
    pipe = pipelines.pipeline("2.1", folder)
    torch.manual_seed(0)
    sizes = {"in_channels": 4, "out_channels": 4, "text_dim": WIDE, "freq_dim": WIDE, "ffn_dim": WIDE, "num_layers": 2}
    dit = WanTransformer3DModel(num_attention_heads=2, attention_head_dim=128, **sizes).requires_grad_(False)
    words = pipe.text_encoder.config.vocab_size
    config = UMT5Config(vocab_size=words, d_model=WIDE, num_layers=2, num_heads=2, d_kv=128, d_ff=WIDE,
                        feed_forward_proj="gated-gelu")  # fmt: skip
    shaken(dit, std=0.05).save_pretrained(folder / "transformer")
    shaken(UMT5EncoderModel(config).requires_grad_(False), std=0.05).save_pretrained(folder / "text_encoder")
    return folder


@pytest.fixture
def models(theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> list[Path]:
    """The model with GGUF files of a type, and with the values of these in safetensors."""
    know_vae(theirs, tmp_path / "conf", monkeypatch)
    parts = describe(str(theirs))[1]
    kind, made = getattr(request, "param", Kind.Q8_0), [tmp_path / "gguf", tmp_path / "plain"]
    for place in made:
        place.mkdir()
        shutil.copy(theirs / "tokenizer" / "tokenizer.json", place)
        shutil.copy(next((theirs / "vae").glob("*.safetensors")), place / "vae.safetensors")
    for part, layout, name in (("dit", "vendor", "wan"), ("text", "gguf", "t5encoder")):
        arguments = parts[part].spec["arguments"]
        state = {key: x.clone() for key, x in parts[part].load().state_dict().items()}
        values = write(made[0] / f"{part}.gguf", renamed(state, part, layout, arguments), kind, name)
        save_file({key: x.contiguous() for key, x in values.items()}, made[1] / f"{part}.safetensors")
    return made


@pytest.mark.parametrize("models", [Kind.Q8_0, Kind.Q4_K, Kind.Q5_1, Kind.BF16], indirect=True, ids=lambda k: k.name)
def test_values_are_the_packages_own(models: list[Path]) -> None:
    ours, plain = (describe(str(model))[1] for model in models)
    assert {name: part.weights.files[0].suffix for name, part in ours.items()} == {
        "dit": ".gguf", "text": ".gguf", "vae": ".safetensors"}  # fmt: skip
    for name in ours:
        a, b = ours[name].load(dtype=torch.float32).state_dict(), plain[name].load(dtype=torch.float32).state_dict()
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a), name
        assert all(x.isfinite().all() for x in a.values())
    for offload in ("none", "block"):
        one, two = (videodit.load(str(model), device="cpu", offload=offload)("a red ball", **SMALL) for model in models)
        assert (one.clip - two.clip).abs().max() < 2e-3 < one.clip.std()  # kernels add by how values lie in memory
    file = models[0] / "dit.gguf"
    assert describe(str(file))[1]["dit"].weights.files == [file]


def test_umt5_has_the_names_of_llama_cpp() -> None:
    """As the package's own table of names has them."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, 3)
    for theirs in t5.LAYOUTS["diffusers"].parts.values():
        found = names.get_name(f"encoder.block.2.{theirs}.weight", try_suffixes=(".weight",))
        key = next(key for key, name in t5.LAYOUTS["diffusers"].parts.items() if name == theirs)
        assert found == f"enc.blk.2.{t5.LAYOUTS['gguf'].parts[key]}.weight"
    assert names.get_name("shared.weight", try_suffixes=(".weight",)) == t5.LAYOUTS["gguf"].words
    assert names.get_name("encoder.final_layer_norm.weight", (".weight",)) == t5.LAYOUTS["gguf"].norm


def test_without_the_package_the_extra_is_named(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    for model in (models[0], models[0] / "dit.gguf"):
        assert main(["generate", "a", f"model={model}", f"out={tmp_path / 'o.mp4'}", "frames=1", "steps=1"]) == 2
        told = capsys.readouterr().err.strip().splitlines()
        assert len(told) == 1 and 'pip install "videodit[gguf]"' in told[0]


def test_what_is_no_sound_file_is_refused(models: list[Path]) -> None:
    """Cut, of another version, with sizes that no file has: in a line, and at once."""
    file = models[0] / "dit.gguf"
    whole = file.read_bytes()
    huge = struct.pack("<Q", 2**62)
    key = b"general.architecture"
    first = whole.index(key)
    damaged = {
        **{"empty": b"", "cut": whole[:-100], "short": whole[:20], "table": whole[: len(whole) // 1000]},
        **{"magic": b"GGUX" + whole[4:], "version": whole[:4] + struct.pack("<I", 9) + whole[8:]},
        **{"tensors": whole[:8] + huge + whole[16:], "keys": whole[:16] + huge + whole[24:]},
        "name": whole[: first - 8] + huge + whole[first:],
        "kind": whole[: first + len(key)] + struct.pack("<I", 77) + whole[first + len(key) + 4 :],
        "list": whole[: first + len(key)] + struct.pack("<IIQ", 9, 0, 2**60) + whole[first + len(key) + 16 :],
    }
    for name, content in damaged.items():
        file.write_bytes(content)
        with pytest.raises(InputError, match="dit.gguf"):
            Weights([file])
            pytest.fail(name)


def test_a_type_that_is_not_read_is_told(models: list[Path]) -> None:
    writer = gguf.GGUFWriter(models[0] / "dit.gguf", "wan")
    writer.add_tensor("patch_embedding.weight", np.zeros((256, 66), np.uint8), raw_dtype=Kind.IQ2_XXS)
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match="patch_embedding.weight is of type IQ2_XXS"):
        Weights([models[0] / "dit.gguf"]).read("patch_embedding.weight")


def test_info_tells_of_them(models: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    from videodit.cli.main import main

    for path in models:
        assert main(["info", str(path)]) == 0, capsys.readouterr().err
        assert "transformer" in capsys.readouterr().out
