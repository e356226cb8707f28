"""Public weights as people have them on disk: the vendor's layout, single files, and what can be wrong with them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import videodit
from tests import tiny
from tests.parity import pipelines
from videodit.checkpoint import resolve
from videodit.checkpoint.family import table
from videodit.checkpoint.find import describe
from videodit.checkpoint.keymap import names_of, reverse, translate
from videodit.checkpoint.pretrained import Part
from videodit.checkpoint.store import save_model, write_json
from videodit.cli.main import main
from videodit.config import conf_dir, read_yaml
from videodit.errors import InputError
from videodit.models.build import build
from videodit.untrusted import read_json

NAMES = {"dit": "diffusion_pytorch_model", "vae": "Wan2.1_VAE", "text": "models_t5_umt5-xxl-enc-bf16"}
Folder = Path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = tmp_path_factory.mktemp("theirs")
    pipelines.pipeline("2.1", folder)
    return folder


@pytest.fixture
def copy(folder: Folder, tmp_path: Path) -> Folder:
    shutil.copytree(folder, tmp_path / "model")
    return tmp_path / "model"


def vendor(part: Part, name: str) -> dict[str, torch.Tensor]:
    """A part's tensors under the vendor's names."""
    rows = table("wan", name, "vendor", part.spec["arguments"])
    ours = {key: x.contiguous() for key, x in part.load().state_dict().items() if key not in ("mean", "std")}
    state = translate(ours, reverse(rows), names_of(ours, rows), source="a test")
    return {key: x.clone().contiguous() for key, x in state.items()}


@pytest.fixture
def layout(folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """The vendor's folder of the same weights; its VAE is made known by a conf/pretrained of the test."""
    out = tmp_path / "vendor"
    _, parts, tokenizers = describe(str(folder))
    for name, part in parts.items():
        out.mkdir(exist_ok=True)
        save_file(vendor(part, name), out / f"{NAMES[name]}.safetensors")
    (out / "google" / "umt5").mkdir(parents=True)
    shutil.copyfile(tokenizers["text"], out / "google" / "umt5" / "tokenizer.json")
    write_json(out / "config.json", {"_class_name": "WanModel", "dim": 40, "num_heads": 2})
    conf = tmp_path / "conf"
    shutil.copytree(conf_dir() / "pretrained", conf / "pretrained")
    file = conf / "pretrained" / "parts" / "wan-vae-2.1.yaml"
    numbers = read_yaml(file) | {"arguments": parts["vae"].spec["arguments"], **parts["vae"].constants}
    write_json(file, numbers)  # JSON is YAML
    monkeypatch.setattr(resolve, "conf_dir", lambda: conf)
    return out


def same(a: dict[str, Part], b: dict[str, Part]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        one, two = a[name].load().state_dict(), b[name].load().state_dict()
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one), name


def test_the_vendors_folder(folder: Folder, layout: Folder) -> None:
    settings, parts, tokenizers = describe(str(layout))
    same(parts, describe(str(folder))[1])
    assert settings["defaults"]["steps"] == 50 and tokenizers["text"].name == "tokenizer.json"
    request = {"frames": 5, "height": 32, "width": 32, "fps": 16.0, "steps": 2, "guidance": 3.0}
    here, there = (videodit.load(str(x), device="cpu")("a red ball", **request) for x in (layout, folder))
    shift = {here.record["model"], there.record["model"]}
    assert len(shift) == 2 and here.clip.shape == there.clip.shape


def test_a_single_file_with_a_prefix_and_the_rest_beside_it(folder: Folder, layout: Folder) -> None:
    path = layout / f"{NAMES['dit']}.safetensors"
    state = {f"model.diffusion_model.{key}": x for key, x in load_file(path).items()}
    save_file(state, path)
    same(describe(str(path))[1], describe(str(folder))[1])


def test_two_experts_in_the_vendors_folder(layout: Folder) -> None:
    for name in ("high_noise_model", "low_noise_model"):
        (layout / name).mkdir()
        shutil.copyfile(layout / "config.json", layout / name / "config.json")
    (layout / f"{NAMES['dit']}.safetensors").rename(layout / "high_noise_model" / "model.safetensors")
    with pytest.raises(InputError, match="no file of a transformer's|the one for high noise is not beside it"):
        shutil.move(layout / "high_noise_model" / "model.safetensors", layout / "low_noise_model" / "model.safetensors")
        describe(str(layout))
    shutil.copyfile(layout / "low_noise_model" / "model.safetensors", layout / "high_noise_model" / "model.safetensors")
    settings, parts, _ = describe(str(layout))
    assert "dit_low" in parts and settings["boundary"] == 0.875 and settings["defaults"]["guidance"] == [4.0, 3.0]


def said(model: Path | str, capsys: pytest.CaptureFixture[str]) -> str:
    """What `videodit generate` says of a model that cannot be used, in one line."""
    assert main(["generate", "a ball", f"model={model}", "out=/tmp/never.mp4", "frames=1", "steps=1"]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1 and error.startswith("videodit: error: ")
    return error


Damage = Callable[[Folder], None]


def edit(file: str, change: Callable[[dict[str, torch.Tensor]], None]) -> Damage:
    def damage(folder: Folder) -> None:
        state = load_file(folder / file)
        change(state)
        save_file(state, folder / file)

    return damage


def rename(state: dict[str, torch.Tensor]) -> None:
    state["blocks.0.attn1.to_kk.weight"] = state.pop("blocks.0.attn1.to_k.weight")


def spoil(state: dict[str, torch.Tensor]) -> None:
    state["blocks.1.ffn.net.2.weight"][3, 4] = float("nan")


def reshape(state: dict[str, torch.Tensor]) -> None:
    state["patch_embedding.bias"] = state["patch_embedding.bias"][:-1].clone()


def flatten(state: dict[str, torch.Tensor]) -> None:
    """What our order cannot be made of."""
    state["patch_embedding.weight"] = state["patch_embedding.weight"].reshape(-1)


def truncate(folder: Folder) -> None:
    path = folder / DIT
    path.write_bytes(path.read_bytes()[:-100])


def swap(folder: Folder) -> None:
    one, two = folder / DIT, folder / "vae" / "diffusion_pytorch_model.safetensors"
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)


def pickled(folder: Folder) -> None:
    (folder / DIT).rename(folder / "transformer" / "diffusion_pytorch_model.bin")


def image_to_video(folder: Folder) -> None:
    path = folder / "transformer" / "config.json"
    write_json(path, read_json(path) | {"added_kv_proj_dim": 40, "image_dim": 1280})


DIT = "transformer/diffusion_pytorch_model.safetensors"
DAMAGES = [
    (edit(DIT, rename), r"unknown: blocks.0.attn1.to_kk.weight; missing: blocks.0.attn1.to_k.weight"),
    (edit(DIT, spoil), r"blocks.1.ffn.net.2.weight holds values that are not finite"),
    (edit(DIT, flatten), r"patch_embedding.weight is \(\d+,\), expected \(40, \d+\)"),
    (edit(DIT, reshape), r"patch_embedding.bias is \(39,\) in our order, expected \(40,\)"),
    (truncate, r"diffusion_pytorch_model.safetensors is not a readable safetensors file .* truncated"),
    (swap, r"unknown: decoder.conv_in.bias.*missing"),
    (pickled, r"diffusion_pytorch_model.bin is a pickle, .* only safetensors are read"),
    (image_to_video, r"takes images as well; only text-to-video"),
]


@pytest.mark.parametrize(("damage", "expected"), DAMAGES, ids=[d.__name__ + str(i) for i, (d, _) in enumerate(DAMAGES)])
def test_damage_is_told_in_a_line(
    copy: Folder, damage: Damage, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(copy)
    text = said(copy, capsys)
    assert str(copy) in text
    import re

    assert re.search(expected, text), text


def test_shards(copy: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    """Sharded weights open; shards exchanged, or one missing, are told."""
    expected = describe(str(copy))[1]["dit"].load().state_dict()
    state = load_file(copy / DIT)
    (copy / DIT).unlink()
    names, files = sorted(state), ("a-00001.safetensors", "a-00002.safetensors")
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    place = copy / "transformer"
    for file, half in zip(files, halves, strict=True):
        save_file({name: state[name] for name in half}, place / file)
    weight_map = {name: file for file, half in zip(files, halves, strict=True) for name in half}
    index = place / "diffusion_pytorch_model.safetensors.index.json"
    write_json(index, {"metadata": {}, "weight_map": weight_map})
    loaded = describe(str(copy))[1]["dit"].load().state_dict()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)

    right = {"sha256": {file: sha256((place / file).read_bytes()).hexdigest() for file in files}}
    right["total_size"] = sum(x.numel() * x.element_size() for x in state.values())
    write_json(index, {"metadata": right, "weight_map": weight_map})
    for _ in range(2):  # the second time from memory
        loaded = describe(str(copy))[1]["dit"].load().state_dict()
        assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    write_json(index, {"metadata": {"total_size": 5}, "weight_map": weight_map})
    assert "it promises 5 bytes of tensors, the files hold" in said(copy, capsys)
    write_json(index, {"metadata": right, "weight_map": weight_map})
    whole = (place / files[1]).read_bytes()
    (place / files[1]).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # a bit that no other check would see
    assert f"{files[1]}: its SHA-256 is" in said(copy, capsys)
    (place / files[1]).write_bytes(whole)

    for a, b in ((files[0], "x"), (files[1], files[0]), ("x", files[1])):
        (place / a).rename(place / b)
    assert "are files swapped?" in said(copy, capsys)
    (place / files[0]).unlink()
    assert f"{files[0]} does not exist" in said(copy, capsys)
    write_json(index, {"metadata": {}, "weight_map": {name: "../vae/x.safetensors" for name in names}})
    assert "is not a file name in this folder" in said(copy, capsys)
    index.write_text("[]")
    assert "is not an index" in said(copy, capsys)


def test_a_pickle_of_the_vendors(layout: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    (layout / f"{NAMES['vae']}.safetensors").rename(layout / f"{NAMES['vae']}.pth")
    assert "Wan2.1_VAE.pth is a pickle" in said(layout, capsys)
    assert "is a pickle" in said(layout / f"{NAMES['vae']}.pth", capsys)


@pytest.mark.parametrize("model", ["wan2.1-t2v-1.3b", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"])
def test_no_network(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Offline it says what to download and where to put it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    text = said(model, capsys)
    assert "hf download Wan-AI/Wan2.1-T2V-1.3B-Diffusers --local-dir FOLDER" in text and "model=FOLDER" in text


def test_loading_maps_the_files(folder: Folder) -> None:
    """In the files' own type nothing is copied; in another, once."""
    part = describe(str(folder))[1]["text"]
    name = "encoder.embed_tokens.weight"
    file, other = str(part.weights.files[0]), part.load(dtype=torch.bfloat16)
    assert other.state_dict()[name].dtype == torch.bfloat16 and not mappings(file), "the file is let go"
    network = part.load()
    at = network.state_dict()[name].data_ptr()
    assert any(start <= at < stop for start, stop in mappings(file))
    del network
    assert not mappings(file)


def mappings(file: str) -> list[tuple[int, int]]:
    """Where the file lies in this process's memory."""
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(file)]
    return [tuple(int(end, 16) for end in line.split()[0].split("-")) for line in lines]


PRIVATE = """
import sys, threading, time, torch
from pathlib import Path
from videodit.checkpoint.pretrained import Part
from videodit.plan.machine import _proc
from videodit.errors import InputError
part, dtype = Part.own(Path(sys.argv[1])), getattr(torch, sys.argv[2])
part.sources
before, most, done = _proc("/proc/self/status", "RssAnon"), [0], threading.Event()
def watch():
    while not done.is_set():
        most.append(_proc("/proc/self/status", "RssAnon"))
        time.sleep(0.0005)
thread = threading.Thread(target=watch)
thread.start()
network = part.load(dtype=dtype)
done.set(), thread.join()
print((max(most) - before) / sum(p.numel() * p.element_size() for p in network.parameters()))
"""


@pytest.mark.parametrize(("dtype", "most"), [("bfloat16", 0.1), ("float32", 1.1)])
def test_private_memory_of_loading(dtype: str, most: float, tmp_path: Path) -> None:
    """None in the files' own type, and in another once the weights: never two copies."""
    path = tmp_path / "dit.safetensors"
    wide = {**tiny.DIT, "dim": 512, "ffn": 2048, "heads": 8, "layers": 12}
    network = build("dit", **wide).bfloat16()
    for name, parameter in network.named_parameters():  # these are in float32 whatever the rest is
        if any(name.startswith(part) or name.endswith(part) for part in network.KEEP_FP32):
            parameter.data = parameter.data.float()
    save_model(path, network)
    out = subprocess.run([sys.executable, "-c", PRIVATE, str(path), dtype], capture_output=True, text=True, check=True)
    assert float(out.stdout) < most, out.stdout


def test_a_component_without_its_class_is_named(copy: Folder) -> None:
    file = copy / "model_index.json"
    write_json(file, read_json(file) | {"transformer": []})
    with pytest.raises(InputError, match=r"model_index.json: transformer: .* 2 items"):
        describe(str(copy))
