"""What can be known of a training before it is begun, and before the runs that come first are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Gt
from torch import nn

from videodit.atomic import check_output, check_room
from videodit.checkpoint.latents import SHARD
from videodit.checkpoint.parts import first, name_of
from videodit.errors import InputError
from videodit.generate.request import complete
from videodit.models.build import without_weights
from videodit.models.interfaces import DENOISER, VAE, Denoiser
from videodit.nn.device import pick_device
from videodit.nn.kernels import AUTO
from videodit.train.init import adapter_of, base_of, described, specs_of
from videodit.train.inputs import Spec, coming_before, crops_of, datasets_of, dit_vae, sizes_of, vae_of
from videodit.train.machine import PRECISIONS, pick_precision
from videodit.train.settings import Train
from videodit.untrusted import check

LEAST = 3  # values that a checkpoint has of each parameter: its own, the average and, with Muon, one moment


class Small(Denoiser):
    """One block with one matrix, for an optimizer to take."""

    STACKS = {"blocks": ""}

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(1, 1)])


def check_possible(cfg: Train) -> None:
    """InputError for what a training, or one of those before it, could not do. It makes nothing, and reads no clip."""
    check_settings(cfg)
    check_output(Path(cfg.run_dir) / "config.json", "run_dir")
    if cfg.stage == "dit":
        check_output(Path(cfg.cache) / SHARD.format("0" * 16), "cache")
    coming = coming_before(cfg)
    for before in coming.values():
        if before.plan:
            raise InputError(f"after: {before.name} has plan=true, and a run that comes first is one that trains")
        check_possible(before)
    check_vae(cfg, coming) if cfg.stage == "vae" else check_dit(cfg, coming)
    if coming:  # else they are opened at once
        for split in ("train", "heldout"):
            datasets_of(cfg, split, sizes_of(cfg))


def check_settings(cfg: Train) -> None:
    """InputError for a precision or an optimizer that no training has."""
    if cfg.precision != "auto":
        pick_precision(cfg.precision, torch.device("cpu"))
    try:
        cfg.optim.make()(Small(), curve=lambda _: 1.0)
    except ValueError as error:  # of torch's own optimizers
        raise error if isinstance(error, InputError) else InputError(f"optim.make: {error}") from None


def check_vae(cfg: Train, coming: Mapping[Path, Train]) -> None:
    """The same for what a VAE's training makes."""
    vae = vae_of(cfg.init, coming) if cfg.init else described(cfg, None, name_of(VAE))
    for number, crop in enumerate(crops_of(cfg, vae)):
        check(crop.weight, Annotated[float, Gt(0)], f"crops.crops.{number}.weight={crop.weight}")
    networks = nn.ModuleDict({name_of(VAE): without_weights(vae)})
    if cfg.critic:
        with torch.device("meta"):
            networks["critic"] = cfg.critic()
    freeze(networks if cfg.critic else first(networks, VAE), cfg.freeze)
    check_disk(cfg, networks)


def check_dit(cfg: Train, coming: Mapping[Path, Train]) -> None:
    """The same for a DiT's."""
    adapter = adapter_of(cfg)
    cfg.flow.path()
    cfg.flow.times()
    check_teacher(cfg)
    vae = dit_vae(cfg, coming)
    if cfg.init and Path(cfg.init) in coming:  # its networks are seen when it is there
        return
    base = base_of(cfg, Path(cfg.run_dir))
    specs = specs_of(cfg, base)
    network = without_weights(first(specs, DENOISER))
    if cfg.kernel != AUTO:
        device = pick_device(None if cfg.device == "auto" else cfg.device)
        precision = PRECISIONS[pick_precision(cfg.precision, device)]
        network.attention(device, precision, grad=True).check(cfg.kernel)
    if adapter is not None:
        adapter.check(network)
    check_channels(cfg, vae, network)
    if base is None:
        networks = nn.ModuleDict({part: without_weights(spec) for part, spec in specs.items()})
        freeze(networks, cfg.freeze)
        check_disk(cfg, networks)
        for prompt in cfg.samples.prompts or ["any"]:
            complete({"prompt": prompt}, cfg.request, 1)


def check_disk(cfg: Train, networks: nn.Module) -> None:
    """InputError where the disk has no room for one checkpoint: of what trains, values, averages and moments."""
    trained = sum(parameter.numel() for parameter in networks.parameters() if parameter.requires_grad)
    check_room(Path(cfg.run_dir), LEAST * torch.float32.itemsize * trained, "a checkpoint")


def check_channels(cfg: Train, vae: Spec, network: Denoiser) -> None:
    """InputError where the DiT takes other latents than the VAE gives."""
    if (found := vae["arguments"]["latent_channels"]) != (channels := network.channels):
        name = cfg.vae_from or cfg.init or "toy"
        raise InputError(f"vae_from={name}: its latents have {found} channels, not {channels}")


def check_teacher(cfg: Train) -> None:
    """InputError where a teacher is named, and the rest is not as a student needs it."""
    if not cfg.teacher:
        return
    if cfg.flow.name != "rectified" or cfg.flow.path.arguments["prediction"] != "velocity":
        raise InputError(f"flow={cfg.flow.name}: a teacher teaches velocities on the straight path: say flow=rectified")
    if cfg.request["guidance"] != 1 or cfg.request["sampler"] != "euler":
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
