"""`videodit train`: builds the objects that a config names and hands them to the loop."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from videodit.checkpoint.latents import LatentCache
from videodit.checkpoint.pretrained import FILES, Components, find_pipeline
from videodit.checkpoint.store import fingerprint, load_model, write_json
from videodit.cli import compose
from videodit.config import conf_dir
from videodit.data.batches import CropBatches, PackBatches, load
from videodit.errors import InputError
from videodit.generate import Pipe
from videodit.models.text import Tokenizer, train_tokenizer
from videodit.models.vae import VideoVAE
from videodit.track.tracker import Composite, Tracker
from videodit.train.dit_step import FlowObjective
from videodit.train.ema import EMA
from videodit.train.encode import encode_datasets
from videodit.train.loop import Objective, Run, Settings
from videodit.train.machine import matmul_rate, training_dtype
from videodit.train.optim import warmup_decay
from videodit.train.samples import dit_samples, vae_samples
from videodit.train.state import Checkpoints
from videodit.train.vae_step import VAEObjective

CALIBRATION = 128  # clips that give the latents' statistics and the VAE's linear start


def run(cfg: DictConfig) -> None:
    """Train what `cfg.stage` names, after the runs of `cfg.after`."""
    for overrides in cfg.after:
        run(compose.config(conf_dir(), "train", compose.Line(list(overrides), {})))
    folder = Path(cfg.run_dir)
    if cfg.fresh and folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stages = {"vae": train_vae, "dit": train_dit}
    if cfg.stage not in stages:
        raise InputError(f"stage={cfg.stage}: it is vae or dit")
    stages[cfg.stage](cfg, folder, pick_device(cfg.device))


def train_vae(cfg: DictConfig, folder: Path, device: torch.device) -> None:
    """A VAE on crops of the clips."""
    datasets = [instantiate(node) for node in cfg.data.train]
    torch.manual_seed(cfg.seed)
    vae = initial(cfg, "vae").to(device)
    clips = first_clips(datasets[0], CALIBRATION)
    if vae.linear_in is not None and not cfg.init:
        vae.start_linear(clips)
    objective = VAEObjective(vae, **cfg.vae_loss, shared_std=cfg.shared_std, clips=clips, seed=cfg.seed)
    crops = instantiate(cfg.crops, _convert_="all")
    batches = CropBatches(datasets, **crops, seed=cfg.seed)
    heldout = first_clips(instantiate(cfg.data.heldout[0]), 16)
    tracker = make_tracker(cfg)
    fit(cfg, folder, objective, batches, tracker, partial(vae_samples, vae, heldout, folder, tracker))


def train_dit(cfg: DictConfig, folder: Path, device: torch.device) -> None:
    """A DiT and its text encoder on cached latents."""
    vae_file = find_vae(cfg.vae_from)
    vae: VideoVAE = load_model(vae_file).to(device)
    cache, heldout = (cached(cfg, cfg.data[split], vae, vae_file) for split in ("train", "heldout"))
    if not len(cache):
        raise InputError("data: there is no clip to train on")
    tokenizer = words(cfg, cache, folder / FILES["tokenizer"])
    torch.manual_seed(cfg.seed)
    dit, text = initial(cfg, "model").to(device), initial(cfg, "text").to(device)
    if len(tokenizer) > cfg.text.vocabulary:
        raise InputError(f"text.vocabulary={cfg.text.vocabulary}: the captions have {len(tokenizer)} tokens")
    flow = instantiate(cfg.flow, _convert_="all")
    pipeline = {
        "flow": {"path": cfg.flow.name, "prediction": cfg.flow.path.prediction},
        **{key: OmegaConf.to_container(cfg[key], resolve=True) for key in ("shift", "area")},
        "defaults": OmegaConf.to_container(cfg.request, resolve=True),
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
    batches = PackBatches(cache, patch=dit.patch, **cfg.packs, seed=cfg.seed)
    parts = Components(cfg.name, pipeline, dit, text, tokenizer, vae, device, {"vae": fingerprint(vae_file)})
    tracker = make_tracker(cfg)
    sample = partial(dit_samples, Pipe(parts), list(cfg.samples.prompts), cfg.samples.seed, folder, tracker)
    fixed = PackBatches(heldout, patch=dit.patch, tokens=cfg.packs.tokens, image=0.0, whole=1.0, seed=cfg.seed)
    measure = partial(objective.heldout, fixed, tracker)

    def at_interval(step: int) -> None:
        measure(step)
        sample(step)

    fit(cfg, folder, objective, batches, tracker, at_interval)


def fit(
    cfg: DictConfig,
    folder: Path,
    objective: Objective,
    batches: torch.utils.data.Dataset,
    tracker: Tracker,
    sample: Any,
) -> None:
    """Run the loop."""
    device = next(objective.module.parameters()).device
    curve = warmup_decay(warmup=cfg.optim.warmup, steps=cfg.loop.steps, decay=cfg.optim.decay, floor=cfg.optim.floor)
    rate = matmul_rate(device, torch.float32)
    config = OmegaConf.to_container(cfg, resolve=True)
    write_json(folder / "config.json", config)
    count = sum(p.numel() for p in objective.module.parameters())
    print(f"{folder}: {count / 1e6:.2f} million parameters, {rate / 1e9:.0f} GFLOP/s fp32 matmul", file=sys.stderr)

    def stream(start: int, stop: int) -> Iterator:
        return load(batches, start=start, stop=stop, workers=cfg.workers)

    Run(
        folder=folder,
        objective=objective,
        batches=stream,
        optimizer=instantiate(cfg.optim.make)(objective.module, curve=curve),
        ema=EMA(objective.module, decay=cfg.ema),
        checkpoints=Checkpoints(folder / "checkpoints", keep=cfg.keep),
        tracker=tracker,
        settings=Settings(**cfg.loop, matmul_rate=rate),
        precision=training_dtype(cfg.precision, device),
        config=config,
        sample=sample,
    ).fit()


def initial(cfg: DictConfig, part: str) -> nn.Module:
    """A network as the config describes it, or the one of `cfg.init`."""
    if not cfg.init:
        return instantiate(cfg[part], _convert_="all")
    name = {"model": "dit"}.get(part, part)
    if name == "vae":
        return load_model(find_vae(cfg.init)).train()
    return load_model(find_pipeline(cfg.init) / FILES[name], dtype=torch.float32).train()


def cached(cfg: DictConfig, nodes: Any, vae: VideoVAE, vae_file: Path) -> LatentCache:
    """Latents of data sets, encoded where the cache lacks them."""
    return encode_datasets(
        [instantiate(node) for node in nodes],
        vae,
        vae_fingerprint=fingerprint(vae_file),
        folder=Path(cfg.cache),
        batch=32,
        workers=cfg.workers,
    )


def words(cfg: DictConfig, cache: LatentCache, path: Path) -> Tokenizer:
    """The run's tokenizer: the one it has, that of `cfg.init`, or one learned from the captions."""
    if path.exists():
        return Tokenizer(path=path)
    if cfg.init:
        path.write_bytes((find_pipeline(cfg.init) / FILES["tokenizer"]).read_bytes())
        return Tokenizer(path=path)
    return train_tokenizer([entry.caption for entry in cache.entries], path, vocabulary=cfg.text.vocabulary)


def find_vae(model: str) -> Path:
    """The VAE's file of a model, of a VAE run, or the file itself."""
    for path in (Path(model), Path(model) / FILES["vae"], Path(model) / "model" / FILES["vae"]):
        if path.is_file():
            return path
    return find_pipeline(model) / FILES["vae"]


def first_clips(dataset: Any, count: int) -> list[torch.Tensor]:
    """The first readable clips of a data set."""
    from videodit.data.batches import fetch

    samples, _ = fetch(dataset, range(min(count, len(dataset))))
    if not samples:
        raise InputError("data: none of its clips can be read")
    return [sample.clip for _, sample in samples]


def make_tracker(cfg: DictConfig) -> Tracker:
    """All trackers of the config as one."""
    return Composite(trackers=[instantiate(node) for node in cfg.tracker.trackers])


def pick_device(device: str) -> torch.device:
    """The device a config asks for; "auto" is the GPU if there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(device)
    except RuntimeError:
        raise InputError(f"device={device}: it is auto, cpu or cuda") from None
