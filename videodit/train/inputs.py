"""The clips of a run, at sizes that its networks take: known from the config before a network is opened."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from videodit.checkpoint.parts import first, name_of
from videodit.data.batches import Clips, Crop, few
from videodit.errors import InputError
from videodit.models.build import without_weights
from videodit.models.interfaces import DENOISER, VAE
from videodit.shapes import Sizes, VideoShape
from videodit.train.init import base_named, described, find_vae
from videodit.train.settings import Train

Spec = Mapping[str, Any]  # of a network: its architecture and arguments


def datasets_of(cfg: Train, split: str, sizes: Sizes) -> list[Clips]:
    """The data sets of a split, at most `cfg.limit` clips of each.

    Those that shape clips, which take `stride` and `patch`, shape them so that they fit. InputError where the clips of
    another one do not.
    """
    found = []
    for factory in cfg.data[split]:
        given = {name: getattr(sizes, name) for name in factory.accepts(Sizes._fields)}
        clips = factory(**given)
        if hasattr(clips, "check"):
            clips.check(sizes, factory.key + (f", {factory.arguments['root']}" if "root" in factory.arguments else ""))
        found.append(few(clips, cfg.limit))
    return found


def crops_of(cfg: Train, vae: Spec) -> list[Crop]:
    """The kinds of crops that a VAE's batches are made of. InputError for one that it does not take."""
    crops, sizes = [factory() for factory in cfg.crops.crops], Sizes(without_weights(vae).stride, (1, 1, 1))
    for number, crop in enumerate(crops):
        sizes.check(VideoShape(crop.frames, crop.height, crop.width), f"crops.crops.{number}")
    return crops


def sizes_of(cfg: Train) -> Sizes:
    """The sizes that a training's networks take, also of one that comes after runs which are not there yet."""
    coming = coming_before(cfg)
    if cfg.stage == "dit":
        return dit_sizes(cfg, dit_vae(cfg, coming), dit_patch(cfg, coming), coming)
    return vae_sizes(cfg, vae_of(cfg.init, coming) if cfg.init else described(cfg, None, name_of(VAE)))


def vae_sizes(cfg: Train, vae: Spec) -> Sizes:
    """Of a VAE's own training: as a DiT of `model` would take the clips."""
    return Sizes(without_weights(vae).stride, tuple(cfg.model.arguments["patch"]))


def dit_sizes(
    cfg: Train, vae: Spec, patch: Sequence[int], coming: Mapping[Path, Train] = MappingProxyType({})
) -> Sizes:
    """Of a DiT's training: what its teacher does not take, if one is named, is no size either."""
    stride, own = without_weights(vae).stride, tuple(patch)
    if not cfg.teacher:
        return Sizes(stride, own)
    taught = patch_of("teacher.model", cfg.teacher.model, coming)
    if own[0] % taught[0]:  # a clip is cut to any number of the student's patches
        told = f"its DiT takes {taught[0]} latent frames at a time, the student's {own[0]}"
        raise InputError(f"teacher.model={cfg.teacher.model}: {told}")
    return Sizes(stride, (own[0], math.lcm(own[1], taught[1]), math.lcm(own[2], taught[2])))


def runs_before(cfg: Train) -> list[Train]:
    """The settings of the runs in `after`."""
    return [before.settings for before in cfg.after]


def coming_before(cfg: Train) -> dict[Path, Train]:
    """The same by their folders."""
    return {Path(before.run_dir): before for before in runs_before(cfg)}


def dit_vae(cfg: Train, coming: Mapping[Path, Train]) -> Spec:
    """The VAE under a DiT's training."""
    return vae_of(cfg.vae_from or cfg.init or "toy", coming)


def vae_of(name: str, coming: Mapping[Path, Train]) -> Spec:
    """The VAE that a model, or a run that comes before, has or will have."""
    before = coming.get(Path(name))
    if before is None:
        return find_vae(name).skeleton.spec
    if before.stage == "dit":
        return dit_vae(before, coming_before(before))
    return vae_of(before.init, coming_before(before)) if before.init else described(before, None, name_of(VAE))


def dit_patch(cfg: Train, coming: Mapping[Path, Train]) -> Sequence[int]:
    """The patch of the DiT that trains."""
    return patch_of("init", cfg.init, coming) if cfg.init else tuple(cfg.model.arguments["patch"])


def patch_of(key: str, name: str, coming: Mapping[Path, Train]) -> Sequence[int]:
    """The patch of the DiT that a model, or a run that comes before, has or will have."""
    before = coming.get(Path(name))
    if before is None:
        return first(base_named(key, name).parts, DENOISER).outline.patch
    return dit_patch(before, coming_before(before))
