"""`videodit export`: write a model as a folder that `model=` takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from videodit.checkpoint.find import find_pipeline
from videodit.checkpoint.latents import encoder_fingerprint
from videodit.checkpoint.pretrained import FILES, load_model
from videodit.checkpoint.store import read_json, save_model, write_json
from videodit.cli.train import find_vae, open_vae
from videodit.errors import InputError

if TYPE_CHECKING:
    from omegaconf import DictConfig

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def run(cfg: DictConfig) -> None:
    """Copy a model's networks to `cfg.out` in the dtype asked for."""
    if cfg.dtype not in DTYPES:
        raise InputError(f"dtype={cfg.dtype}: it is one of {', '.join(DTYPES)}")
    source, out = find_pipeline(cfg.model), Path(cfg.out)
    if out.is_file():
        raise InputError(f"out={out}: it is a file; name a folder")
    files = {part: source / FILES[part] for part in ("dit", "text", "vae")}
    if cfg.vae_from:
        files["vae"] = same_latents(find_vae(cfg.vae_from), files["vae"])
    for part, file in files.items():
        save_model(out / FILES[part], load_model(file, dtype=DTYPES[cfg.dtype]))
        print(out / FILES[part])
    (out / FILES["tokenizer"]).write_bytes((source / FILES["tokenizer"]).read_bytes())
    write_json(out / "pipeline.json", read_json(source / "pipeline.json"))


def same_latents(vae: Path, own: Path) -> Path:
    """The VAE's file, if its latents are those that the model was trained on."""
    if encoder_fingerprint(open_vae(vae)) != encoder_fingerprint(open_vae(own)):
        raise InputError(f"vae_from={vae}: its encoder is not that of {own}: only the decoder may differ")
    return vae
