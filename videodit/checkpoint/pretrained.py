"""From a model's name to its networks: bundled models, run folders, folders of weights.

A pipeline folder holds `pipeline.json` (the flow and the defaults of a request), dit, text and vae as safetensors, and
the tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from videodit.checkpoint.store import fingerprint, load_model, read_json
from videodit.config import assets_dir
from videodit.errors import InputError
from videodit.models.dit import DiT
from videodit.models.text import SmallT5, Tokenizer
from videodit.models.vae import VideoVAE

FILES = {"dit": "dit.safetensors", "text": "text.safetensors", "vae": "vae.safetensors", "tokenizer": "tokenizer.json"}


@dataclass(frozen=True)
class Components:
    """The networks of a text-to-video model, what pipeline.json says, and the hashes of the weights."""

    name: str
    pipeline: dict[str, Any]
    dit: DiT
    text: SmallT5
    tokenizer: Tokenizer
    vae: VideoVAE
    device: torch.device
    fingerprints: dict[str, str]


def find_pipeline(model: str) -> Path:
    """The folder of a bundled name, a run folder or a folder of weights. InputError says where was looked."""
    bundled = assets_dir() / model
    candidates = [bundled] if "/" not in model and "\\" not in model else []
    candidates += [Path(model), Path(model) / "model"]
    for folder in candidates:
        if (folder / "pipeline.json").is_file():
            return folder
    names = sorted(folder.parent.name for folder in assets_dir().glob("*/pipeline.json"))
    raise InputError(
        f"model={model}: neither a bundled model ({', '.join(names) or 'there are none'}) nor a folder with a "
        "pipeline.json, such as a run folder"
    )


def open_pipeline(model: str, *, device: str, dtype: torch.dtype | None) -> Components:
    """Load every network of a model onto the device, float32 unless `dtype` says else."""
    folder = find_pipeline(model)
    pipeline = read_json(folder / "pipeline.json")
    missing = [name for name in FILES.values() if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} lacks {', '.join(missing)}")
    dtype = dtype or torch.float32
    networks = {}
    for part, kind in (("dit", DiT), ("text", SmallT5), ("vae", VideoVAE)):
        networks[part] = load_model(folder / FILES[part], dtype=dtype).to(device).requires_grad_(False)
        if not isinstance(networks[part], kind):
            raise InputError(f"{folder / FILES[part]}: it holds another architecture than its name says")
    return Components(
        name=model,
        pipeline=pipeline,
        tokenizer=Tokenizer(path=folder / FILES["tokenizer"]),
        device=torch.device(device),
        fingerprints={part: fingerprint(folder / FILES[part]) for part in networks},
        **networks,
    )
