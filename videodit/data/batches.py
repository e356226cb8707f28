"""Which clips make which step: a pure function of (seed, step), so a resumed run sees exactly what it would have seen.

A batches object is a map-style dataset from step to the batches of one rank, which together with those of the others
make the step; torch's DataLoader runs it in worker processes. All ranks have as many batches in a step; one that is
`idle` is run to keep the others company, and counts for nothing.
    B clips, T frames, H height, W width; C, t, h, w the same of latents
"""

from __future__ import annotations

import hashlib
import os
import signal
from bisect import bisect_right
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from videodit.data.packing import Share, Work, deal, fill
from videodit.data.sample import BadSample, Sample
from videodit.errors import InputError
from videodit.shapes import LatentShape, Triple

GRACE = 20  # seconds that a worker lives on after a SIGTERM


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
    """Equal crops (B,3,T,H,W) in [-1,1], their numbers in the step, and the samples that could not be read as
    (path, reason).
    """

    clips: Tensor
    numbers: list[int]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    idle: bool = False


@dataclass
class LatentBatch:
    """Latents, each (C,t,h,w), with their captions and their indices in the dataset."""

    latents: list[Tensor]
    captions: list[str]
    indices: list[int]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    idle: bool = False


@dataclass(frozen=True)
class Crop:
    """A shape to crop from clips, and how often steps use it."""

    frames: int
    height: int
    width: int
    weight: float

    @property
    def volume(self) -> int:
        """Pixels of all frames."""
        return self.frames * self.height * self.width


class CropBatches(Dataset):
    """Random crops for the VAE: each step draws a data set and one of `crops`, `per_clip` of them from every clip.

    It takes as many crops as fit into `pixels`, the sum of their frames * height * width, `most` of them in one batch
    (None: all). Where a clip of the step is smaller than the crop, all crops of the step are as much smaller. The first
    step takes the largest crops.
    """

    def __init__(
        self,
        *,
        datasets: Sequence[Clips],
        crops: Sequence[Crop],
        pixels: int,
        most: int | None,
        per_clip: int,
        share: Share,
        seed: int,
    ) -> None:
        self.datasets, self.crops, self.pixels, self.most = datasets, crops, pixels, most
        self.per_clip, self.share, self.seed = per_clip, share, seed

    def __getitem__(self, step: int) -> list[ClipBatch]:
        rng = np.random.default_rng(derive_seed(self.seed, "crops", step))
        weights = np.array([crop.weight for crop in self.crops])
        drawn = self.crops[rng.choice(len(weights), p=weights / weights.sum())]
        crop = drawn if step else max(self.crops, key=lambda crop: crop.volume)
        count = max(1, self.pixels // crop.volume)
        dataset = self.datasets[rng.integers(len(self.datasets))]
        indices = rng.integers(len(dataset), size=-(-count // self.per_clip))
        samples, skipped = fetch(dataset, indices.tolist())
        wanted = (crop.frames, crop.height, crop.width)
        shape = tuple(map(min, zip(wanted, *(sample.clip.shape[1:] for _, sample in samples), strict=True)))
        crops = [_crop(sample.clip, shape, rng) for _, sample in samples for _ in range(self.per_clip)][:count]
        most = None if self.most is None else max(1, self.most // crop.volume)
        packs = deal([1] * len(crops), Work(), place=step, ranks=self.share.ranks, most=most)[self.share.rank]
        told = skipped if self.share.rank == 0 else []  # every rank reads all clips of the step
        batches = [ClipBatch(torch.stack([crops[i] for i in pack]), pack) for pack in packs if pack]
        batches += [ClipBatch(torch.zeros(1, 3, *shape), [0], idle=True) for pack in packs if not pack]
        batches[0].skipped = told
        return batches


class PackBatches(Dataset):
    """Mixed shapes within a token budget for the DiT, from cached latents.

    The VAE is causal, so the first latent frames of a clip are the latents of its first frames: a clip is used as an
    image with probability `image`, whole with probability `whole`, else cut to a random number of latent frames.
    An epoch shows every clip once; its steps of at most `tokens` are filled in a shuffled order, about equally. Ranks
    share a step by `work`, in packs of at most `most` tokens (None: as many as there are). The run's first step holds
    the largest clip, whole: what cannot fit fails there. Raises InputError where `patch` does not divide some latents.
    """

    def __init__(
        self,
        *,
        cache: Latents,
        tokens: int,
        most: int | None,
        patch: Triple,
        image: float,
        whole: float,
        work: Work,
        share: Share,
        seed: int,
    ) -> None:
        self.cache, self.tokens, self.most, self.patch, self.seed = cache, tokens, most, patch, seed
        self.image, self.whole, self.work, self.share = image, whole, work, share
        grids = [cache.shape(index).grid(patch) for index in range(len(cache))]
        self.units = np.array([grid.frames for grid in grids], dtype=int)  # of time: patch[0] latent frames each
        self.places = np.array([grid.height * grid.width for grid in grids], dtype=int)  # tokens a unit of time
        self.starts = [0]  # the first step of each epoch, as far as known
        self._planned: tuple[int, list[list[tuple[int, int]]]] = (-1, [])

    @property
    def count(self) -> int:
        """Steps of the first epoch."""
        return len(self.plan(0))

    def __getitem__(self, step: int) -> list[LatentBatch]:
        return [self._read(*pack) for pack in self.packs(step)[self.share.rank]]

    def packs(self, step: int) -> list[list[tuple[list[tuple[int, int]], bool]]]:
        """For each rank its packs in this step: (index, latent frames) of each clip, and whether the pack is idle."""
        epoch, place = self.find(step)
        clips = self.plan(epoch)[place]
        sizes = [self.size(*clip) for clip in clips]
        idle = [min(clips, key=lambda clip: self.size(*clip))]
        dealt = deal(sizes, self.work, place=place, ranks=self.share.ranks, most=self.most)
        return [[([clips[i] for i in pack] or idle, not pack) for pack in packs] for packs in dealt]

    def size(self, index: int, frames: int) -> int:
        """Tokens of a clip of so many latent frames."""
        return frames // self.patch[0] * int(self.places[index])

    def find(self, step: int) -> tuple[int, int]:
        """The epoch of a step, and which of its steps it is."""
        if not len(self.cache):
            raise IndexError("there are no latents to pack")
        while self.starts[-1] <= step:
            self.starts.append(self.starts[-1] + len(self.plan(len(self.starts) - 1)))
        epoch = bisect_right(self.starts, step) - 1
        return epoch, step - self.starts[epoch]

    def plan(self, epoch: int) -> list[list[tuple[int, int]]]:
        """The steps of an epoch: (index, latent frames) of each clip. Clips larger than the budget go alone."""
        if self._planned[0] != epoch:  # steps come in order, so one epoch is enough to keep
            self._planned = (epoch, self._plan(epoch))
        return self._planned[1]

    def _plan(self, epoch: int) -> list[list[tuple[int, int]]]:
        rng = np.random.default_rng(derive_seed(self.seed, "packs", epoch))
        order = rng.permutation(len(self.cache))
        units = self._cut(self.units[order], *rng.random((len(order), 2)).T)
        largest = int((self.units * self.places)[order].argmax()) if len(order) else -1
        if epoch == 0 and len(order):
            units[largest] = self.units[order[largest]]
        frames, sizes = (units * self.patch[0]).tolist(), (units * self.places[order]).tolist()
        packs = fill(sizes, self.tokens)
        if epoch == 0:
            packs.sort(key=lambda pack: largest not in pack)
        clips = list(zip(order.tolist(), frames, strict=True))
        return [[clips[i] for i in pack] for pack in packs]

    def _cut(self, units: np.ndarray, kind: np.ndarray, cut: np.ndarray) -> np.ndarray:
        """How much of clips of so many units of time is used, by two numbers in [0,1) for each."""
        part = np.where(kind < self.image + self.whole, units, 1 + (cut * units).astype(int))
        return np.where(kind < self.image, 1, part)

    def _read(self, clips: list[tuple[int, int]], idle: bool) -> LatentBatch:
        batch = LatentBatch([], [], [], idle=idle)
        # Equal sizes side by side: kernels serve such a run of clips in one call.
        for index, frames in sorted(clips, key=self._by_size):
            latents, caption = self.cache[index]
            batch.latents.append(latents[:, :frames].float())
            batch.captions.append(caption)
            batch.indices.append(index)
        return batch

    def _by_size(self, cut: tuple[int, int]) -> tuple[int, int, int, int]:
        index, frames = cut
        return self.size(index, frames), frames, self.cache.shape(index).height, index


class Few(Dataset):
    """So many clips of a data set, evenly spread over it."""

    def __init__(self, clips: Clips, count: int) -> None:
        self.clips, self.indices = clips, [i * len(clips) // count for i in range(count)]
        if hasattr(clips, "__getitems__"):
            self.__getitems__ = self._several
        if hasattr(clips, "caption"):
            self.caption = self._caption
        if hasattr(clips, "made_up"):
            self.made_up = self._made_up

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.clips[self.indices[index]]

    def fingerprint(self, index: int) -> str:
        """That of the clip it stands for."""
        return self.clips.fingerprint(self.indices[index])

    def _caption(self, index: int) -> str:
        return self.clips.caption(self.indices[index])

    def _made_up(self, index: int) -> tuple[str, ...]:
        return self.clips.made_up(self.indices[index])

    def _several(self, indices: list[int]) -> list[Sample]:
        return self.clips.__getitems__([self.indices[i] for i in indices])


def few(clips: Clips, most: int | None) -> Clips:
    """A data set of at most so many of its clips (None: all)."""
    if most is not None and (not isinstance(most, int) or most < 1):
        told = "clips of each data set, at least 1, or null for all; a size of memory is for train with plan=true"
        raise InputError(f"limit={most}: {told}")
    return clips if most is None or len(clips) <= most else Few(clips, most)


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


def load(batches: Dataset, *, start: int, stop: int, workers: int) -> Generator:
    """What a batches object has for start … stop-1, in order, prepared by `workers` processes; close() ends them."""
    ahead = {"prefetch_factor": 4, "worker_init_fn": _stay} if workers else {}
    yield from DataLoader(batches, batch_size=None, sampler=range(start, stop), num_workers=workers, **ahead)


def _stay(worker: int) -> None:
    """SIGTERM and Ctrl-C go to all processes: the one that trains may need this one for the step it is in.

    torch takes a worker that ends with 0 for one that is done, any other for a reason to stop.
    """
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with the one that trains


def _crop(clip: Tensor, shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    """A random window of this (frames, height, width) from (3,T,H,W)."""
    for dim, size in enumerate(shape, start=1):
        spare = clip.shape[dim] - size
        if spare > 0:
            clip = clip.narrow(dim, int(rng.integers(spare + 1)), size)
    return clip
