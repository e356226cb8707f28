"""Cached latents: encoded once, read memory-mapped, keyed by what they were made from, so never stale.

A cache folder holds safetensors shards. The header of a shard lists its clips: key, caption and tensor name. A key is
the hash of the clip's own fingerprint (content and transform) and of the VAE, so a changed clip, crop or VAE is
simply not found and gets encoded anew.
    C, t, h, w latent channels, frames, height, width
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import Dataset

from videodit.checkpoint.store import HEADER, save_tensors
from videodit.errors import InputError
from videodit.models.vae import VideoVAE
from videodit.shapes import LatentShape


@dataclass(frozen=True)
class Entry:
    """Where a clip's latents lie."""

    shard: int
    name: str
    shape: LatentShape
    caption: str


def encoder_fingerprint(vae: VideoVAE) -> str:
    """A hash of all that latents depend on: a VAE whose decoder is trained further keeps it."""
    digest = hashlib.sha256()
    for name, tensor in sorted(vae.state_dict().items()):
        if not name.startswith(("decoder.", "unquant.", "linear_out.")):
            digest.update(name.encode() + tensor.cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def latent_key(clip_fingerprint: str, vae_fingerprint: str) -> str:
    """The name under which a clip's latents are cached."""
    return hashlib.sha256(f"{clip_fingerprint}/{vae_fingerprint}".encode()).hexdigest()[:24]


class LatentCache(Dataset):
    """index -> (latents (C,t,h,w) float16, caption), for `keys` in their order, or for all that the folder holds.

    `captions` by keys take the place of those that the clips had when they were encoded.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        keys: Sequence[str] | None = None,
        captions: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.folder = Path(folder)
        self.shards = sorted(self.folder.glob("shard-*.safetensors"))
        found: dict[str, Entry] = {}
        self.faults: dict[str, str] = {}  # keys of clips that could not be encoded, and why
        for number, shard in enumerate(self.shards):
            entries, faults = _read_header(number, shard)
            found.update(entries)
            self.faults.update(faults)
        self.known = found.keys()
        wanted = list(found) if keys is None else [key for key in keys if key in found]
        self.entries = [
            replace(found[key], caption=captions[key]) if key in captions else found[key] for key in wanted
        ]
        self._open: dict[int, safe_open] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        entry = self.entries[index]
        if entry.shard not in self._open:
            self._open[entry.shard] = safe_open(self.shards[entry.shard], framework="pt")
        return self._open[entry.shard].get_tensor(entry.name), entry.caption

    def shape(self, index: int) -> LatentShape:
        """Latent shape of a clip, from the header alone."""
        return self.entries[index].shape

    def __getstate__(self) -> dict:
        return {**self.__dict__, "known": None, "_open": {}}  # file handles and dict views do not travel to workers


def fill(
    folder: str | Path,
    wanted: Sequence[tuple[str, int]],
    encode: Callable[[list[int]], Iterable[tuple[int, Tensor, str]]],
    *,
    shard: int,
    faults: Mapping[int, str] = MappingProxyType({}),
) -> None:
    """Encode the (key, index) pairs that the folder lacks and append them, a shard at a time, each atomically.

    `encode` takes dataset indices and yields (index, latents, caption); indices it leaves out are not cached. Why it
    left them out may stand in `faults` by then, and is kept beside the others.
    """
    folder = Path(folder)
    known = LatentCache(folder).known
    missing = [(key, index) for key, index in wanted if key not in known]
    for start in range(0, len(missing), shard):
        part = {index: key for key, index in missing[start : start + shard]}
        entries, tensors = [], {}
        for index, latents, caption in encode(list(part)):
            entries.append({"key": part[index], "shape": list(latents.shape[1:]), "caption": caption})
            tensors[part[index]] = latents.half().contiguous()
        if tensors:
            digest = hashlib.sha256("".join(sorted(tensors)).encode()).hexdigest()[:16]
            header = {"clips": entries, "faults": {key: faults[i] for i, key in part.items() if i in faults}}
            save_tensors(folder / f"shard-{digest}.safetensors", tensors, header)


def _read_header(number: int, shard: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    try:
        with safe_open(shard, framework="pt") as file:
            header = json.loads((file.metadata() or {})[HEADER])
            clips = header["clips"]
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{shard} is not a readable shard of latents ({error}); delete it to encode anew") from None
    entries = {c["key"]: Entry(number, c["key"], LatentShape(*c["shape"]), c["caption"]) for c in clips}
    return entries, header.get("faults", {})  # older shards have none
