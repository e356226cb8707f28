"""`videodit ingest`: from a folder of raw videos to a training set."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from videodit.cli.compose import make, plain
from videodit.cli.start import find_vae, open_vae
from videodit.errors import InputError
from videodit.ingest.encode import Encode
from videodit.ingest.run import Outcome, Plan, Run
from videodit.ingest.shape import Shape
from videodit.ingest.stages import Caption, Cut, Measure
from videodit.ingest.writing import alone, write_set
from videodit.models.vae import VideoVAE
from videodit.train.machine import pick_device

if TYPE_CHECKING:
    from omegaconf import DictConfig


def run(cfg: DictConfig) -> None:
    """Make a set, or say what one would be."""
    out = Path(cfg.out)
    root = cfg.videos if "://" in cfg.videos else str(Path(cfg.videos).resolve())
    if not 0 < cfg.heldout_share < 1:
        raise InputError(f"heldout_share={cfg.heldout_share}: the share that is held out, above 0 and below 1")
    plan = Plan(
        root=root,
        out=out,
        engine=make(cfg.engine),
        limit=cfg.limit,
        cut=Cut(root=root, cutter=make(cfg.cutter)),
        measure=Measure(root=root, edge=cfg.measure.edge, scorers=tuple(make(one) for one in cfg.measure.scorers)),
        select=plain(cfg.select),
        duplicates=plain(cfg.duplicates),
        caption=Caption(root=root, **make(cfg.captioner)),
        shape=Shape(**{key: tuple(value) if isinstance(value, list) else value for key, value in plain(cfg.shape).items()}),
        heldout=cfg.heldout_share,
    )
    with alone(out):
        found = Run(plan).clips(None if cfg.dry_run or not cfg.vae else encoder(cfg, root, out), captions=not cfg.dry_run)
        if not cfg.dry_run:
            write_set(out, found, {"sources": root, "config": plain(cfg)})
    print(verdict(found))


def encoder(cfg: DictConfig, root: str, out: Path) -> Encode:
    """What makes latents."""
    device = str(pick_device(cfg.device))
    return Encode(root=root, folder=out / "cache", vae=partial(named_vae, cfg.vae), device=device, **plain(cfg.encode))


def named_vae(name: str) -> VideoVAE:
    """A VAE by what `vae=` says, wherever the stage runs."""
    return open_vae(find_vae(name))


def verdict(found: Outcome) -> str:
    """What was kept and dropped, in a few lines."""
    lines = []
    for stage, seen in found.seen.items():
        reasons: dict[str, int] = {}
        for record in found.dropped:
            if record["stage"] == stage:
                reasons[record["reason"]] = reasons.get(record["reason"], 0) + 1
        told = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items(), key=lambda pair: -pair[1]))
        lines.append(f"{stage:<12}{seen:>8} seen{found.went_on[stage]:>8} kept{sum(reasons.values()):>8} dropped"
                     f"{': ' + told if told else ''}")  # fmt: skip
    held = sum(clip["split"] == "heldout" for clip in found.clips)
    lines.append(f"{len(found.clips)} clips, {held} of them held out")
    return "\n".join(lines)
