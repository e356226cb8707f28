"""`videodit train`: train a VAE or a DiT, or plan that."""

from __future__ import annotations

from videodit.config import launch
from videodit.printable import answer
from videodit.train.plan import plan
from videodit.train.run import train
from videodit.train.settings import Train


def run(asked: Train) -> float | None:
    """Train as this one of the processes that torchrun started; by itself it is the only one."""
    if not asked.plan:
        return train(asked, launch())
    for line in plan(asked, launch()):
        answer(line)
    return None
