"""What can be known of a training before it is begun, and before the runs that come first are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import nn

from videodit.atomic import check_output, check_room
from videodit.checkpoint.latents import SHARD
from videodit.cli import compose
from videodit.cli.compose import make, plain
from videodit.cli.objects import check_objects
from videodit.cli.start import adapter_of, base_of, described, find_vae
from videodit.config import conf_dir
from videodit.errors import InputError
from videodit.models.build import rebuild
from videodit.request import complete
from videodit.shapes import VideoShape
from videodit.train.machine import pick_precision
from videodit.train.settings import Settings
from videodit.untrusted import check

if TYPE_CHECKING:
    from omegaconf import DictConfig

LEAST = 3  # values that a checkpoint has of each parameter: its own, the average and, with Muon, one moment
Share = Annotated[float, Ge(0), Le(1)]
Count = Annotated[int, Ge(1)]
RANGES = MappingProxyType({  # of numbers that nothing else compares before work begins
    "seed": Annotated[int, Ge(0), Lt(2**63)],
    "ema": Annotated[float, Ge(0), Lt(1)],
    "drop": Share,
    "keep": Count,
    "workers": Annotated[int, Ge(0)],
    "optim.warmup": Annotated[int, Ge(0)],
    "optim.decay": Annotated[int, Ge(0)],
    "optim.floor": Share,
    "packs.tokens": Count,
    "packs.most": Count | None,
    "packs.image": Share,
    "packs.whole": Share,
    "crops.pixels": Count,
    "crops.most": Count | None,
    "crops.per_clip": Count,
    "samples.seed": Annotated[int, Ge(0), Lt(2**63)],
})  # fmt: skip
Spec = Mapping[str, Any]  # of a network: its architecture and arguments


def runs_before(cfg: DictConfig) -> list[DictConfig]:
    """The configs of the runs in `after`."""
    if wrong := [overrides for overrides in cfg.after if not isinstance(plain(overrides), list)]:
        raise InputError(f"after=[{wrong[0]},…]: each run that comes first is a list of its keys: after=[[stage=vae]]")
    return [compose.config(conf_dir(), "train", compose.Line(list(overrides), {})) for overrides in cfg.after]


def check_possible(cfg: DictConfig) -> None:
    """InputError for what a training, or one of those before it, could not do. It makes nothing, and reads no clip."""
    check_settings(cfg)
    if cfg.stage not in ("vae", "dit"):
        raise InputError(f"stage={cfg.stage}: it is vae or dit")
    check_output(Path(cfg.run_dir) / "config.json", "run_dir")
    if cfg.stage == "dit":
        check_output(Path(cfg.cache) / SHARD.format("0" * 16), "cache")
    coming = {}
    for before in runs_before(cfg):
        check_objects(before)
        check_possible(before)
        coming[Path(before.run_dir)] = before
    check_vae(cfg, coming) if cfg.stage == "vae" else check_dit(cfg, coming)
    for split in ("train", "heldout") if coming else ():  # else they are opened at once
        for node in cfg.data[split]:
            make(node)


def check_settings(cfg: DictConfig) -> None:
    """InputError for numbers and a precision that no training has."""
    for key, kind in RANGES.items():
        section, _, name = key.rpartition(".")
        value = (cfg[section] if section else cfg)[name]
        check(value, kind, f"{key}={value}")
    Settings(**cfg.loop, matmul_rate=0.0)
    if cfg.precision != "auto":
        pick_precision(cfg.precision, torch.device("cpu"))
    small = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(1, 1)])})  # what Muon takes, too
    try:
        make(cfg.optim.make)(small, curve=lambda _: 1.0)
    except ValueError as error:  # of torch's own optimizers
        raise error if isinstance(error, InputError) else InputError(f"optim.make: {error}") from None


def check_vae(cfg: DictConfig, coming: Mapping[Path, DictConfig]) -> None:
    """The same for what a VAE's training makes."""
    networks = nn.ModuleDict({"vae": hollow(vae_of(cfg, cfg.init, coming) or described(cfg, None, "vae"))})
    for number, crop in enumerate(make(cfg.crops)["crops"]):
        try:
            VideoShape(crop.frames, crop.height, crop.width).latent(networks["vae"].stride)
        except InputError as error:
            raise InputError(f"crops.crops.{number}: {error}") from None
        check(crop.weight, Annotated[float, Gt(0)], f"crops.crops.{number}.weight={crop.weight}")
    for key, value in plain(cfg.vae_loss).items():
        if not isinstance(value, bool):
            check(value, Annotated[float, Ge(0)], f"vae_loss.{key}={value}")
    if cfg.critic:
        with torch.device("meta"):
            networks["critic"] = make(cfg.critic)
    freeze(networks if cfg.critic else networks["vae"], cfg.freeze)
    check_disk(cfg, networks)


def check_dit(cfg: DictConfig, coming: Mapping[Path, DictConfig]) -> None:
    """The same for a DiT's."""
    adapter_of(cfg)
    make(cfg.flow)
    check_teacher(cfg)
    vae = vae_of(cfg, cfg.vae_from or cfg.init or "toy", coming)
    if cfg.init and Path(cfg.init) in coming:  # its networks are seen when it is there
        return
    base = base_of(cfg, Path(cfg.run_dir))
    specs = {part: described(cfg, base, part) for part in ("dit", "text")}
    if vae is not None:
        check_sizes(cfg, vae, specs["dit"]["arguments"])
    if base is None:
        networks = nn.ModuleDict({part: hollow(spec) for part, spec in specs.items()})
        freeze(networks, cfg.freeze)
        check_disk(cfg, networks)
        for prompt in cfg.samples.prompts or ["any"]:
            complete({"prompt": prompt}, plain(cfg.request), 1)


def check_disk(cfg: DictConfig, networks: nn.Module) -> None:
    """InputError where the disk has no room for one checkpoint: of what trains, values, averages and moments."""
    trained = sum(parameter.numel() for parameter in networks.parameters() if parameter.requires_grad)
    check_room(Path(cfg.run_dir), LEAST * torch.float32.itemsize * trained, "a checkpoint")


def vae_of(cfg: DictConfig, name: str, coming: Mapping[Path, DictConfig]) -> Spec | None:
    """The VAE that a model, or a run that comes before, has or will have; None where that cannot be known yet."""
    before = coming.get(Path(name)) if name else None
    if before is None:
        return find_vae(name).skeleton.spec if name else None
    return described(before, None, "vae") if before.stage == "vae" and not before.init else None


def hollow(spec: Spec) -> nn.Module:
    """A network without values."""
    with torch.device("meta"):
        return rebuild(spec["architecture"], spec["arguments"])


def check_sizes(cfg: DictConfig, vae: Spec, dit: Mapping[str, Any]) -> None:
    """InputError where the DiT takes other latents than the VAE gives."""
    if (found := vae["arguments"]["latent_channels"]) != (channels := dit["channels"]):
        name = cfg.vae_from or cfg.init or "toy"
        raise InputError(f"vae_from={name}: its latents have {found} channels, not {channels}")


def check_teacher(cfg: DictConfig) -> None:
    """InputError where a teacher is named, and the rest is not as a student needs it."""
    if not cfg.teacher:
        return
    if cfg.flow.name != "rectified" or cfg.flow.path.prediction != "velocity":
        raise InputError(f"flow={cfg.flow.name}: a teacher teaches velocities on the straight path: say flow=rectified")
    if cfg.request.guidance != 1 or cfg.request.sampler != "euler":
        raise InputError("request: a student goes without guidance, which it has from its teacher, in Euler steps: "
                         "say request.guidance=1 request.sampler=euler")  # fmt: skip


def freeze(module: nn.Module, parts: list[str]) -> None:
    """Exclude parts of a module, named as in its attributes, from training."""
    for name in parts:
        try:
            module.get_submodule(name).requires_grad_(False)
        except AttributeError:
            names = ", ".join(child for child, _ in module.named_children())
            raise InputError(f"freeze={name}: there is no such part, only {names} and parts of these") from None
