"""`videodit encode`: cache the latents of a data set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from videodit.cli.train import cached, find_vae, open_vae
from videodit.train.machine import pick_device

if TYPE_CHECKING:
    from omegaconf import DictConfig


def run(cfg: DictConfig) -> None:
    """Encode the training and the held-out clips that the cache lacks."""
    vae = open_vae(find_vae(cfg.vae_from)).to(pick_device(cfg.device))
    for split in ("train", "heldout"):
        cache = cached(cfg, cfg.data[split], vae)
        print(f"{split}: {len(cache)} clips in {cfg.cache}")
