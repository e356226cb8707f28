"""Sound files that are made once, for copies of them to be changed: models, adapters, latents, a run, clips."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
import traceback
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

import videodit
from tests.data.clips import encode
from tests.parity.pipelines import pipeline
from tests.tiny import CAPTIONS, DIT, tiny_pipeline
from tests.train import tiny
from videodit.checkpoint.adapters import save_adapter
from videodit.checkpoint.find import describe
from videodit.checkpoint.latents import fill
from videodit.checkpoint.store import save_tensors, write_json
from videodit.cli.main import main
from videodit.config import conf_dir, read_yaml


@cache
def base() -> Path:
    """Sound files that are made once: a tiny model, an adapter, latents, and a tiny pipeline of diffusers."""
    place = Path(tempfile.mkdtemp(prefix="videodit-fuzz-base-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    if not os.fork():  # in a child: the parent of many forks starts no thread
        with suppress(BaseException):
            _make_base(place)
            os._exit(0)
        traceback.print_exc()
        os._exit(1)
    assert os.wait()[1] == 0
    return place


def _make_base(base: Path) -> None:
    tiny_pipeline(base / "tiny")
    torch.manual_seed(0)
    matrices = [f"blocks.{block}.{name}" for block in range(2) for name in ("attention.q", "cross.q")]
    save_adapter(
        base / "adapter.safetensors",
        {name: {"down": torch.randn(2, 24), "up": torch.randn(24, 2)} for name in matrices},
        {"architecture": "dit", "arguments": DIT},
        {"adapter": {"dora": False}},
    )
    _make_peft(base / "peft")
    fill(base / "cache", [("a", 0), ("b", 1)], lambda some: [(i, torch.randn(4, 2, 4, 4), "c") for i in some], shard=8)
    pipeline("2.1", base / "wan")
    pipeline("2.1", base / "sharded", max_shard_size="20KB")
    _make_conf(base)
    _make_videos(base)
    _make_run(base)


def _make_peft(folder: Path) -> None:
    """An adapter as PEFT saves it, with all that is read of its config, which diffusers' metadata says once more."""
    folder.mkdir()
    module = "base_model.model.blocks.0.self_attn.q"
    tensors = {f"{module}.lora_A.default.weight": (2, 24), f"{module}.lora_B.default.weight": (24, 2)}
    tensors |= {f"{module}.lora_magnitude_vector": (24,), f"{module}.alpha": (), f"{module}.diff_b": (24,)}
    tensors |= {"base_model.model.blocks.1.diff_m": (1, 6, 24), "base_model.model.head.head.bias": (16,)}
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 3.0, "use_rslora": False, "use_dora": True, "bias": "all"}
    config |= {"rank_pattern": {"self_attn.q": 2}, "alpha_pattern": {r"^blocks\.\d+\.self_attn.q": 1.0}}
    config |= {"modules_to_save": ["head.head"], "init_lora_weights": True}
    said = {f"transformer.{key}": value for key, value in config.items()}
    save_file({name: torch.ones(shape) for name, shape in tensors.items()}, folder / "adapter_model.safetensors",
              {"format": "pt", "lora_alpha": "1", "lora_adapter_metadata": json.dumps(said)})  # fmt: skip
    write_json(folder / "adapter_config.json", config)


def _make_conf(base: Path) -> None:
    """A conf/pretrained that knows the VAE of the tiny pipeline."""
    shutil.copytree(conf_dir() / "pretrained", base / "conf" / "pretrained")
    file = base / "conf" / "pretrained" / "parts" / "wan-vae-2.1.yaml"
    vae = describe(str(base / "wan"))[1]["vae"]
    write_json(file, read_yaml(file) | {"arguments": vae.spec["arguments"], **vae.constants})  # JSON is YAML


def _make_videos(base: Path) -> None:
    """Clips of several kinds, the record of a video, and latents that wait to be decoded."""
    frames = np.random.default_rng(0).integers(0, 255, (1, 48, 64, 3), dtype=np.uint8).repeat(9, 0)
    containers = {"mp4": ("libx264", 8, "mp4"), "webm": ("libvpx-vp9", 8, "webm"), "ts": ("mpeg2video", 25, "mpegts"),
                  "avi": ("mpeg4", 8, "avi")}  # fmt: skip
    for ending, (codec, rate, container) in containers.items():
        encode(base / f"clip.{ending}", frames, rate, codec, {}, container)
    pictures = [Image.fromarray(frame) for frame in frames]
    for ending in ("gif", "webp", "png"):
        pictures[0].save(base / f"clip.{ending}", save_all=True, append_images=pictures[1:], duration=100)
    pictures[0].save(base / "clip.jpeg")
    pipe = videodit.load(str(base / "tiny"), device="cpu")
    requests = [pipe.request(caption, frames=5, size="32x32") for caption in CAPTIONS[:2]]
    latents = {str(number): one.latents for number, one in enumerate(pipe.denoise(requests))}
    records = pipe.records(requests)
    write_json(base / "record.json", records[0])
    header = {"model": "m", "paths": ["a.mp4", "b.mp4"], "records": records}
    save_tensors(base / "a.latents.safetensors", latents, header)


def _make_run(base: Path) -> None:
    """A training of one step."""
    tiny.saved_vae(base)
    (base / "trained").mkdir()
    os.chdir(base / "trained")
    vae = f"vae_from={base / 'vae-0.safetensors'}"
    said = main(["train", *tiny.COMMAND, "loop.steps=1", "run_dir=run", "cache=cache", "workers=0", "memory=off", vae])
    assert said == 0
