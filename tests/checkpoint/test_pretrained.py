"""From a model's name to its networks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.tiny import CAPTIONS, DIT, PIPELINE, TEXT, VAE, tiny_pipeline
from videodit.checkpoint import resolve
from videodit.checkpoint.find import open_pipeline
from videodit.checkpoint.parts import FILES, TOKENIZERS
from videodit.checkpoint.pretrained import Part, check_parts, lacking
from videodit.checkpoint.resolve import find_pipeline
from videodit.checkpoint.store import load_tensors, save_model
from videodit.checkpoint.weights import fingerprint
from videodit.errors import InputError
from videodit.models.build import build


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("original"))


@pytest.fixture
def assets(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Bundled weights: one model, named tiny. The current folder is another, empty one."""
    shutil.copytree(original, tmp_path / "assets" / "tiny")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(resolve, "assets_dir", lambda: tmp_path / "assets")
    return tmp_path / "assets"


def test_a_name_a_folder_and_a_run_folder(assets: Path, original: Path) -> None:
    assert find_pipeline("tiny") == assets / "tiny"
    assert find_pipeline(str(original)) == original
    shutil.copytree(original, "runs/mine/model")
    assert find_pipeline("runs/mine") == Path("runs/mine/model")
    assert find_pipeline("./runs/mine") == Path("runs/mine/model")


def test_a_bundled_name_comes_before_a_folder(assets: Path, original: Path) -> None:
    shutil.copytree(original, "tiny")
    assert find_pipeline("tiny") == assets / "tiny"
    assert find_pipeline("./tiny") == Path("tiny")


@pytest.mark.parametrize("model", ["large", "../assets/none", "here", "/nowhere", ".", "a\\b"])
def test_a_name_that_is_nothing_says_what_there_is(assets: Path, model: str) -> None:
    with pytest.raises(InputError) as error:
        find_pipeline(model)
    assert str(error.value).startswith(f"model={model}: neither a bundled model (tiny) nor a folder")


def test_every_network_comes_whole(original: Path) -> None:
    parts = open_pipeline(str(original), device="cpu", dtype=None)
    assert parts.pipeline == PIPELINE and parts.device == torch.device("cpu")
    [encoder] = parts.text_encoders
    assert len(encoder.tokenizer([CAPTIONS[0]])[0]) == len(CAPTIONS[0].split()) + 1
    for name in ("dit", "text", "vae"):
        network, path = parts.network(name), original / FILES[name]
        stored, header = load_tensors(path)
        assert network.spec == header
        assert all(torch.equal(stored[key], tensor) for key, tensor in network.state_dict().items())
        assert not network.training and not any(p.requires_grad for p in network.parameters())
        assert parts.fingerprints[name] == fingerprint(path)


def test_another_type(original: Path) -> None:
    parts = open_pipeline(str(original), device="cpu", dtype=torch.bfloat16)
    for network in (parts.network("text"), parts.vae):
        assert {p.dtype for p in network.parameters()} == {torch.bfloat16}
    exact = {name for name, p in parts.dit.named_parameters() if p.dtype == torch.float32}
    assert exact == {n for n, _ in parts.dit.named_parameters() if n.startswith("time_embed.") or "table" in n}


@pytest.mark.parametrize("name", [*(FILES[name] for name in lacking({})), TOKENIZERS["text"]])
def test_a_file_that_is_missing_or_broken_is_named(original: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(original, folder)
    (folder / name).write_bytes((folder / name).read_bytes()[:-20])
    with pytest.raises(InputError, match=name):
        open_pipeline(str(folder), device="cpu", dtype=None)
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"{folder} lacks {name}"):
        open_pipeline(str(folder), device="cpu", dtype=None)


def test_a_broken_description_is_named(original: Path, tmp_path: Path) -> None:
    shutil.copytree(original, tmp_path / "model")
    (tmp_path / "model" / "pipeline.json").write_text("{")
    with pytest.raises(InputError, match="pipeline.json: not valid JSON"):
        open_pipeline(str(tmp_path / "model"), device="cpu", dtype=None)


def test_a_network_under_another_ones_name_is_told(tmp_path: Path) -> None:
    folder = tiny_pipeline(tmp_path)
    (folder / "dit.safetensors").write_bytes((folder / "text.safetensors").read_bytes())
    with pytest.raises(InputError, match="dit.safetensors: it holds another architecture"):
        open_pipeline(str(folder), device="cpu", dtype=None)


@pytest.mark.parametrize(("part", "architecture", "change", "told"), [
    ("vae", "video_vae", {**VAE, "latent_channels": 7}, "its channels is 4, but latent_channels of .*vae.* is 7"),
    ("dit", "dit", {**DIT, "out_channels": 8}, "its out_channels is 8, but latent_channels of .*vae.* is 4"),
    ("text", "t5", {**TEXT, "dim": 24}, "its text_dim is 16, but dim of .*text.* is 24"),
])  # fmt: skip
def test_networks_that_do_not_fit_each_other_are_told(
    part: str, architecture: str, change: dict, told: str, tmp_path: Path
) -> None:
    """Before anything is made: the VAE would be opened only after all the denoising."""
    folder = tiny_pipeline(tmp_path)
    save_model(folder / FILES[part], build(architecture, **change))
    with pytest.raises(InputError, match=f"dit.safetensors: {told}.*they should be the same"):
        open_pipeline(str(folder), device="cpu", dtype=None)


def test_two_experts_have_one_patch(tmp_path: Path) -> None:
    folder = tiny_pipeline(tmp_path)
    parts = {name: Part.own(folder / FILES[name]) for name in ("dit", "text", "vae")}
    save_model(folder / "low.safetensors", build("dit", **{**DIT, "patch": [1, 1, 1]}))
    with pytest.raises(InputError, match=r"low.safetensors: its patch is \[1, 1, 1\], but patch of .*dit.safetensors"):
        check_parts({**parts, "dit_low": Part.own(folder / "low.safetensors")})
