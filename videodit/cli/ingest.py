"""`videodit ingest`: from a folder of raw videos to a training set."""

from __future__ import annotations

import math
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from videodit.atomic import check_output
from videodit.checkpoint.find import describe, tokenizers_of
from videodit.checkpoint.parts import first
from videodit.checkpoint.pretrained import Part
from videodit.checkpoint.resolve import families, read_family
from videodit.checkpoint.texts import FOLDER
from videodit.checkpoint.weights import Weights
from videodit.cli.compose import make, plain
from videodit.config import Launch
from videodit.errors import InputError
from videodit.ingest.encode import Encode
from videodit.ingest.page import Facts, page, pictured
from videodit.ingest.run import Outcome, Plan, Run
from videodit.ingest.select import check_bounds
from videodit.ingest.shape import USUAL, Shape
from videodit.ingest.stages import Caption, Cut, Measure
from videodit.ingest.writing import alone, write_files, write_set
from videodit.models.interfaces import DENOISER, VAE
from videodit.models.vae import VideoVAE
from videodit.nn.device import pick_device
from videodit.parallel.mesh import Mesh
from videodit.printable import answer
from videodit.shapes import Sizes
from videodit.train.init import Base, base_named, find_vae, kept_in, open_vae, remembered, tell_unheard

if TYPE_CHECKING:
    from omegaconf import DictConfig


EXAMPLES = 5  # of captions that were lost
REPORT, DRY_REPORT = "report.html", "dry_run.html"
MADE_BY = (
    "cutter", "embedder", "captioner", "caption", "measure", "select", "duplicates", "shape", "heldout_share", "vae",
    "text",
)  # fmt: skip


def run(cfg: DictConfig) -> None:
    """Make a set, or say what one would be."""
    out, plan = Path(cfg.out), planned(cfg)
    check_output(out / REPORT)
    encode = None if cfg.dry_run or not cfg.vae else encoder(cfg, plan)
    base = None if cfg.dry_run or not cfg.text else base_named("text", cfg.text)
    about = {"sources": plan.root, **{key: value for key, value in plain(cfg).items() if key in MADE_BY}}
    with alone(out), plan.engine:
        work = Run(plan)
        found = work.clips(captions=not cfg.dry_run, encode=encode)
        if base is not None:
            texts(cfg, base, found, out)
        report = {}
        if cfg.report:
            facts = Facts(
                title=f"{cfg.videos} as a training set",
                bounds=plan.select,
                measures={one.name: one.meaning for one in plan.measure.numbers},
                pictures=work.pictures(pictured(found)),
                sizes=networks_of(cfg),
                settings=about,
                dry=cfg.dry_run,
            )
            report = {DRY_REPORT if cfg.dry_run else REPORT: page(found, facts).encode("utf-8", "backslashreplace")}
        if cfg.dry_run:
            write_files(out, report)
        else:
            write_set(out, found, [one.name for one in plan.measure.numbers], about, report)
    answer(*verdict(found))
    if cfg.report:
        answer(out / next(iter(report)))
    if not found.clips:
        raise InputError(f"videos={cfg.videos}: no clip is left of it; the lines above say where they went")


def planned(cfg: DictConfig) -> Plan:
    """The stages that the config names."""
    if not 0 < cfg.heldout_share < 1:
        raise InputError(f"heldout_share={cfg.heldout_share}: the share that is held out, above 0 and below 1")
    root = cfg.videos if "://" in cfg.videos else str(Path(cfg.videos).resolve())
    if "://" in cfg.out:
        raise InputError(f"out={cfg.out}: a set is made in a folder of this machine; copy it when it is complete")
    if Path(cfg.out).resolve() == Path(root):
        raise InputError(f"out={cfg.out}: the videos are there; name a folder for the set, which may lie in it")
    if not cfg.limit > 0 or cfg.caption.frames < 1:
        told = f"limit={cfg.limit}, caption.frames={cfg.caption.frames}"
        raise InputError(f"{told}: the first is above 0, the second 1 or more")
    scorers = tuple(make(one) for one in cfg.measure.scorers)
    measure = Measure(root=root, edge=cfg.measure.edge, scorers=scorers, embedder=make(cfg.embedder))
    select = {name: bounds for name, bounds in plain(cfg.select).items() if bounds is not None}
    check_bounds(select, ["seconds", "height", "width", "source_fps", *(one.name for one in measure.numbers)])
    shape = plain(cfg.shape)
    sizes = coarser(networks_of(cfg), shape.pop("multiple"))
    return Plan(
        root=root,
        out=Path(cfg.out),
        engine=make(cfg.engine),
        limit=cfg.limit,
        cut=Cut(root=root, cutter=make(cfg.cutter)),
        measure=measure,
        select=select,
        duplicates=plain(cfg.duplicates),
        caption=Caption(root=root, captioner=make(cfg.captioner), **plain(cfg.caption)),
        shape=Shape(**shape, sizes=sizes),
        heldout=cfg.heldout_share,
    )


def networks_of(cfg: DictConfig) -> Sizes:
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
    if not isinstance(multiple, int) or multiple < 1 or multiple % least:
        raise InputError(f"shape.multiple={multiple}: the VAE and the DiT take multiples of {least}")
    (frames, height, width), (together, _, _) = sizes
    return Sizes((frames, height, width), (together, multiple // height, multiple // width))


def encoder(cfg: DictConfig, plan: Plan) -> Encode:
    """What makes latents."""
    find_vae(cfg.vae)  # a wrong name is told before any work
    device, vae = str(pick_device(cfg.device)), partial(named_vae, cfg.vae)
    return Encode(root=plan.root, folder=(plan.out / "cache").resolve(), vae=vae, device=device, **plain(cfg.encode))


def texts(cfg: DictConfig, base: Base, found: Outcome, out: Path) -> None:
    """Have the set keep the states of its captions, as a training from this model would make them."""
    device = pick_device(cfg.device)
    mesh = Mesh(launch=Launch(), device=device, sizes=(1, 1, 1))
    tokenizers = tokenizers_of(base.pipeline, base.parts, base.tokenizers)
    captions = {clip[name] for clip in found.clips for name in ("caption", "caption_short", "caption_long")}
    for tokenizer in tokenizers.values():
        tell_unheard(tokenizer, sorted(captions - {""}), frozen=True)
    remembered(base, tokenizers, ["", *sorted(captions)], mesh, kept_in(cfg, device), out / "cache" / FOLDER)


def named_vae(name: str) -> VideoVAE:
    """A VAE by what `vae=` says, wherever the stage runs."""
    return open_vae(find_vae(name))


def verdict(found: Outcome) -> list[str]:
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
    told, where = found.captions()
    lines.append(f"captions: {told}")
    lines += [f"  {one}" for one in where[:EXAMPLES]]
    lines += [f"  and {len(where) - EXAMPLES} more, in the page"] * (len(where) > EXAMPLES)
    if found.used:
        used = {"answers": 0, "input_tokens": 0, "output_tokens": 0, "cost": 0.0, **found.used}
        told = "{answers:.0f} answers, {input_tokens:.0f} tokens read, {output_tokens:.0f} written, cost {cost:.4g}"
        lines.append(f"captions of this run: {told.format(**used)}")
    if damaged := found.damaged():
        lines.append(f"{sum(damaged.values())} frames of {len(damaged)} files cannot be decoded, and were left out")
    lines += found.made_up()
    silent = sum(not (clip.get("caption_long") or clip["caption"]) for clip in found.clips)
    if silent:
        told = "captioner= writes them, caption.required=true drops the clips"
        lines.append(f"{silent} of {len(found.clips)} clips have no caption: {told}")
    held = sum(clip["split"] == "heldout" for clip in found.clips)
    lines.append(f"{len(found.clips)} clips, {held} of them held out")
    return lines
