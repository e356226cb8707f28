"""`videodit export`: write a model as a folder that `model=` takes, or that diffusers opens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from videodit.checkpoint.export import export_diffusers, export_own
from videodit.checkpoint.find import describe
from videodit.checkpoint.latents import encoder_fingerprint
from videodit.checkpoint.pretrained import Part, check_kinds
from videodit.cli.memory import dtype_of
from videodit.cli.train import find_vae, open_vae
from videodit.errors import InputError

if TYPE_CHECKING:
    from omegaconf import DictConfig

FORMATS = {"videodit": export_own, "diffusers": export_diffusers}


def run(cfg: DictConfig) -> None:
    """Copy a model's networks to `cfg.out` in the layout and dtype asked for."""
    dtype = dtype_of(cfg.dtype) or torch.float32
    if cfg.format not in FORMATS:
        raise InputError(f"format={cfg.format}: it is one of {', '.join(FORMATS)}")
    out = Path(cfg.out)
    if out.is_file():
        raise InputError(f"out={out}: it is a file; name a folder")
    pipeline, parts, tokenizer = describe(cfg.model)
    check_kinds(parts)
    if cfg.vae_from:
        parts["vae"] = same_latents(find_vae(cfg.vae_from), parts["vae"])
    FORMATS[cfg.format](pipeline, parts, tokenizer, out, dtype, print)


def same_latents(path: Path, own: Part) -> Part:
    """The VAE of a file, if its latents are those that the model was trained on."""
    if encoder_fingerprint(open_vae(path)) != encoder_fingerprint(own.load(dtype=torch.float32)):
        source = own.weights.source
        raise InputError(f"vae_from={path}: its encoder is not that of {source}: only the decoder may differ")
    return Part.own(path)
