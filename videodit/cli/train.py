"""`videodit train`: train a VAE or a DiT, or plan that."""

from __future__ import annotations

from videodit.config import launch
from videodit.train.run import train
from videodit.train.settings import Train


def run(cfg: Train) -> float | None:
    """Train as this one of the processes that torchrun started; by itself it is the only one."""
    return train(cfg, launch())
