"""Adapters as PEFT and diffusers write them: the weights are those that PEFT merges, and diffusers fuses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from diffusers.training_utils import _collate_lora_metadata
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.compare import assert_equal, noise
from tests.parity import pipelines
from videodit.checkpoint.adapters import attach
from videodit.checkpoint.families import wan
from videodit.checkpoint.find import describe
from videodit.checkpoint.keymap import translate
from videodit.checkpoint.pretrained import Part

TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"]
PATTERNS = {
    "rank_pattern": {"to_q": 2, "blocks.1.ffn.net.0.proj": 5},
    "alpha_pattern": {r"^blocks\.\d+\.attn1\.to_k": 7, "ffn.net.2": 1.5},
}
CONFIGS: dict[str, dict[str, Any]] = {
    "alpha": {"lora_alpha": 12},
    "rslora": {"lora_alpha": 5, "use_rslora": True},
    "patterns": {"lora_alpha": 6, **PATTERNS},
    "patterns, rslora": {"lora_alpha": 6, "use_rslora": True, **PATTERNS},
    "dora": {"lora_alpha": 6, "use_dora": True},
    "dora, patterns, rslora": {"lora_alpha": 6, "use_dora": True, "use_rslora": True, **PATTERNS},
    "lora_B.bias": {"lora_alpha": 6, "lora_bias": True},
    "all biases": {"lora_alpha": 6, "bias": "all"},
    "biases of layers": {"lora_alpha": 6, "bias": "lora_only"},
    "whole modules": {"lora_alpha": 6, "modules_to_save": ["proj_out", "norm2"]},
}
WHOLE = ("all biases", "biases of layers", "whole modules")  # what a strength is no part of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("theirs")
    pipelines.pipeline("2.1", found)
    return found


@pytest.fixture(scope="module")
def part(folder: Path) -> Part:
    return describe(str(folder))[1]["dit"]


def adapted(folder: Path, **config: Any) -> peft.PeftModel:
    """The transformer with an adapter of which nothing is zero."""
    how = peft.LoraConfig(r=3, target_modules=TARGETS, **config)
    model = peft.get_peft_model(WanTransformer3DModel.from_pretrained(folder / "transformer"), how)
    for number, (_, parameter) in enumerate(model.named_parameters()):
        if parameter.requires_grad:
            parameter.data += 0.2 * noise(*parameter.shape, seed=number)
    return model


def merged(model: peft.PeftModel, strength: float = 1.0) -> dict[str, Tensor]:
    """Its weights, by PEFT's own hand."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.scale_layer(strength)
    return model.merge_and_unload().state_dict()


def assert_same(part: Part, lora: Mapping[Path, float], theirs: Mapping[str, Tensor]) -> None:
    """All weights of our DiT with these adapters are these of diffusers' transformer, and differ from those without."""
    with_it = attach({"dit": part}, {str(path): strength for path, strength in lora.items()})["dit"]
    table = wan.dit_table("diffusers", part.spec["arguments"])
    expected = translate(dict(theirs), table, set(part.sources), source="theirs")
    moved = 0
    for name, tensor in expected.items():
        assert_equal(with_it.read(name), tensor)
        moved += not torch.equal(tensor, part.read(name))
    assert moved >= 20


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_folder_of_pefts(folder: Path, part: Part, tmp_path: Path, kind: str) -> None:
    """As a folder, as a file in it, and as a file of another name that lies there alone."""
    model = adapted(folder, **CONFIGS[kind])
    model.save_pretrained(tmp_path)
    strength = 1.0 if kind in WHOLE else 0.6
    expected = merged(model, strength)
    assert_same(part, {tmp_path: strength}, expected)
    file = tmp_path / "adapter_model.safetensors"
    assert_same(part, {file: strength}, expected)
    assert_same(part, {file.rename(tmp_path / "mine.safetensors"): strength}, expected)


@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind not in WHOLE])
def test_a_file_of_diffusers(folder: Path, part: Part, tmp_path: Path, kind: str) -> None:
    """With PEFT's config in its header: what diffusers loads and fuses."""
    model = WanTransformer3DModel.from_pretrained(folder / "transformer")
    model.add_adapter(peft.LoraConfig(r=3, target_modules=TARGETS, **CONFIGS[kind]))
    for number, (name, parameter) in enumerate(model.named_parameters()):
        if "lora_" in name:
            parameter.data += 0.2 * noise(*parameter.shape, seed=number)
    said = _collate_lora_metadata({"transformer": model})
    WanPipeline.save_lora_weights(tmp_path, transformer_lora_layers=get_peft_model_state_dict(model), **said)
    pipe = WanPipeline.from_pretrained(folder)
    pipe.load_lora_weights(tmp_path)
    pipe.fuse_lora(components=["transformer"], lora_scale=0.6)
    pipe.unload_lora_weights()
    assert_same(part, {tmp_path: 0.6}, pipe.transformer.state_dict())


@pytest.mark.parametrize("spelling", ["dora_scale", "lora_magnitude_vector", "lora_magnitude_vector.default.weight"])
def test_lengths_by_any_name(folder: Path, part: Part, tmp_path: Path, spelling: str) -> None:
    """PEFT's own name with the adapter's name in it, without it, and kohya's, whose lengths are a column."""
    model = adapted(folder, lora_alpha=3, use_dora=True)
    model.save_pretrained(tmp_path / "theirs")
    named = {}
    for name, tensor in load_file(tmp_path / "theirs" / "adapter_model.safetensors").items():
        module, _, end = name.rpartition(".lora_")
        end = f"lora_{end}".replace("_A.weight", "_A.default.weight").replace("_B.weight", "_B.default.weight")
        lengths = end.startswith("lora_magnitude_vector")
        tensor = tensor[:, None].clone() if spelling == "dora_scale" and lengths else tensor
        named[f"{module}.{spelling if lengths else end}"] = tensor
    save_file(named, tmp_path / "a.safetensors")
    assert_same(part, {tmp_path / "a.safetensors": 1.0}, merged(model))


def test_both_of_two_experts_in_one_file(tmp_path: Path) -> None:
    """`transformer.` and `transformer_2.`, with a config for each in the header."""
    pipelines.pipeline("a14b", tmp_path / "model")
    parts, models, tensors, said = describe(str(tmp_path / "model"))[1], {}, {}, {}
    for name, alpha in (("transformer", 12), ("transformer_2", 5)):
        base = WanTransformer3DModel.from_pretrained(tmp_path / "model" / name)
        models[name] = peft.get_peft_model(base, peft.LoraConfig(r=3, lora_alpha=alpha, target_modules=TARGETS))
        for number, parameter in enumerate(models[name].parameters()):
            parameter.data += 0.2 * noise(*parameter.shape, seed=number) * parameter.requires_grad
        state = get_peft_model_state_dict(models[name])
        tensors |= {f"{name}.{key.removeprefix('base_model.model.')}": x.contiguous() for key, x in state.items()}
        said |= {f"{name}.r": 3, f"{name}.lora_alpha": alpha}
    save_file(tensors, tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(said)})
    found = attach(parts, {str(tmp_path / "a.safetensors"): 1.0})
    for name, expert in (("transformer", "dit"), ("transformer_2", "dit_low")):
        table = wan.dit_table("diffusers", parts[expert].spec["arguments"])
        for ours, tensor in translate(merged(models[name]), table, set(parts[expert].sources), source=name).items():
            assert_equal(found[expert].read(ours), tensor)
