"""`videodit train`: builds the objects that a config names and hands them to the loop."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import Dataset

from videodit.checkpoint.find import find_pipeline
from videodit.checkpoint.latents import LatentCache
from videodit.checkpoint.pretrained import FILES, Components, Part, load_model
from videodit.checkpoint.store import atomic, read_json, write_json
from videodit.checkpoint.weights import fingerprint
from videodit.cli import compose
from videodit.config import conf_dir
from videodit.data.batches import CropBatches, PackBatches, fetch, load
from videodit.errors import InputError
from videodit.generate import Pipe
from videodit.models.text import Tokenizer, train_tokenizer
from videodit.models.vae import VideoVAE
from videodit.plan.machine import Limit, limits, rates, resident
from videodit.plan.training import StepPlan, Training, dit_step, vae_step
from videodit.shapes import LatentShape, VideoShape
from videodit.track.tracker import Composite, Tracker
from videodit.train.dit_step import FlowObjective
from videodit.train.ema import EMA
from videodit.train.encode import encode_datasets
from videodit.train.loop import Objective, Run, Settings
from videodit.train.machine import PRECISIONS, matmul_rate, pick_device, pick_precision
from videodit.train.optim import warmup_decay
from videodit.train.samples import dit_samples, vae_samples
from videodit.train.state import Checkpoints
from videodit.train.vae_step import VAEObjective

if TYPE_CHECKING:
    from omegaconf import DictConfig

CALIBRATION = 128  # clips that give the latents' statistics and the VAE's linear start
OF_THIS_START = ("fresh", "memory", "plan")  # not of the run
WRITTEN = ("checkpoints", "config.json", "metrics.jsonl", "model", "samples", "skipped.jsonl", "tensorboard",
           "tokenizer.json", "wandb", "wandb-id")  # fmt: skip  # what a run leaves in its folder


def run(cfg: DictConfig) -> None:
    """Train what `cfg.stage` names, after the runs of `cfg.after`."""
    stages = {"vae": train_vae, "dit": train_dit}
    if cfg.stage not in stages:
        raise InputError(f"stage={cfg.stage}: it is vae or dit")
    Settings(**cfg.loop, matmul_rate=0.0)  # mistakes are told before anything is done
    if cfg.precision != "auto":
        pick_precision(cfg.precision, torch.device("cpu"))
    folder, device = Path(cfg.run_dir), pick_device(cfg.device)
    if cfg.fresh and not cfg.plan:
        start_over(folder)
    for overrides in () if cfg.plan else cfg.after:
        run(compose.config(conf_dir(), "train", compose.Line(list(overrides), {})))
    folder.mkdir(parents=True, exist_ok=True)
    stages[cfg.stage](cfg, folder, device)


def train_vae(cfg: DictConfig, folder: Path, device: torch.device) -> None:
    """A VAE on crops of the clips."""
    datasets = [make(node) for node in cfg.data.train]
    crops = make(cfg.crops)
    kinds = [VideoShape(crop.frames, crop.height, crop.width) for crop in crops["crops"]]
    counts = [max(1, crops["pixels"] // (one.frames * one.height * one.width)) for one in kinds]
    step = vae_step(described(cfg, "vae"), list(zip(counts, kinds, strict=True)), how(cfg, device))
    if planned(cfg, step, device):
        return
    torch.manual_seed(cfg.seed)
    vae = initial(cfg, "vae").to(device)
    clips = first_clips(datasets[0], CALIBRATION)
    if not cfg.init:
        vae.start_noise(cfg.vae_loss.noise)
        if vae.linear_in is not None:
            vae.start_linear(clips)
    critic = make(cfg.critic).to(device) if cfg.critic else None
    shared = {"critic": critic, "shared_std": cfg.shared_std, "clips": clips, "seed": cfg.seed}
    objective = VAEObjective(vae=vae, **cfg.vae_loss, **shared)
    batches = CropBatches(datasets=datasets, **crops, seed=cfg.seed)
    heldout = first_clips(make(cfg.data.heldout[0]), 16)
    tracker = make_tracker(cfg)
    fit(cfg, folder, objective, batches, tracker, partial(vae_samples, vae, heldout, folder, tracker))


def train_dit(cfg: DictConfig, folder: Path, device: torch.device) -> None:
    """A DiT and its text encoder on cached latents."""
    vae_file = find_vae(cfg.vae_from)
    vae = open_vae(vae_file).to(device)
    cache, heldout = (cached(cfg, cfg.data[split], vae) for split in ("train", "heldout"))
    if not len(cache):
        raise InputError("data: there is no clip to train on")
    tokenizer = words(cfg, cache, folder)
    specs = {"dit": described(cfg, "model"), "text": described(cfg, "text")}
    batches = PackBatches(cache=cache, patch=tuple(specs["dit"]["arguments"]["patch"]), **cfg.packs, seed=cfg.seed)
    if planned(cfg, dit_step(specs, *largest(batches, cache, tokenizer), how(cfg, device)), device):
        return
    torch.manual_seed(cfg.seed)
    dit, text = initial(cfg, "model").to(device), initial(cfg, "text").to(device)
    if len(tokenizer) > (room := text.spec["arguments"]["vocabulary"]):
        raise InputError(f"text.vocabulary={room}: the captions have {len(tokenizer)} tokens")
    if vae.latent_channels != (channels := dit.spec["arguments"]["channels"]):
        raise InputError(f"vae_from={cfg.vae_from}: its latents have {vae.latent_channels} channels, not {channels}")
    flow = make(cfg.flow)
    pipeline = {
        "flow": {"path": cfg.flow.name, "prediction": cfg.flow.path.prediction},
        **{key: plain(cfg[key]) for key in ("shift", "area")},
        "defaults": plain(cfg.request),
    }
    objective = FlowObjective(
        dit=dit,
        text=text,
        tokenizer=tokenizer,
        path=flow["path"],
        times=flow["times"],
        drop=cfg.drop,
        seed=cfg.seed,
        pipeline=pipeline,
        frozen={FILES["vae"]: vae_file, FILES["tokenizer"]: tokenizer.path},
    )
    parts = Components(
        name=cfg.name,
        pipeline=pipeline,
        tokenizer=tokenizer,
        device=device,
        networks={"dit": dit, "text": text, "vae": vae},
        fingerprints={"vae": fingerprint(vae_file)},
    )
    pipe = Pipe(parts)
    prompts = [pipe.request(prompt).prompt for prompt in cfg.samples.prompts]  # a bad `request` is told now
    tracker = make_tracker(cfg)
    sample = partial(dit_samples, pipe, prompts, cfg.samples.seed, folder, tracker)
    whole = {**cfg.packs, "image": 0.0, "whole": 1.0}
    fixed = PackBatches(cache=heldout, patch=dit.patch, **whole, seed=cfg.seed)
    measure = partial(objective.heldout, fixed, tracker)

    def at_interval(step: int) -> None:
        measure(step)
        sample(step)

    fit(cfg, folder, objective, batches, tracker, at_interval)


def largest(batches: PackBatches, cache: LatentCache, tokenizer: Tokenizer) -> tuple[list[LatentShape], tuple]:
    """The shapes in the first epoch's pack of most tokens, and the lengths of its captions."""
    pack = batches.largest
    shapes = [LatentShape(frames, cache.shape(index).height, cache.shape(index).width) for index, frames in pack]
    return shapes, tokenizer([cache[index][1] for index, _ in pack])[1]


def how(cfg: DictConfig, device: torch.device) -> Training:
    """What a plan must know of the way of training."""
    precision = PRECISIONS[pick_precision(cfg.precision, device)]
    frozen = tuple(name.removeprefix("vae.") for name in cfg.freeze)
    return Training(precision, frozen, "muon_lr" in cfg.optim.make, cfg.loop.accumulate)


def planned(cfg: DictConfig, step: StepPlan, device: torch.device) -> bool:
    """Say what a step will need, and refuse one that cannot fit. True if that was all that was asked for."""
    base = resident() if device.type == "cpu" else 0
    if cfg.plan:
        print(step.line(base, rates(device, step.precision)))
    else:
        print(step.line(base, None), file=sys.stderr)
    limit = limits(device)[0]
    if cfg.memory != "off":
        step.check(base, Limit(limit.name, limit.free + base))
    return bool(cfg.plan)


def described(cfg: DictConfig, part: str) -> dict[str, Any]:
    """The architecture and arguments of what `initial` gives, without weights."""
    if cfg.init:
        return Part.own(find_vae(cfg.init) if part == "vae" else weights_of(cfg.init, part)).spec
    with torch.device("meta"):
        return make(cfg[part]).spec


def fit(
    cfg: DictConfig,
    folder: Path,
    objective: Objective,
    batches: Dataset,
    tracker: Tracker,
    sample: Callable[[int], None],
) -> None:
    """Run the loop."""
    device = next(objective.module.parameters()).device
    freeze(objective.module, cfg.freeze)
    curve = warmup_decay(warmup=cfg.optim.warmup, steps=cfg.loop.steps, decay=cfg.optim.decay, floor=cfg.optim.floor)
    checkpoints = checkpoints_of(cfg, folder)
    config = settled(plain(cfg), folder / "config.json", device, resuming=bool(checkpoints.files()))
    write_json(folder / "config.json", config)
    rate = matmul_rate(device, torch.float32)
    count = sum(p.numel() for p in objective.module.parameters())
    print(
        f"{folder}: {count / 1e6:.2f} million parameters, {config['precision']}, "
        f"{rate / 1e9:.0f} GFLOP/s fp32 matmul",
        file=sys.stderr,
    )

    def stream(start: int, stop: int) -> Iterator:
        return load(batches, start=start, stop=stop, workers=cfg.workers)

    Run(
        folder=folder,
        objective=objective,
        batches=stream,
        optimizer=make(cfg.optim.make)(objective.module, curve=curve),
        ema=EMA(module=objective.module, decay=cfg.ema),
        checkpoints=checkpoints,
        tracker=tracker,
        settings=Settings(**cfg.loop, matmul_rate=rate),
        precision=PRECISIONS[config["precision"]],
        config=config,
        sample=sample,
    ).fit()


def freeze(module: nn.Module, parts: Sequence[str]) -> None:
    """Exclude parts of a module, named as in its attributes, from training."""
    for name in parts:
        try:
            module.get_submodule(name).requires_grad_(False)
        except AttributeError:
            names = ", ".join(child for child, _ in module.named_children())
            raise InputError(f"freeze={name}: there is no such part, only {names} and parts of these") from None


def settled(config: dict[str, Any], path: Path, device: torch.device, *, resuming: bool) -> dict[str, Any]:
    """The config with what `auto` came to. Resuming keeps the precision that the run has (`path` is its config.json).

    What else differs from the run's config is told on stderr: it may be meant, such as more steps.
    """
    config = {key: value for key, value in config.items() if key not in OF_THIS_START}
    before = dict(read_json(path) if resuming and path.exists() else config)
    if config["precision"] == "auto":
        config["precision"] = pick_precision(before["precision"], device)
    if before["precision"] == "auto":
        before["precision"] = config["precision"]
    for line in differences(before, config):
        print(f"resuming with another config: {line}", file=sys.stderr)
    return config


def differences(before: Any, now: Any, key: str = "") -> Iterator[str]:
    """ "key: before -> now" for every value that differs between two nested configs; None where there is none."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted({*before, *now} - {*OF_THIS_START}):
            yield from differences(before.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif before != now:
        yield f"{key}: {before} -> {now}"


def start_over(folder: Path) -> None:
    """Delete what a run wrote into its folder, and nothing else that may lie there."""
    for name in WRITTEN:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def initial(cfg: DictConfig, part: str) -> nn.Module:
    """A network as the config describes it, or the one of `cfg.init`."""
    if not cfg.init:
        return make(cfg[part])
    if part == "vae":
        return open_vae(find_vae(cfg.init)).train()
    return load_model(weights_of(cfg.init, part), dtype=torch.float32).train()


def weights_of(model: str, part: str) -> Path:
    """The file of a model's DiT ("model") or text encoder ("text")."""
    return find_pipeline(model) / FILES[{"model": "dit"}.get(part, part)]


def cached(cfg: DictConfig, nodes: Any, vae: VideoVAE) -> LatentCache:
    """Latents of data sets, encoded where the cache lacks them."""
    return encode_datasets(
        [make(node) for node in nodes],
        vae,
        folder=Path(cfg.cache),
        batch=32,
        workers=cfg.workers,
    )


def words(cfg: DictConfig, cache: LatentCache, folder: Path) -> Tokenizer:
    """The tokenizer: of the run that is resumed, of `cfg.init`, or learned from the captions."""
    path = folder / FILES["tokenizer"]
    if not (checkpoints_of(cfg, folder).files() and path.exists()):
        with atomic(path) as temporary:
            if cfg.init:
                temporary.write_bytes((find_pipeline(cfg.init) / FILES["tokenizer"]).read_bytes())
            else:
                captions = [entry.caption for entry in cache.entries]
                train_tokenizer(captions, temporary, vocabulary=cfg.text.vocabulary)
    return Tokenizer(path=path)


def find_vae(model: str) -> Path:
    """The VAE's file of a model, of a VAE run, or the file itself."""
    for path in (Path(model), Path(model) / FILES["vae"], Path(model) / "model" / FILES["vae"]):
        if path.is_file():
            return path
    try:
        return find_pipeline(model) / FILES["vae"]
    except InputError:
        raise InputError(f"there is no VAE in {model}: name a bundled model, a run's folder or a file") from None


def open_vae(path: Path) -> VideoVAE:
    """The VAE of a file, in float32 however it is stored."""
    vae = load_model(path, dtype=torch.float32)
    if not isinstance(vae, VideoVAE):
        raise InputError(f"{path} is not a VAE")
    return vae


def first_clips(dataset: Any, count: int) -> list[torch.Tensor]:
    """The first clips of a data set, less what cannot be read."""
    samples, skipped = fetch(dataset, range(min(count, len(dataset))))
    for path, reason in skipped:
        print(f"skipped {path}: {reason}", file=sys.stderr)
    if not samples:
        raise InputError("data: none of its clips can be read")
    return [sample.clip for _, sample in samples]


def checkpoints_of(cfg: DictConfig, folder: Path) -> Checkpoints:
    """The run's checkpoints."""
    return Checkpoints(folder=folder / "checkpoints", keep=cfg.keep)


def make(node: DictConfig) -> Any:
    """The object that a config node describes."""
    from hydra.utils import instantiate

    return instantiate(node, _convert_="all")


def plain(node: DictConfig) -> Any:
    """A config node as plain Python, interpolations resolved."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(node, resolve=True)


def make_tracker(cfg: DictConfig) -> Tracker:
    """All trackers of the config as one."""
    return Composite(trackers=[make(node) for node in cfg.tracker.trackers])
