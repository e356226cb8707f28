"""An ingest from its settings: check, put together the stages, run them, and write the set."""

from __future__ import annotations

import math
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from videodit.atomic import check_output
from videodit.checkpoint.find import describe, tokenizers_of
from videodit.checkpoint.parts import first
from videodit.checkpoint.pretrained import Part
from videodit.checkpoint.resolve import families, read_family
from videodit.checkpoint.texts import FOLDER
from videodit.checkpoint.weights import Weights
from videodit.config import Launch
from videodit.errors import InputError
from videodit.ingest.encode import Encode
from videodit.ingest.page import Facts, page, pictured
from videodit.ingest.run import Outcome, Plan, Run
from videodit.ingest.select import check_bounds
from videodit.ingest.settings import OF_FILES, Ingest
from videodit.ingest.shape import USUAL, Shape
from videodit.ingest.stages import Caption, Cut, Measure
from videodit.ingest.writing import alone, write_files, write_set
from videodit.models.interfaces import DENOISER, VAE
from videodit.models.vae import VideoVAE
from videodit.nn.device import pick_device
from videodit.parallel.mesh import Mesh
from videodit.settings import tree_of
from videodit.shapes import Sizes
from videodit.train.init import Base, base_named, find_vae, kept_in, open_vae, remembered, tell_unheard

REPORT, DRY_REPORT = "report.html", "dry_run.html"
MADE_BY = (
    "cutter", "embedder", "captioner", "caption", "measure", "select", "duplicates", "shape", "heldout_share", "vae",
    "text",
)  # fmt: skip


def make_set(cfg: Ingest) -> tuple[Outcome, Path | None]:
    """Make a set, or with `dry_run` only its page -> what became of everything, and the page, if one was asked for."""
    plan = planned(cfg)
    check_output(plan.out / REPORT)
    encode = None if cfg.dry_run or not cfg.vae else encoder(cfg, plan)
    base = None if cfg.dry_run or not cfg.text else base_named("text", cfg.text)
    about = {"sources": plan.root, **{name: value for name, value in tree_of(cfg).items() if name in MADE_BY}}
    with alone(plan.out), plan.engine:
        work = Run(plan)
        found = work.clips(captions=not cfg.dry_run, encode=encode)
        if base is not None:
            texts(cfg, base, found, plan.out)
        report = reported(cfg, work, about) if cfg.report else {}
        if cfg.dry_run:
            write_files(plan.out, report)
        else:
            write_set(plan.out, found, [one.name for one in plan.measure.numbers], about, report)
    return found, plan.out / next(iter(report)) if report else None


def reported(cfg: Ingest, work: Run, about: dict[str, Any]) -> dict[str, bytes]:
    """The page, under its file's name."""
    facts = Facts(
        title=f"{cfg.videos} as a training set",
        bounds=work.plan.select,
        measures={one.name: one.meaning for one in work.plan.measure.numbers},
        pictures=work.pictures(pictured(work.found)),
        sizes=networks_of(cfg),
        settings=about,
        dry=cfg.dry_run,
    )
    return {DRY_REPORT if cfg.dry_run else REPORT: page(work.found, facts).encode("utf-8", "backslashreplace")}


def planned(cfg: Ingest) -> Plan:
    """The stages."""
    root = cfg.videos if "://" in cfg.videos else str(Path(cfg.videos).resolve())
    if "://" in cfg.out:
        raise InputError(f"out={cfg.out}: a set is made in a folder of this machine; copy it when it is complete")
    if Path(cfg.out).resolve() == Path(root):
        raise InputError(f"out={cfg.out}: the videos are there; name a folder for the set, which may lie in it")
    scorers = tuple(scorer() for scorer in cfg.measure.scorers)
    measure = Measure(root=root, edge=cfg.measure.edge, scorers=scorers, embedder=cfg.embedder())
    select = {name: bounds for name, bounds in cfg.select.items() if bounds is not None}
    check_bounds(select, [*OF_FILES, *(one.name for one in measure.numbers)])
    shape, caption, sizes = cfg.shape, cfg.caption, coarser(networks_of(cfg), cfg.shape.multiple)
    return Plan(
        root=root,
        out=Path(cfg.out),
        engine=cfg.engine(),
        limit=cfg.limit,
        cut=Cut(root=root, cutter=cfg.cutter()),
        measure=measure,
        select=select,
        duplicates=cfg.duplicates,
        caption=Caption(
            root=root,
            captioner=cfg.captioner(),
            frames=caption.frames,
            bundle=caption.bundle,
            workers=caption.workers,
            required=caption.required,
        ),
        shape=Shape(fps=shape.fps, frames=shape.frames, shortest=shape.shortest, areas=shape.areas, sizes=sizes),
        heldout=cfg.heldout_share,
    )


def networks_of(cfg: Ingest) -> Sizes:
    """The sizes that the VAE of `vae=` takes, and the DiT of `text=` or else of `vae=`; what none names is as usual."""
    stride, patch = USUAL
    if cfg.vae:
        stride = (by_numbers(cfg.vae, VAE) or find_vae(cfg.vae)).outline.stride
        with suppress(InputError):  # a VAE alone
            patch = (by_numbers(cfg.vae, DENOISER) or first(describe(cfg.vae)[1], DENOISER)).outline.patch
    if cfg.text:
        patch = (by_numbers(cfg.text, DENOISER) or first(base_named("text", cfg.text).parts, DENOISER)).outline.patch
    return Sizes(stride, patch)


def by_numbers(model: str, role: str) -> Part | None:
    """A network of a public name without its files, which sizes do not need; None where it has no class here."""
    family = read_family(model) if model in families() else {}
    return Part(first(family, role), Weights([])) if "defaults" in family else None


def coarser(sizes: Sizes, multiple: int | None) -> Sizes:
    """Those of the sizes whose height and width are multiples of so many pixels (None: all)."""
    if multiple is None:
        return sizes
    least = math.lcm(*sizes.steps[1:])
    if multiple < 1 or multiple % least:
        raise InputError(f"shape.multiple={multiple}: the VAE and the DiT take multiples of {least}")
    (frames, height, width), (together, _, _) = sizes
    return Sizes((frames, height, width), (together, multiple // height, multiple // width))


def encoder(cfg: Ingest, plan: Plan) -> Encode:
    """What makes latents."""
    find_vae(cfg.vae)  # a wrong name is told before any work
    device, vae = str(pick_device(cfg.device)), partial(named_vae, cfg.vae)
    return Encode(
        root=plan.root,
        folder=(plan.out / "cache").resolve(),
        vae=vae,
        device=device,
        bundle=cfg.encode.bundle,
        workers=cfg.encode.workers,
        threads=cfg.encode.threads,
    )


def texts(cfg: Ingest, base: Base, found: Outcome, out: Path) -> None:
    """Have the set keep the states of its captions, as a training from this model would make them."""
    device = pick_device(cfg.device)
    mesh = Mesh(launch=Launch(), device=device, sizes=(1, 1, 1))
    tokenizers = tokenizers_of(base.pipeline, base.parts, base.tokenizers)
    captions = {clip[name] for clip in found.clips for name in ("caption", "caption_short", "caption_long")}
    for tokenizer in tokenizers.values():
        tell_unheard(tokenizer, sorted(captions - {""}), frozen=True)
    remembered(base, tokenizers, ["", *sorted(captions)], mesh, kept_in(cfg.precision, device), out / "cache" / FOLDER)


def named_vae(name: str) -> VideoVAE:
    """A VAE by what `vae=` says, wherever the stage runs."""
    return open_vae(find_vae(name))
