"""Encode: the latents of clips, at each of their sizes, in shards that training reads memory-mapped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videodit.checkpoint.latents import LatentCache, encoder_fingerprint, fill, latent_key
from videodit.data.batches import fetch
from videodit.data.set import READ, SetClips, fingerprint
from videodit.ingest.guard import Result, dropped
from videodit.ingest.record import Record, stopping
from videodit.models.vae import VideoVAE
from videodit.nn.device import threads


@dataclass(kw_only=True)
class Encode:
    """A bundle of clips' records -> their latents, written as one shard; for each clip that cannot be encoded why.

    A record says which of its sizes have latents already: see `there`.

    Args:
        root: where paths begin.
        folder: of the shards.
        vae: makes the VAE; called where the stage runs.
        device: where it runs.
        bundle: clips of a shard.
        workers: processes that encode.
        threads: of each on a CPU; the last bits of latents depend on it, so it does not follow the machine.
    """

    root: str
    folder: Path
    vae: Callable[[], VideoVAE]
    device: str
    bundle: int
    workers: int
    threads: int

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "network"}

    @cached_property
    def network(self) -> VideoVAE:
        """The VAE, made once."""
        with stopping():
            return self.vae().to(self.device)

    @cached_property
    def made_by(self) -> str:
        """What names its latents."""
        return encoder_fingerprint(self.network)

    def keys(self, clip: Record) -> list[str]:
        """Under which latents of a clip are kept, one for each of its sizes."""
        return [latent_key(fingerprint(clip["id"], size), self.made_by) for size in clip["sizes"]]

    def there(self, clips: Sequence[Record]) -> list[Result]:
        """What is known of clips: the shards of their latents, why they have none, or {"have": those of some sizes}."""
        cache: Any = LatentCache(self.folder)
        shards = {entry.name: cache.shards[entry.shard].name for entry in cache.entries}
        found: list[Result] = []
        for keys in map(self.keys, clips):
            fault = next((cache.faults[key] for key in keys if key in cache.faults), None)
            if fault is not None:
                found.append(dropped("cannot be encoded", fault))
            else:
                have = [shards.get(key, "") for key in keys]
                found.append({"records": [{"shards": have}]} if all(have) else {"have": have})
        return found

    def __call__(self, record: Record) -> list[Record]:
        """See the class."""
        import pyarrow

        bundle = record["bundle"]
        rows = pyarrow.Table.from_pylist([{name: clip[name] for name in READ} for clip in bundle])
        clips = SetClips(rows=rows, captions=[""] * len(bundle), sources=self.root, reader="av")
        have = [shard for clip in bundle for shard in clip["have"]]
        wanted = [(latent_key(clips.fingerprint(i), self.made_by), i) for i in range(len(clips)) if not have[i]]
        faults: dict[int, str] = {}
        with threads(self.threads), stopping():
            written = fill(
                self.folder, wanted, lambda few: self._latents(clips, few, faults), shard=len(wanted), faults=faults,
                known=(),
            )  # fmt: skip
        reasons = {clips.places[index][0]: reason for index, reason in faults.items()}
        results: list[Result] = []
        for place, clip in enumerate(bundle):
            if place in reasons:
                results.append(dropped("cannot be encoded", reasons[place]))
            else:
                shards = [old or written[key] for old, key in zip(clip["have"], self.keys(clip), strict=True)]
                results.append({"records": [{"shards": shards}]})
        return results

    @torch.no_grad()
    def _latents(
        self, clips: SetClips, indices: list[int], faults: dict[int, str]
    ) -> Iterator[tuple[int, Tensor, str]]:
        """(index, latents, caption) of clips that can be read."""
        for index in indices:
            samples, skipped = fetch(clips, [index])
            for _, reason in skipped:
                faults[index] = reason
            for _, sample in samples:
                yield index, self.network.encode_all(sample.clip[None].to(self.device))[0].cpu(), ""
