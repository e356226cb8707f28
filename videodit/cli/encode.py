"""`videodit encode`: cache the latents of a data set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from videodit.checkpoint.store import load_model
from videodit.cli.train import cached, find_vae, pick_device

if TYPE_CHECKING:
    from omegaconf import DictConfig


def run(cfg: DictConfig) -> None:
    """Encode the training and the held-out clips that the cache lacks."""
    vae_file = find_vae(cfg.vae_from)
    vae = load_model(vae_file).to(pick_device(cfg.device))
    for split in ("train", "heldout"):
        cache = cached(cfg, cfg.data[split], vae, vae_file)
        print(f"{split}: {len(cache)} clips in {cfg.cache}")
