"""The plan of a training that starts from a public model's name: by its numbers alone, without its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from videodit.alive import doing
from videodit.checkpoint.family import settings
from videodit.checkpoint.find import WordCount
from videodit.checkpoint.parts import ROLES, first, name_of, of_role
from videodit.checkpoint.pretrained import Part
from videodit.checkpoint.resolve import family_of, read_family
from videodit.checkpoint.weights import Weights
from videodit.data.batches import Clips, PackBatches, fetch
from videodit.errors import InputError
from videodit.models.interfaces import DENOISER, TEXT_ENCODER, VAE
from videodit.parallel.mesh import Mesh
from videodit.plan.machine import GIB, Limit
from videodit.plan.training import StepPlan, dit_step
from videodit.shapes import LatentShape, Sizes, VideoShape
from videodit.train.build import how, shapes_and_words, share, work_of
from videodit.train.init import adapter_of, check_trains, kept_in
from videodit.train.inputs import datasets_of
from videodit.train.settings import Train

MANY = 64  # clips that are read for their shapes, evenly spread


class Sketch(NamedTuple):
    """What a step needs; bytes of the VAE, which is open beside it, and of the text encoder, which is closed before: of
    several, one after the other, of the largest.
    """

    plan: StepPlan
    vae: int
    text: int

    def line(self, device: torch.device, base: int) -> str:
        """What a step's own line does not tell; `base`: bytes that the process takes beside."""
        kind = "bf16" if self.plan.precision == torch.bfloat16 else "fp32"
        before = f"up to {(base + self.text) / GIB:.2f} GiB before the first step, with the text encoder"
        return f"from the model's numbers, {kind} on {device.type}: {before}"

    def check(self, base: int, limit: Limit) -> None:
        """InputError where the text encoder or a step would not fit."""
        if base + self.text > limit.free:
            need = f"the text encoder, open before the first step, needs {(base + self.text) / GIB:.1f} GiB"
            raise InputError(f"{need}; {limit.name} leaves {limit.free / GIB:.1f}")
        self.plan.check(base + self.vae, limit)


class Entry(NamedTuple):
    """What is known of a clip."""

    caption: str
    shape: LatentShape


@dataclass(frozen=True)
class Entries:
    """Stands for the latents that no VAE has made: their shapes and captions."""

    entries: Sequence[Entry]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        raise NotImplementedError("there are no latents in a sketch")

    def shape(self, index: int) -> LatentShape:
        """Of a clip's latents."""
        return self.entries[index].shape


def is_sketched(cfg: Train) -> bool:
    """Whether a plan goes by a public model's numbers."""
    return cfg.stage == "dit" and family_of(cfg.init) is not None


def sketched(cfg: Train, mesh: Mesh) -> Sketch:
    """The plan of a DiT's step, over clips of the data and captions that have a token for each three letters or so."""
    name = family_of(cfg.init)
    family, adapter = read_family(name), adapter_of(cfg)
    if "defaults" not in family:
        raise InputError(f"init={cfg.init}: its VAE has no class here yet, so nothing can be trained from it")
    check_trains(cfg, settings(name, exact=True), two="boundary" in family)
    parts = {name: Part(family[name], Weights([])) for name in ROLES if name in family}
    dit, vae, texts = first(parts, DENOISER), first(parts, VAE), of_role(parts, TEXT_ENCODER)
    sizes = Sizes(vae.outline.stride, dit.outline.patch)
    with doing("look at the clips"):
        seen = Entries([one for clips in datasets_of(cfg, "train", sizes) for one in entries(clips, vae)])
    packs = {"patch": dit.outline.patch, "work": work_of(dit.skeleton), "share": share(mesh)}
    batches = PackBatches(
        cache=seen,
        **packs,
        tokens=cfg.packs.tokens,
        most=cfg.packs.most,
        image=cfg.packs.image,
        whole=cfg.packs.whole,
        seed=cfg.seed,
    )
    now = batches.packs(0)[mesh.data_rank]
    with doing("plan a step"):
        step = shapes_and_words(batches, now, dict.fromkeys(texts, WordCount()))
        plan = dit_step({name_of(DENOISER): dit.spec}, *step, how(cfg, mesh, len(now), adapter))
    text = max(numbers(parts[name]) for name in texts) * kept_in(cfg.precision, mesh.device).itemsize
    return Sketch(plan, numbers(vae) * torch.float32.itemsize, text)


def numbers(part: Part) -> int:
    """How many parameters a network has, by its arguments."""
    return sum(parameter.numel() for parameter in part.skeleton.parameters())


def entries(clips: Clips, vae: Part) -> list[Entry]:
    """The shapes that a VAE would give to some of the clips, and their captions."""
    indices = sorted({i * len(clips) // MANY for i in range(MANY)} if len(clips) > MANY else range(len(clips)))
    found: list[Entry] = []
    for index in indices:
        for _, sample in fetch(clips, [index])[0]:
            _, frames, height, width = sample.clip.shape
            found.append(Entry(sample.caption, VideoShape(frames, height, width).latent(vae.outline.stride)))
    if not found:
        raise InputError("data: none of its clips can be read")
    return found
