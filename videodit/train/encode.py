"""Filling a cache of latents, and the statistics that normalise them.

C latent channels; T, H, W frames, height, width of a clip
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from videodit.checkpoint.latents import LatentCache, encoder_fingerprint, fill, latent_key
from videodit.data.batches import Clips, fetch, load
from videodit.data.sample import Sample
from videodit.models.vae import AT_ONCE, VideoVAE
from videodit.parallel.mesh import Mesh
from videodit.printable import note, warn
from videodit.track.progress import Progress

TOGETHER = 32  # clips, where they are small
SHARD = 2048  # clips a file: what a kill in the middle can cost


@torch.no_grad()
def encode_datasets(datasets: Sequence[Clips], vae: VideoVAE, *, folder: Path, workers: int, mesh: Mesh) -> LatentCache:
    """The latents of every clip of the data sets, from the cache in `folder`; what it lacks is encoded now.

    Each process encodes its part of them. Clips that cannot be read are told and left out; all processes
    know them as `skipped` of the cache. How many show what their files do not have is told in a line.
    """
    skipped: list[tuple[str, str]] = []
    made_up: Counter[str] = Counter()
    made_by, known = encoder_fingerprint(vae), LatentCache(folder).known
    wanted = [[(latent_key(dataset.fingerprint(i), made_by), i) for i in range(len(dataset))] for dataset in datasets]
    mesh.wait()  # all have seen the same folder
    for dataset, pairs in zip(datasets, wanted, strict=True):
        missing = [pair for pair in pairs if pair[0] not in known][mesh.rank :: mesh.ranks]
        if missing:
            with Progress(total=len(missing), label=f"encode{f' {mesh.rank}' * (mesh.ranks > 1)}") as progress:
                encode = _Encoder(dataset, vae, workers, progress)
                fill(folder, missing, encode, shard=SHARD)
                skipped += encode.skipped
                made_up += encode.made_up
    skipped = [(path, reason) for part in mesh.exchange(skipped) for path, reason in part]
    for told, count in sorted(sum(map(Counter, mesh.exchange(made_up)), Counter()).items()):
        if mesh.main:
            note(__name__, f"{count} of the clips that are new {told}")
    # A set can be captioned anew, and says so without reading a clip.
    told = [(dataset, pairs) for dataset, pairs in zip(datasets, wanted, strict=True) if hasattr(dataset, "caption")]
    captions = {key: dataset.caption(index) for dataset, pairs in told for key, index in pairs}
    keys = [key for pairs in wanted for key, _ in pairs]
    return LatentCache(folder, keys=keys, captions=captions, skipped=skipped)


class _Encoder:
    """Dataset indices -> (index, latents, caption), with progress."""

    def __init__(self, dataset: Clips, vae: VideoVAE, workers: int, progress: Progress) -> None:
        self.dataset, self.vae, self.workers, self.progress = dataset, vae, workers, progress
        self.done, self.skipped, self.made_up = 0, [], Counter()

    def __call__(self, indices: list[int]) -> Iterator[tuple[int, Tensor, str]]:
        # Clips that are made together are small. Those from files are read ahead one by one, whatever their size.
        count = TOGETHER if hasattr(self.dataset, "__getitems__") else 1
        groups = _Groups(self.dataset, [indices[i : i + count] for i in range(0, len(indices), count)])
        alike: list[tuple[int, Sample]] = []
        for samples, skipped in load(groups, start=0, stop=len(groups.groups), workers=self.workers):
            self.skipped += skipped
            for path, reason in skipped:
                warn(__name__, f"skipped {path}: {reason}")
            for one in samples:
                self.made_up.update(one[1].made_up)
                if alike and not _fits(one[1].clip, [sample.clip for _, sample in alike]):
                    yield from self._encoded(alike)
                    alike = []
                alike.append(one)
            self.done += len(samples) + len(skipped)
            self.progress.update(self.done)
        yield from self._encoded(alike)

    def _encoded(self, alike: list[tuple[int, Sample]]) -> Iterator[tuple[int, Tensor, str]]:
        if alike:
            clips = torch.stack([sample.clip for _, sample in alike]).to(self.vae.mean.device)
            for (index, sample), latents in zip(alike, self.vae.encode_all(clips).cpu(), strict=True):
                yield index, latents, sample.caption


def _fits(clip: Tensor, others: Sequence[Tensor]) -> bool:
    """Whether a clip may be encoded together with others, which are alike."""
    count = len(others) + 1
    return clip.shape == others[0].shape and count <= TOGETHER and count * clip[0].numel() <= AT_ONCE


class _Groups(Dataset):
    """Groups of dataset items for loader workers."""

    def __init__(self, dataset: Clips, groups: list[list[int]]) -> None:
        self.dataset, self.groups = dataset, groups

    def __getitem__(self, index: int) -> tuple[list[tuple[int, Sample]], list[tuple[str, str]]]:
        return fetch(self.dataset, self.groups[index])


@torch.no_grad()
def calibrate(vae: VideoVAE, clips: Sequence[Tensor], *, shared: bool) -> None:
    """Set the VAE's latent statistics from clips, each (3,T,H,W): a mean a channel, a deviation a channel or shared.

    A shared deviation keeps the channels' proportions: what carries more of the picture stays larger, is denoised
    earlier, and fine detail weighs less in the DiT's loss.
    """
    vae.mean.zero_()
    vae.std.fill_(1.0)
    means = torch.cat([vae.encode_all(clip[None].to(vae.mean.device)).flatten(2)[0] for clip in clips], dim=1)
    centre, spread = means.mean(dim=1), means.var(dim=1)
    vae.mean.copy_(centre)
    vae.std.copy_((spread.mean().expand_as(spread) if shared else spread).sqrt())
