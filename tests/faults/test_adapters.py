"""Adapters of others: applied exactly or refused in a line, and it is said where they went."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor

import videodit
from tests.compare import assert_equal, noise
from tests.parity import pipelines
from tests.parity.pipelines import WORDS
from videodit.checkpoint.find import describe
from videodit.checkpoint.pretrained import Part
from videodit.cli.main import main

DIM, FFN = 40, 48
AT = "diffusion_model.blocks.0."
REQUEST = {"frames": 5, "height": 32, "width": 32, "fps": 16.0, "steps": 2, "guidance": 1.0, "seed": 1}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    pipelines.pipeline("2.1", folder)
    return folder


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experts")
    pipelines.pipeline("a14b", folder)
    return folder


def pair(module: str, *, down: str = "lora_A.weight", up: str = "lora_B.weight", dim: int = DIM) -> dict[str, Tensor]:
    """B·A of rank 4."""
    return {f"{module}.{down}": noise(4, dim, seed=1), f"{module}.{up}": noise(dim, 4, seed=2)}


CHANGE = noise(DIM, 4, seed=2) @ noise(4, DIM, seed=1)  # the same, multiplied


def dit(model: Path, lora: object, **how: object) -> torch.nn.Module:
    return videodit.load(str(model), device="cpu", lora=lora, **how).parts.dit


def change_of_q(model: Path, lora: object) -> Tensor:
    name = "blocks.0.attention.q.weight"
    return dit(model, lora).get_parameter(name) - describe(str(model))[1]["dit"].read(name)


def refused(capsys: pytest.CaptureFixture[str], model: Path, lora: object, *words: str) -> None:
    """A command ends with 2 and one line, in which these words are."""
    capsys.readouterr()
    assert main(["generate", "a ball", f"model={model}", f"lora={lora}", "out=/nowhere/x.mp4"]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("videodit: error: ")]
    assert len(said) == 1 and all(word in said[0] for word in words), said


def distilled() -> dict[str, Tensor]:
    """The kinds of keys that step-distilled adapters have: matrices, whole differences, biases, norms, tables."""
    keys = {**pair(f"{AT}self_attn.q"), f"{AT}self_attn.q.diff_b": noise(DIM, seed=3)}
    keys |= {f"{AT}norm3.diff": noise(DIM, seed=4), f"{AT}norm3.diff_b": noise(DIM, seed=5)}
    keys |= {f"{AT}self_attn.norm_q.diff": noise(DIM, seed=6), f"{AT}diff_m": noise(1, 6, DIM, seed=7)}
    keys |= {"diffusion_model.head.diff_m": noise(1, 2, DIM, seed=8)}
    keys |= {"diffusion_model.head.head.diff": noise(16, DIM, seed=9)}
    keys |= {"diffusion_model.head.head.diff_b": noise(16, seed=10)}
    keys |= {"diffusion_model.patch_embedding.diff": noise(DIM, 4, 1, 2, 2, seed=11)}
    keys |= {"diffusion_model.time_projection.1.diff_b": noise(6 * DIM, seed=12)}
    keys |= {"diffusion_model.text_embedding.0.diff": noise(DIM, pipelines.TEXT_DIM, seed=13)}
    return keys


def test_a_distilled_adapter_is_the_sum_made_by_hand(model: Path) -> None:
    by_hand = {
        "blocks.0.attention.q.weight": CHANGE,
        "blocks.0.attention.q.bias": noise(DIM, seed=3),
        "blocks.0.norm2.weight": noise(DIM, seed=4),
        "blocks.0.norm2.bias": noise(DIM, seed=5),
        "blocks.0.attention.norm_q.weight": noise(DIM, seed=6),
        "blocks.0.modulation.table": noise(1, 6, DIM, seed=7)[0],
        "table_out": noise(1, 2, DIM, seed=8)[0],
        "head.weight": rearrange(noise(16, DIM, seed=9), "(place channel) n -> (channel place) n", channel=4),
        "head.bias": rearrange(noise(16, seed=10), "(place channel) -> (channel place)", channel=4),
        "embed.weight": noise(DIM, 4, 1, 2, 2, seed=11).reshape(DIM, 16),
        "time_proj.bias": noise(6 * DIM, seed=12),
        "text_embed.0.weight": noise(DIM, pipelines.TEXT_DIM, seed=13),
    }
    before = describe(str(model))[1]["dit"].load().state_dict()
    file = model.parent / "distilled.safetensors"
    save_file(distilled(), file)
    for name, weight in dit(model, {file: 0.7}).state_dict().items():
        assert_equal(weight, before[name] + 0.7 * by_hand[name] if name in by_hand else before[name])
    clips = [videodit.load(str(model), device="cpu", lora=file, offload=offload)(WORDS[0], **REQUEST).clip
             for offload in ("none", "model", "block")]  # fmt: skip
    assert torch.equal(clips[0], clips[1])
    assert_equal(clips[2], clips[0])


def test_it_is_said_where_an_adapter_went(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a line a file; keys of images are left out and named, with whatever end they have."""
    images = pair(f"{AT}cross_attn.k_img") | pair("transformer.blocks.0.attn2.add_v_proj")
    images |= {
        f"{AT}cross_attn.norm_k_img.diff": torch.ones(DIM),
        "diffusion_model.img_emb.proj.1.diff_b": torch.ones(9),
    }
    images |= pair("lora_unet_blocks_0_cross_attn_v_img", down="lora_down.weight", up="lora_up.weight")
    files = [tmp_path / name for name in ("a.safetensors", "b.safetensors")]
    save_file(distilled(), files[0])
    save_file(distilled() | images, files[1])
    assert main(["export", f"model={model}", f"lora={files[0]}:0.5,{files[1]}", f"out={tmp_path / 'out'}"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"lora={files[0]}: layers changed: 9; strength: 0.5; keys left out: none"
    start = f"lora={files[1]}: layers changed: 9; strength: 1; keys left out: 8 ({AT}cross_attn.k_img.lora_A.weight, "
    assert said[1].startswith(start) and said[1].endswith(" and 3 more): this model has no branch for images")
    both = dit(model, {files[0]: 0.5, files[1]: 1}).state_dict()
    for name, weight in Part.own(tmp_path / "out" / "dit.safetensors").load().state_dict().items():
        assert torch.equal(weight, both[name])


def test_an_adapter_of_images_alone_is_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file(pair(f"{AT}cross_attn.k_img"), tmp_path / "a.safetensors")
    refused(capsys, model, tmp_path / "a.safetensors", "no place for", "k_img.lora_A.weight")


@pytest.mark.parametrize(
    ("key", "word"),
    [
        ("self_attn.q.lokr_w1", "LoKr"),
        ("self_attn.q.lokr_w2_a", "LoKr"),
        ("self_attn.q.hada_w1_a", "LoHa"),
        ("self_attn.q.oft_blocks", "OFT"),
        ("self_attn.q.lora_mid.weight", "LoCon"),
        ("self_attn.q.lora_E", "AdaLoRA"),
        ("self_attn.q.weight", "no place for"),  # whole weights, which no config speaks of
        ("self_attn.q.bias", "no place for"),
        ("self_attn.w.diff", "no place for"),
        ("self_attn.q.diff_m", "no place for"),
        ("self_attn.q.set_weight", "no place for"),
        ("self_attn.norm_q.lora_A.weight", "lacks its partner"),
        ("ffn.0.alpha", "lacks its partner"),
        ("norm3.diff", "is (40, 40), and the model's blocks.0.norm2.weight (40,)"),
    ],
)
def test_what_has_no_place_is_refused_by_name(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, word: str
) -> None:
    save_file(pair(f"{AT}self_attn.q") | {AT + key: torch.ones(DIM, DIM)}, tmp_path / "a.safetensors")
    refused(capsys, model, tmp_path / "a.safetensors", word, AT + key)


def test_alpha_wherever_it_stands(model: Path, tmp_path: Path) -> None:
    """In a tensor, in a header by several names, and for kohya's keys by kohya's; alpha is twice the rank."""
    file, q = tmp_path / "a.safetensors", f"{AT}self_attn.q"
    kohya = pair("lora_unet_blocks_0_self_attn_q", down="lora_down.weight", up="lora_up.weight")
    cases = [
        (pair(q) | {f"{q}.alpha": torch.tensor(8)}, {}),
        (pair(q) | {f"{q}.alpha": torch.tensor([8.0], dtype=torch.bfloat16)}, {"lora_alpha": "8"}),
        (pair(q), {"alpha": "8", "rank": "4"}),
        (pair(q), {"network_alpha": "8.0"}),
        (kohya, {"ss_network_alpha": "8"}),
        (kohya | {"lora_unet_blocks_0_self_attn_q.alpha": torch.tensor(8.0)}, {"ss_network_alpha": "8.0"}),
        (kohya | {"lora_unet_blocks_0_self_attn_q.alpha": torch.tensor(8.0)}, {"ss_network_alpha": "Dynamic"}),
    ]
    for tensors, header in cases:
        save_file(tensors, file, header)
        assert_equal(change_of_q(model, file), 2 * CHANGE)


def test_kohya_s_alpha_is_in_respelt_matrices(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """musubi-tuner's converter multiplies A and B by the root of alpha/r and keeps the header: said, not done again."""
    save_file(pair(f"{AT}self_attn.q"), tmp_path / "a.safetensors", {"ss_network_alpha": "8"})
    assert_equal(change_of_q(model, tmp_path / "a.safetensors"), CHANGE)
    assert "ss_network_alpha of its header: not applied" in capsys.readouterr().err


def test_what_contradicts_itself_is_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    q, file = f"{AT}self_attn.q", tmp_path / "a.safetensors"
    alpha = {f"{q}.alpha": torch.tensor(8.0)}
    kohya = pair("lora_unet_blocks_0_self_attn_q", down="lora_down.weight", up="lora_up.weight")
    cases = [
        (pair(q) | alpha, {"lora_alpha": "4"}, ["contradict each other", "a scale of 2, ", "one of 1"]),
        (
            kohya | {"lora_unet_blocks_0_self_attn_q.alpha": torch.tensor(8.0)},
            {"ss_network_alpha": "2"},
            ["contradict"],
        ),
        (pair(q), {"lora_alpha": "8", "alpha": "4"}, ["contradict each other", "lora_alpha", "its header: alpha"]),
        (pair(q), {"alpha": "8", "rank": "16"}, ["says rank 16", "are of rank 4"]),
        (pair(q), {"lora_alpha": "nan"}, ["lora_alpha='nan' is no number"]),
        (pair(q), {"lora_alpha": "much"}, ["is no number"]),
        (pair(q) | {f"{q}.alpha": torch.ones(2)}, {}, ["alpha is (2,)", "expected 1 number"]),
        (pair(q) | {f"{q}.alpha": torch.tensor(True)}, {}, ["of type BOOL"]),
        (pair(q) | {f"{AT}self_attn.k.lora_B.bias": torch.ones(DIM)}, {}, ["k.lora_B.bias lacks its partner"]),
        (pair(q) | {f"{q}.dora_scale": torch.ones(1, DIM)}, {}, ["lengths of columns"]),
        (pair(q) | {f"{q}.dora_scale": torch.ones(DIM, 1), f"{q}.lora_B.bias": torch.ones(DIM)}, {}, ["lora_B.bias"]),
    ]
    for tensors, header, words in cases:
        save_file(tensors, file, header)
        refused(capsys, model, file, "a.safetensors", *words)
