"""Which clips make which step: a pure function of (seed, step), so a resumed run sees exactly what it would have seen.

A batches object is a map-style dataset from step to batch; torch's DataLoader runs it in worker processes.
    B clips, T frames, H height, W width; C, t, h, w the same of latents
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from videodit.data.sample import BadSample, Sample
from videodit.shapes import LatentShape, Triple


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part and on their order."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Clips(Protocol):
    """A data set of captioned clips."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """A clip, read and decoded. Raises BadSample."""

    def fingerprint(self, index: int) -> str:
        """What identifies the content and the transform of a clip, without decoding it."""


class Latents(Protocol):
    """Cached latents, such as checkpoint.latents.LatentCache."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        """Latents (C,t,h,w) and caption of a clip."""

    def shape(self, index: int) -> LatentShape:
        """Latent shape of a clip, without reading it."""


@dataclass
class ClipBatch:
    """Equal crops (B,3,T,H,W) in [-1,1], and the samples that could not be read as (path, reason)."""

    clips: Tensor
    skipped: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class LatentBatch:
    """Latents, each (C,t,h,w), with their captions and their indices in the dataset."""

    latents: list[Tensor]
    captions: list[str]
    indices: list[int]
    skipped: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Crop:
    """A shape to crop from clips, and how often steps use it."""

    frames: int
    height: int
    width: int
    weight: float


class CropBatches(Dataset):
    """Random crops for the VAE: each step draws a data set and one of `crops`, `per_clip` of them from every clip.

    It takes as many crops as fit into `pixels`, the sum of their frames * height * width.
    """

    def __init__(
        self, datasets: Sequence[Clips], *, crops: Sequence[Crop], pixels: int, per_clip: int, seed: int
    ) -> None:
        self.datasets, self.crops, self.pixels, self.per_clip, self.seed = datasets, crops, pixels, per_clip, seed

    def __getitem__(self, step: int) -> ClipBatch:
        rng = np.random.default_rng(derive_seed(self.seed, "crops", step))
        weights = np.array([crop.weight for crop in self.crops])
        crop = self.crops[rng.choice(len(weights), p=weights / weights.sum())]
        count = max(1, self.pixels // (crop.frames * crop.height * crop.width))
        dataset = self.datasets[rng.integers(len(self.datasets))]
        indices = rng.integers(len(dataset), size=-(-count // self.per_clip))
        samples, skipped = fetch(dataset, indices.tolist())
        crops = [_crop(sample.clip, crop, rng) for _, sample in samples for _ in range(self.per_clip)]
        crops = [c for c in crops if c.shape[1:] == (crop.frames, crop.height, crop.width)][:count]
        empty = torch.zeros(0, 3, crop.frames, crop.height, crop.width)
        return ClipBatch(torch.stack(crops) if crops else empty, skipped)


class PackBatches(Dataset):
    """Mixed shapes within a token budget for the DiT, from cached latents.

    The VAE is causal, so the first latent frames of a clip are the latents of its first frames: a clip is used as an
    image with probability `image`, whole with probability `whole`, else cut to a random number of latent frames.
    An epoch shows every clip once; its packs are filled in a shuffled order.
    """

    def __init__(
        self, cache: Latents, *, tokens: int, patch: Triple, image: float, whole: float, seed: int
    ) -> None:
        self.cache, self.tokens, self.patch, self.seed = cache, tokens, patch, seed
        self.image, self.whole = image, whole
        self.epoch_plan = lru_cache(maxsize=2)(self._plan)

    @property
    def count(self) -> int:
        """Packs of the first epoch."""
        return len(self.epoch_plan(0))

    def __getitem__(self, step: int) -> LatentBatch:
        epoch = 0
        while step >= len(self.epoch_plan(epoch)):
            step -= len(self.epoch_plan(epoch))
            epoch += 1
        batch = LatentBatch([], [], [])
        # Equal sizes side by side: kernels serve such a run of clips in one call.
        for index, frames in sorted(self.epoch_plan(epoch)[step], key=self._size):
            latents, caption = self.cache[index]
            batch.latents.append(latents[:, :frames].float())
            batch.captions.append(caption)
            batch.indices.append(index)
        return batch

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k != "epoch_plan"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self.epoch_plan = lru_cache(maxsize=2)(self._plan)

    def _plan(self, epoch: int) -> list[list[tuple[int, int]]]:
        """The packs of an epoch: (index, latent frames) of each clip. Clips larger than the budget go alone."""
        rng = np.random.default_rng(derive_seed(self.seed, "packs", epoch))
        packs, pack, used = [], [], 0
        for index in rng.permutation(len(self.cache)).tolist():
            shape = self.cache.shape(index)
            frames = self._frames(shape.frames, float(rng.random()), float(rng.random()))
            count = LatentShape(frames, shape.height, shape.width).grid(self.patch).count
            if pack and used + count > self.tokens:
                packs.append(pack)
                pack, used = [], 0
            pack.append((index, frames))
            used += count
        return [*packs, pack]

    def _size(self, cut: tuple[int, int]) -> tuple[int, int, int]:
        index, frames = cut
        shape = self.cache.shape(index)
        return frames, shape.height, shape.width

    def _frames(self, available: int, kind: float, cut: float) -> int:
        if kind < self.image:
            return self.patch[0]
        if kind < self.image + self.whole:
            return available
        units = available // self.patch[0]
        return self.patch[0] * (1 + int(cut * units))


def fetch(dataset: Clips, indices: Sequence[int]) -> tuple[list[tuple[int, Sample]], list[tuple[str, str]]]:
    """Samples of a dataset with their indices, and (path, reason) of those that could not be read."""
    if hasattr(dataset, "__getitems__"):
        return list(zip(indices, dataset.__getitems__(list(indices)), strict=True)), []
    samples, skipped = [], []
    for index in indices:
        try:
            samples.append((index, dataset[index]))
        except BadSample as bad:
            skipped.append((str(bad.path), bad.reason))
    return samples, skipped


def load(batches: Dataset, *, start: int, stop: int, workers: int) -> Iterator:
    """The batches of steps start … stop-1, in order, prepared by `workers` processes."""
    ahead = {"prefetch_factor": 4} if workers else {}
    return iter(DataLoader(batches, batch_size=None, sampler=range(start, stop), num_workers=workers, **ahead))


def _crop(clip: Tensor, crop: Crop, rng: np.random.Generator) -> Tensor:
    """A random window of (3,T,H,W); smaller than asked for where the clip is smaller."""
    for dim, size in zip((1, 2, 3), (crop.frames, crop.height, crop.width), strict=True):
        spare = clip.shape[dim] - size
        if spare > 0:
            clip = clip.narrow(dim, int(rng.integers(spare + 1)), size)
    return clip
