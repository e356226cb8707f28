"""`videodit encode`: cache the latents of a data set."""

from __future__ import annotations

from videodit.config import launch
from videodit.nn.device import pick_device
from videodit.parallel.mesh import Mesh
from videodit.printable import answer
from videodit.shapes import Sizes
from videodit.train.build import cached
from videodit.train.init import find_vae, open_vae
from videodit.train.inputs import dit_patch
from videodit.train.settings import Encode


def run(cfg: Encode) -> None:
    """Encode the training and the held-out clips that the cache lacks."""
    here = launch()
    mesh = Mesh(launch=here, device=pick_device(cfg.device, here.local_rank), sizes=(-1, 1, 1))
    vae = open_vae(find_vae(cfg.vae_from or cfg.init or "toy")).to(mesh.device)
    caches = cached(cfg, Sizes(vae.stride, tuple(dit_patch(cfg, {}))), vae, mesh)
    for split, cache in zip(("train", "heldout"), caches, strict=True):
        if mesh.main:
            answer(f"{split}: {len(cache)} clips in {cfg.cache}")
