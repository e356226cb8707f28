"""`videodit decode`: finish what was denoised but not decoded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from videodit.cli.generate import check_file, finish, read_latents
from videodit.cli.memory import way_of
from videodit.errors import InputError
from videodit.generate import load

if TYPE_CHECKING:
    from omegaconf import DictConfig


def run(cfg: DictConfig) -> None:
    """Decode the latents of `cfg.path` and write the videos."""
    if not cfg.path:
        raise InputError("path: name a file of latents, such as video.latents.safetensors")
    path = Path(cfg.path)
    waiting = read_latents(path)
    paths = waiting.paths
    if cfg.out:
        out = Path(cfg.out)
        if len(paths) == 1:
            check_file(out)
        elif out.suffix == ".mp4":
            raise InputError(f"out={out}: {path} holds {len(paths)} videos; name a folder")
        paths = [out] if len(paths) == 1 else [out / one.name for one in paths]
    pipe = load(cfg.model or waiting.model, device=cfg.device or None)
    if (vae := pipe.parts.fingerprints["vae"]) != waiting.weights["vae"]:
        raise InputError(f"{path}: its latents are of another VAE ({waiting.weights['vae']}) than the model's ({vae})")
    pipe.way = way_of(cfg.chunk)
    finish(pipe, waiting.latents, waiting.requests, paths)
    if not cfg.keep:
        path.unlink()
