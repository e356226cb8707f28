"""Weights on disk: whole or not at all, exact, and a bad file is named."""

from __future__ import annotations

import errno
import hashlib
import json
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.compare import noise, shaken
from tests.tiny import DIT, TEXT, VAE
from videodit.atomic import atomic, clear, tidy
from videodit.checkpoint import store
from videodit.checkpoint.pretrained import load_model
from videodit.checkpoint.store import (
    HEADER,
    load_tensors,
    save_model,
    save_tensors,
    write_json,
)
from videodit.checkpoint.weights import fingerprint
from videodit.errors import InputError
from videodit.models.build import build
from videodit.untrusted import read_json

PARTS = {"dit": DIT, "t5": TEXT, "video_vae": VAE}


@pytest.fixture(scope="module")
def dit() -> nn.Module:
    return shaken(build("dit", **DIT))


@pytest.fixture
def weights(dit: nn.Module, tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "dit.safetensors"
    save_model(path, dit)
    return path


def rewrite(path: Path, change) -> None:
    """Save the file again after `change(tensors, header)`."""
    tensors, header = load_tensors(path)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    change(tensors, header)
    save_tensors(path, tensors, header)


# ---- exact ----


@pytest.mark.parametrize("architecture", PARTS)
def test_a_model_comes_back_exactly_and_runs(architecture: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = shaken(build(architecture, **PARTS[architecture]))
    save_model(tmp_path / "a.safetensors", module)
    loaded = load_model(tmp_path / "a.safetensors")
    assert type(loaded) is type(module) and loaded.spec == module.spec and not loaded.training
    theirs = module.state_dict()
    assert list(loaded.state_dict()) == list(theirs)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, theirs[name]) and tensor.dtype == theirs[name].dtype
    assert not any(tensor.is_meta for tensor in (*loaded.parameters(), *loaded.buffers()))
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    if architecture == "t5":
        ids = torch.arange(3, 9)
        assert torch.equal(loaded(ids, (6,)).states, module(ids, (6,)).states)


def test_a_file_can_be_trained_on_and_overwritten(weights: Path, dit: nn.Module) -> None:
    """Loaded tensors are memory-mapped: neither writing to them nor replacing the file reaches the other."""
    loaded = load_model(weights)
    before = fingerprint(weights)
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter += 1
    assert fingerprint(weights) == before
    save_model(weights, loaded)
    assert torch.equal(load_model(weights).head.weight, dit.head.weight + 1)
    assert torch.equal(loaded.head.weight, dit.head.weight + 1)


def test_other_values_and_other_types(weights: Path, dit: nn.Module) -> None:
    averaged = {name: 2 * tensor for name, tensor in dit.state_dict().items()}
    save_model(weights, dit, state=averaged)
    assert torch.equal(load_model(weights).head.weight, 2 * dit.head.weight)
    assert load_model(weights, dtype=torch.bfloat16).head.weight.dtype == torch.bfloat16


def test_tensors_of_all_kinds_and_a_header(tmp_path: Path) -> None:
    tensors = {
        **{"half": noise(2, 3).half(), "view": noise(4, 6).T, "scalar": torch.tensor(3)},
        **{"empty": torch.zeros(0, 2), "parameter": nn.Parameter(noise(3)), "bits": torch.tensor([True, False])},
    }
    header = {"step": 3, "text": "naïve 🎈", "nested": {"a": [1, None]}}
    save_tensors(tmp_path / "t.safetensors", tensors, header)
    loaded, told = load_tensors(tmp_path / "t.safetensors")
    assert told == header
    assert loaded.keys() == tensors.keys()
    for name, tensor in loaded.items():
        assert torch.equal(tensor, tensors[name]) and tensor.dtype == tensors[name].dtype


def test_the_file_is_plain_safetensors_and_json(weights: Path, dit: nn.Module) -> None:
    assert load_file(weights).keys() == dit.state_dict().keys()
    size = int.from_bytes(weights.read_bytes()[:8], "little")
    metadata = json.loads(weights.read_bytes()[8 : 8 + size])["__metadata__"]
    assert json.loads(metadata[HEADER]) == {"architecture": "dit", "arguments": DIT}


def test_fingerprint_is_that_of_the_content(weights: Path) -> None:
    assert fingerprint(weights) == hashlib.sha256(weights.read_bytes()).hexdigest()[:16]


# ---- whole or not at all ----


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_what_was_there(weights: Path, dit: nn.Module) -> None:
    before = weights.read_bytes()
    with small_disk(len(before) // 2), pytest.raises(InputError, match="cannot write .*dit.safetensors.*nothing was"):
        save_model(weights, shaken(build("dit", **DIT), seed=1))
    assert weights.read_bytes() == before
    assert [path.name for path in weights.parent.iterdir()] == ["dit.safetensors"]


def test_an_error_of_the_disk_leaves_nothing(dit: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(tensors: dict, path: Path, metadata: dict) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "save_file", half)
    with pytest.raises(InputError, match="dit.safetensors.*No space left on device"):
        save_model(tmp_path / "dit.safetensors", dit)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_whatever_interrupts_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "new" / "a.json"
    with pytest.raises(error), atomic(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        raise error
    assert not list(path.parent.iterdir())


def test_two_processes_write_one_file_at_once(tmp_path: Path) -> None:
    """As jobs of a sweep do that encode the same clips: each file is whole, the last one stays."""
    path = tmp_path / "a.json"
    other = "import sys; from pathlib import Path; from videodit.checkpoint.store import write_json; "
    with atomic(path) as temporary:
        temporary.write_text('"mine"')
        command = [sys.executable, "-c", f"{other}write_json(Path(sys.argv[1]), 'theirs')", str(path)]
        subprocess.run(command, check=True)
        assert read_json(path) == "theirs"
    assert read_json(path) == "mine" and [left.name for left in tmp_path.iterdir()] == ["a.json"]


def test_what_killed_processes_left_is_tidied_up(dit: nn.Module, tmp_path: Path) -> None:
    """And nothing of those that live, of other machines, or of anybody else."""
    code = "import os, sys; from pathlib import Path; from videodit.atomic import atomic\n"
    code += "with atomic(Path(sys.argv[1])) as temporary:\n temporary.write_text('half'); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a-1.json")], check=False)
    (dead,) = tmp_path.iterdir()
    others = [".b.elsewhere-1.part", f".{socket.gethostname()}-x.part", "c.part", ".d.part"]
    for name in others:
        (tmp_path / name).touch()
    with atomic(tmp_path / "e.json") as temporary:
        temporary.write_text("1")
        tidy(tmp_path)
        assert temporary.exists() and not dead.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "e.json"])
    tidy(tmp_path / "not there")
    dead.touch()
    save_model(tmp_path / "dit.safetensors", dit)  # a run publishes again and again
    assert not dead.exists()


@pytest.mark.parametrize("tidy_up", [tidy, clear])
def test_what_a_library_wrote_beside_its_target_is_tidied_up(tidy_up: Callable[[Path], None], tmp_path: Path) -> None:
    """As safetensors 0.8 does, whose temporary file has a name of its own."""
    code = """import os, sys
from pathlib import Path
from videodit.checkpoint import store
def save_file(tensors, file, metadata):
    (Path(file).parent / ".tmpgmaysv").touch()
    os.kill(os.getpid(), 9)
store.save_file = save_file
store.save_tensors(Path(sys.argv[1]), {}, {})"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.safetensors")], check=False)
    assert list(tmp_path.rglob(".tmpgmaysv"))
    tidy_up(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way(dit: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "dit.safetensors" / "inside").mkdir(parents=True)
    with pytest.raises(InputError, match="cannot write .*dit.safetensors"):
        save_model(tmp_path / "dit.safetensors", dit)
    assert [path.name for path in tmp_path.iterdir()] == ["dit.safetensors"]


def test_json_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"prompt": "ein Würfel", "steps": 3})
    assert read_json(path) == {"prompt": "ein Würfel", "steps": 3}
    with pytest.raises(TypeError):
        write_json(path, {"prompt": object()})
    assert read_json(path)["steps"] == 3
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


# ---- bad files are named ----


def corrupt(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) * 2 // 3])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "not safetensors":
        path.write_bytes(b"\x80\x02}q\x00." * 100)
    elif how == "missing":
        path.unlink()
    elif how == "a folder":
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", "may be truncated"),
        ("empty", "not a readable safetensors file"),
        ("not safetensors", "not a readable safetensors file"),
        ("a folder", "not a plain file"),
        ("missing", "does not exist"),
    ],
)
def test_a_broken_file_is_named(weights: Path, how: str, message: str) -> None:
    corrupt(weights, how)
    with pytest.raises(InputError, match=f"dit.safetensors.*{message}") as error:
        load_model(weights)
    assert "\n" not in str(error.value)


def test_foreign_weights_are_named(dit: nn.Module, tmp_path: Path) -> None:
    for metadata in (None, {"format": "pt"}, {HEADER: "[1, 2]"}, {HEADER: "null"}, {HEADER: "{"}):
        save_file(dit.state_dict(), tmp_path / "other.safetensors", metadata)
        with pytest.raises(InputError, match="other.safetensors has no videodit header; `videodit export`"):
            load_model(tmp_path / "other.safetensors")


def drop(tensors: dict, header: dict) -> None:
    del tensors["head.weight"]


def add(tensors: dict, header: dict) -> None:
    tensors["neck.weight"] = torch.zeros(3)


def rename(tensors: dict, header: dict) -> None:
    tensors["neck.weight"] = tensors.pop("head.weight")


def reshape(tensors: dict, header: dict) -> None:
    tensors["head.weight"] = tensors["head.weight"].T


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, r"missing tensors \['head.weight'\], unexpected tensors \[\]"),
        (add, r"missing tensors \[\], unexpected tensors \['neck.weight'\]"),
        (rename, r"missing tensors \['head.weight'\], unexpected tensors \['neck.weight'\]"),
        (reshape, r"head.weight is \(24, 16\), expected \(16, 24\)"),
    ],
)
def test_tensors_must_match(weights: Path, change, message: str) -> None:
    rewrite(weights, change)
    with pytest.raises(InputError, match="dit.safetensors: " + message):
        load_model(weights)


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"architecture": "dit"},
        {"architecture": "unet", "arguments": {}},
        {"architecture": "os.system", "arguments": {"command": "true"}},
        {"architecture": ["dit"], "arguments": DIT},
        {"architecture": "dit", "arguments": None},
        {"architecture": "dit", "arguments": {**DIT, "dropout": 0.1}},
        {"architecture": "dit", "arguments": {**DIT, "time": "film"}},
        {"architecture": "video_vae", "arguments": {**VAE, "temporal": [True]}},
    ],
    ids=lambda header: str(header)[:60],
)
def test_headers_that_name_no_architecture(weights: Path, header: dict) -> None:
    tensors, _ = load_tensors(weights)
    save_tensors(weights, {name: tensor.clone() for name, tensor in tensors.items()}, header)
    with pytest.raises(InputError, match="dit.safetensors describes no architecture of this version"):
        load_model(weights)


def test_bad_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a.json does not exist"):
        read_json(tmp_path / "a.json")
    for content in (b"", b"{'a': 1}", b"\xff\xfe"):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(InputError, match="a.json: not (valid JSON|UTF-8)|a.json: holds text that is no UTF-8"):
            read_json(tmp_path / "a.json")
    with pytest.raises(InputError, match="not a plain file"):
        read_json(tmp_path)
