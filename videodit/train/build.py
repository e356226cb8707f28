"""What a stage trains, and on what, made from a config: for `videodit train`, which runs it, and `doctor`, which looks.

Nothing large is made before the plan of a step is known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import Dataset

from videodit.checkpoint.latents import Entry, LatentCache
from videodit.checkpoint.parts import first, name_of, of_role
from videodit.checkpoint.pretrained import Components, Part
from videodit.data.batches import CropBatches, PackBatches, fetch
from videodit.data.packing import Share, Work
from videodit.errors import InputError
from videodit.generate import Pipe, load
from videodit.models.build import without_weights
from videodit.models.interfaces import DENOISER, VAE, Denoiser
from videodit.models.pack import Lengths
from videodit.models.text import Tokenizer
from videodit.models.vae import VideoVAE
from videodit.parallel.mesh import Mesh
from videodit.parallel.shard import forget
from videodit.plan.stages import Cost, Storage, step_cost
from videodit.plan.training import StepPlan, Training, dit_step, vae_step
from videodit.printable import note, warn
from videodit.shapes import LatentShape, Sizes, VideoShape
from videodit.track.tracker import Tracker
from videodit.train.adapter import LoRA
from videodit.train.check import check_channels, check_teacher, freeze
from videodit.train.dit_step import FlowObjective
from videodit.train.encode import encode_datasets
from videodit.train.init import (
    adapter_of,
    base_named,
    base_of,
    described,
    find_vae,
    has_adapter,
    inherits,
    kept_in,
    networks,
    open_vae,
    pipeline_of,
    specs_of,
    words,
)
from videodit.train.inputs import crops_of, datasets_of, dit_sizes, runs_before, vae_sizes
from videodit.train.loop import Objective
from videodit.train.machine import PRECISIONS, pick_precision
from videodit.train.samples import dit_samples, vae_samples
from videodit.train.settings import Train
from videodit.train.teacher import Teacher
from videodit.train.vae_step import VAEObjective

SAMPLED = 2  # of the data's captions, of which samples are made
STATES = 16  # of a caption, for the balance of work
LISTED = 10_000  # clips of a data set of which a VAE's run remembers which they are
ENOUGH = 2**26  # pixels, 0.8 GB
CALIBRATION = 128  # clips that give the latents' statistics and the VAE's linear start


class Made(NamedTuple):
    """What trains. batches: step -> this process's batches; at_interval: samples, and a held-out number to make small.

    pipe: the model as it would generate, if it is one that can. unread: (path, reason) of clips that could not be read,
    and were told. clips: what the data hold, for the config: by split how many, and digests of which and of captions.
    """

    objective: Objective
    batches: Dataset
    at_interval: Callable[[int, Tracker], float]
    pipe: Pipe | None
    unread: Sequence[tuple[str, str]] = ()
    clips: Mapping[str, Any] = MappingProxyType({})


class Prepared(NamedTuple):
    """What tells what a step will need, and what makes its networks. largest: tokens of a clip, pixels of a crop."""

    plan: Callable[[], StepPlan]
    largest: int
    make: Callable[[], Made]


def prepare(cfg: Train, folder: Path, mesh: Mesh) -> Prepared:
    """The stage that `cfg.stage` names, in the run's folder."""
    return (prepare_vae if cfg.stage == "vae" else prepare_dit)(cfg, folder, mesh)


def prepare_vae(cfg: Train, folder: Path, mesh: Mesh) -> Prepared:
    """A VAE on crops of the clips."""
    if mesh.context > 1:
        raise InputError(f"parallel.context={mesh.context}: a VAE's clips cannot be shared, only a DiT's")
    if has_adapter(cfg):
        raise InputError("adapter=lora: it changes a DiT, not a VAE")
    device, init = mesh.device, find_vae(cfg.init) if cfg.init else None
    spec = described(cfg, None, name_of(VAE)) if init is None else init.spec
    crops, sizes = crops_of(cfg, spec), vae_sizes(cfg, spec)
    datasets = datasets_of(cfg, "train", sizes)
    pixels = cfg.crops.pixels
    at_once = min(pixels // mesh.data_ranks, cfg.crops.most or pixels)
    kinds = [(max(1, at_once // crop.volume), VideoShape(crop.frames, crop.height, crop.width)) for crop in crops]
    plan = partial(vae_step, spec, kinds, how(cfg, mesh, parts=-(-pixels // at_once)))

    def made() -> Made:
        torch.manual_seed(cfg.seed)
        vae = (cfg.vae() if init is None else open_vae(init).train()).to(device)
        clips = first_clips(datasets[0], CALIBRATION)
        if init is None:
            vae.start_noise(cfg.vae_loss.noise)
            if vae.linear_in is not None:
                vae.start_linear(clips)
        critic = cfg.critic().to(device) if cfg.critic else None
        weights = cfg.vae_loss
        objective = VAEObjective(
            vae=vae,
            absolute=weights.absolute,
            structure=weights.structure,
            kl=weights.kl,
            noise=weights.noise,
            learn_noise=weights.learn_noise,
            adversarial=weights.adversarial,
            perceptual=weights.perceptual,
            critic=critic,
            shared_std=cfg.shared_std,
            clips=clips,
            seed=cfg.seed,
        )
        freeze(objective.module, cfg.freeze)
        batches = CropBatches(
            datasets=datasets,
            crops=crops,
            pixels=pixels,
            most=cfg.crops.most,
            per_clip=cfg.crops.per_clip,
            share=share(mesh),
            seed=cfg.seed,
        )
        heldout = first_clips(datasets_of(cfg, "heldout", sizes)[0], 16)
        names = [one.fingerprint(number) for one in datasets for number in range(len(one))[:LISTED]]
        held = {"train": {"count": sum(map(len, datasets)), "which": digest(names)}}
        if mesh.main:
            tell_made_up(datasets)
        return Made(objective, batches, partial(vae_samples, vae, heldout, folder, mesh), None, clips=held)

    return Prepared(plan, max(crop.volume for crop in crops), made)


def prepare_dit(cfg: Train, folder: Path, mesh: Mesh) -> Prepared:
    """A DiT on cached latents, with its text encoders or under frozen ones."""
    device, adapter, base = mesh.device, adapter_of(cfg), base_of(cfg, folder)
    vae_part = find_vae(cfg.vae_from or cfg.init or "toy")
    vae = open_vae(vae_part).to(device)
    specs = specs_of(cfg, base)
    outline = without_weights(first(specs, DENOISER))
    check_channels(cfg, vae.spec, outline)
    cache, heldout = cached(cfg, dit_sizes(cfg, vae.spec, outline.patch), vae, mesh)
    if not len(cache):
        raise InputError("data: there is no clip to train on")
    tokenizers = words(cfg, base, specs, cache, folder, mesh)
    packs = {"patch": outline.patch, "work": work_of(outline), "share": share(mesh)}
    packs |= {"tokens": cfg.packs.tokens, "most": cfg.packs.most, "seed": cfg.seed}
    batches = PackBatches(cache=cache, **packs, image=cfg.packs.image, whole=cfg.packs.whole)
    fixed = PackBatches(cache=heldout, **packs, image=0.0, whole=1.0)
    now = batches.packs(0)[mesh.data_rank]
    step = shapes_and_words(batches, now, tokenizers)
    taught = replace(how(cfg, mesh, len(now), adapter), teacher=teaching(cfg, mesh, *step))
    trained = of_role(specs, DENOISER) if inherits(cfg, base) else specs
    plan = partial(dit_step, {name: specs[name] for name in trained}, *step, taught)

    def made() -> Made:
        captions = [entry.caption for one in (cache, heldout) for entry in one.entries]
        dit, encoders = networks(cfg, base, adapter, tokenizers, captions, mesh)
        pipeline, beside = pipeline_of(cfg, base, vae_part)
        objective = FlowObjective(
            dit=dit,
            text_encoders=encoders,
            **goal(cfg, pipeline, vae_part, mesh),
            drop=cfg.drop,
            seed=cfg.seed,
            pipeline=pipeline,
            frozen=beside,
            adapter=adapter,
            device=device,
        )
        freeze(objective.module, cfg.freeze)
        parts = Components(
            name=cfg.name,
            pipeline={**pipeline, "defaults": cfg.request},
            tokenizers=tokenizers,
            device=device,
            networks={name_of(DENOISER): dit, **{one.name: one.network for one in encoders}, name_of(VAE): vae},
            fingerprints={name_of(VAE): vae_part.fingerprint},
        )
        pipe = Pipe(parts)
        prompts = sample_prompts(cfg, heldout.entries, cache.entries)
        prompts = [pipe.request(prompt).prompt for prompt in prompts]  # a bad `request` is told now

        def at_interval(step: int, tracker: Tracker) -> float:
            found = objective.heldout(fixed, mesh, tracker, step)
            dit_samples(pipe, prompts, cfg.samples.seed, folder, mesh, step, tracker)
            return found

        held = {"train": held_by(cache), "heldout": held_by(heldout)}
        return Made(objective, batches, at_interval, pipe, [*cache.skipped, *heldout.skipped], held)

    return Prepared(plan, int((batches.units * batches.places).max()), made)


def sample_prompts(cfg: Train, *parts: Sequence[Entry]) -> list[str]:
    """The prompts of the samples: those of the config, else some of the data's own captions, evenly spread in the first
    part that has any, and in the next where that has too few.
    """
    if cfg.samples.prompts is not None:
        return list(cfg.samples.prompts)
    found: dict[str, None] = {}
    for entries in parts:
        captions = dict.fromkeys(entry.caption for entry in entries if entry.caption.strip())
        new = [one for one in captions if one not in found]
        count = min(SAMPLED - len(found), len(new))
        found |= dict.fromkeys(new[i * len(new) // count] for i in range(count))
    if not found:
        warn(__name__, "no clip has a caption, so no samples are made; samples.prompts= names some")
    return list(found)


def held_by(cache: LatentCache) -> dict[str, Any]:
    """How many clips a cache has for a run, and digests that tell which, and of their captions."""
    entries = cache.entries
    which, captions = digest(one.name for one in entries), digest(one.caption for one in entries)
    return {"count": len(entries), "which": which, "captions": captions}


def digest(texts: Iterable[str]) -> str:
    """A short name for texts in their order."""
    found = sha256()
    for text in texts:
        found.update(text.encode() + b"\0")
    return found.hexdigest()[:12]


def goal(cfg: Train, pipeline: dict[str, Any], vae: Part, mesh: Mesh) -> dict[str, Any]:
    """The path of `flow`, its times and the teacher, if one is named: `pipeline` takes its shift then.

    Times that have the shift of the config have the model's instead.
    """
    path, times, teacher = cfg.flow.path(), cfg.flow.times(), teacher_of(cfg, vae, mesh)
    if teacher is not None:  # the student's steps begin where some of its teacher's do
        pipeline["shift"] = teacher.pipe.parts.pipeline["shift"]
    follows = cfg.flow.times.arguments["shift"] == cfg.shift
    return {"path": path, "times": replace(times, shift=pipeline["shift"]) if follows else times, "teacher": teacher}


def teacher_of(cfg: Train, vae: Part, mesh: Mesh) -> Teacher | None:
    """The model whose steps are taught, if one is named."""
    if not cfg.teacher:
        return None
    check_teacher(cfg)
    part = first(base_named("teacher.model", cfg.teacher.model).parts, VAE)
    if part.fingerprint != vae.fingerprint:
        raise InputError(f"teacher.model={cfg.teacher.model}: its VAE is not the student's: say vae_from=")
    pipe = load(cfg.teacher.model, device=str(mesh.device), kernel=cfg.kernel)
    return Teacher(pipe=pipe, steps=cfg.teacher.steps, guidance=cfg.teacher.guidance, student=cfg.request["steps"])


def share(mesh: Mesh) -> Share:
    """Which part of a step's clips this process takes."""
    return Share(mesh.data_rank, mesh.data_ranks)


def work_of(network: Denoiser) -> Work:
    """What a clip costs a denoiser, by its tokens."""
    one, two, none = (network.flops(tokens, STATES) for tokens in (1, 2, 0))
    square = (two - 2 * one + none) / 2
    return Work(one - none - square, square)


def shapes_and_words(
    batches: PackBatches, packs: list, tokenizers: Mapping[str, Tokenizer]
) -> tuple[list[LatentShape], Lengths]:
    """Of that of a step's packs which has most tokens, those of its captions too: its shapes, its captions' lengths."""
    cache, found = batches.cache, []
    for clips, _ in packs:
        captions = [cache.entries[index].caption for index, _ in clips]
        words = {name: tokenizer(captions)[1] for name, tokenizer in tokenizers.items()}
        found.append((sum(batches.size(*clip) for clip in clips) + sum(map(sum, words.values())), clips, words))
    _, clips, words = max(found, key=lambda one: one[0])
    return [LatentShape(frames, cache.shape(i).height, cache.shape(i).width) for i, frames in clips], words


def how(cfg: Train, mesh: Mesh, parts: int, adapter: LoRA | None = None) -> Training:
    """What a plan must know of the way of training; `parts`: batches of a step."""

    def change(networks: nn.ModuleDict) -> None:
        if adapter is not None:
            adapter.inject(first(networks, DENOISER))
        forget(networks, cfg.parallel.recompute)

    precision = PRECISIONS[pick_precision(cfg.precision, mesh.device)]
    frozen = tuple(name.removeprefix(f"{name_of(VAE)}.") for name in cfg.freeze)
    muon, shards = "muon_lr" in cfg.optim.make.node, mesh.shard * mesh.context
    kept = torch.float32 if adapter is None else kept_in(cfg.precision, mesh.device)
    return Training(precision, frozen, muon, parts, shards, mesh.context, change, kept=kept)


def teaching(cfg: Train, mesh: Mesh, shapes: Sequence[LatentShape], words: Lengths) -> Cost | None:
    """What a teacher adds to each batch, if one is named: its guided steps, without prompts in a second half."""
    if not cfg.teacher:
        return None
    part = first(base_named("teacher.model", cfg.teacher.model).parts, DENOISER)
    storage = Storage(mesh.device.type, torch.float32 if mesh.device.type == "cpu" else torch.bfloat16)
    both = {name: own + (1,) * len(own) for name, own in words.items()}
    cost = step_cost(part, [*shapes, *shapes], both, storage)
    return cost.times(cfg.teacher.steps / cfg.request["steps"])


def cached(cfg: Train, sizes: Sizes, vae: VideoVAE, mesh: Mesh) -> list[LatentCache]:
    """Latents of what trains and of what is held out, encoded where the cache lacks them."""
    splits = [datasets_of(cfg, split, sizes) for split in ("train", "heldout")]
    return [encode_datasets(one, vae, folder=Path(cfg.cache), workers=cfg.workers, mesh=mesh) for one in splits]


def tell_made_up(datasets: Iterable[Any]) -> None:
    """Say how many clips show what their files do not have, as it is said of those that are encoded."""
    seen = [(one, number) for one in datasets if hasattr(one, "made_up") for number in range(len(one))[:LISTED]]
    for told, count in sorted(Counter(told for one, number in seen for told in one.made_up(number)).items()):
        note(__name__, f"{count} of {len(seen)} clips {told}")


def first_clips(dataset: Any, count: int) -> list[torch.Tensor]:
    """The first clips of a data set, less what cannot be read, as far as they have no more than ENOUGH pixels or so."""
    clips, pixels, count = [], 0, min(count, len(dataset))
    few = 8 if hasattr(dataset, "__getitems__") else 1
    for start in range(0, count, few):
        samples, skipped = fetch(dataset, range(start, min(start + few, count)))
        for path, reason in skipped:
            warn(__name__, f"skipped {path}: {reason}")
        clips += [sample.clip for _, sample in samples]
        pixels += sum(sample.clip[0].numel() for _, sample in samples)
        if pixels > ENOUGH:
            break
    if not clips:
        raise InputError("data: none of its clips can be read")
    return clips


def stand_ins(cfg: Train, scratch: Path, mesh: Mesh) -> tuple[Train, list[str]]:
    """The settings in which, where a run of `after` is not there yet, what it would begin with takes its place; and the
    names of these runs.
    """
    names = []
    for number, before in enumerate(runs_before(cfg)):
        if (Path(before.run_dir) / "model").is_dir():
            continue
        folder = scratch / f"before-{number}"
        first, more = stand_ins(replace(before, limit=cfg.limit), folder, mesh)
        names += [*more, before.name]
        made = prepare(first, folder, mesh).make()
        made.objective.publish(folder, made.objective.module.state_dict(), step=0)
        taken = {key for key in ("vae_from", "init") if getattr(cfg, key) and is_at(getattr(cfg, key), before.run_dir)}
        cfg = replace(cfg, **dict.fromkeys(taken, str(folder)))
    return cfg, names


def is_at(name: str, folder: str) -> bool:
    """Whether a model is named by this folder."""
    return Path(name) == Path(folder)
