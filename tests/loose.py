"""A tiny public model as single files, as others repackage them, and a conf/pretrained that knows its VAE."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.parity import pipelines
from videodit.checkpoint import resolve
from videodit.checkpoint.find import describe
from videodit.checkpoint.store import write_json
from videodit.config import conf_dir, read_yaml

NAMES = {"transformer": "dit", "text_encoder": "text", "vae": "vae"}
HEAD_DIM = {"dim": 40, "num_heads": 2}  # of pipelines.KINDS["2.1"]


def know_vae(folder: Path, conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a conf/pretrained of the test know the VAE of a folder of diffusers."""
    vae = describe(str(folder))[1]["vae"]
    shutil.copytree(conf_dir() / "pretrained", conf / "pretrained")
    file = conf / "pretrained" / "parts" / "wan-vae-2.1.yaml"
    write_json(file, read_yaml(file) | {"arguments": vae.spec["arguments"], **vae.constants})  # JSON is YAML
    monkeypatch.setattr(resolve, "conf_dir", lambda: conf)


def single_files(out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """dit, text and vae.safetensors with diffusers' names, a tokenizer, and `theirs`, the folder that they are from."""
    theirs = out / "theirs"
    pipelines.pipeline("2.1", theirs)
    know_vae(theirs, out / "conf", monkeypatch)
    (out / "model").mkdir()
    for place, name in NAMES.items():
        shutil.copy(next((theirs / place).glob("*.safetensors")), out / "model" / f"{name}.safetensors")
    shutil.copy(theirs / "tokenizer" / "tokenizer.json", out / "model")
    write_json(out / "model" / "config.json", HEAD_DIM)
    return out / "model"
