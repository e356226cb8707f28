"""Cached latents: encoded once, read at random, keyed by what they were made from, so never stale.

A cache folder holds safetensors shards. The header of a shard lists its clips: key, caption and tensor name. A key is
the hash of the clip's own fingerprint (content and transform) and of the VAE, so a changed clip, crop or VAE is
simply not found and gets encoded anew. Headers are read once; then latents are read from where they lie in the file,
not mapped: what has been read does not stay in the process, and no more than OPEN shards are open.
    C, t, h, w latent channels, frames, height, width
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import Dataset

from videodit.atomic import tidy
from videodit.checkpoint.schemas import CachedClip
from videodit.checkpoint.schemas import Shard as Header
from videodit.checkpoint.store import HEADER, save_tensors
from videodit.checkpoint.weights import Row, read_table
from videodit.errors import InputError
from videodit.models.vae import VideoVAE
from videodit.shapes import LatentShape
from videodit.signals import later
from videodit.untrusted import parse_json

OPEN = 128  # shards that a process keeps open
MINUTE = 60.0  # seconds of encoding that are kept, at the latest
SHARD = "shard-{}.safetensors"  # the name of a file, by what is in it
DTYPE = torch.float16  # of latents on disk
Shapes = dict[tuple[int, ...], LatentShape]


class Entry(NamedTuple):
    """Where a clip's latents lie: `offset` bytes into the file of their shard. A tuple, since there are millions."""

    shard: int
    name: str
    channels: int
    shape: LatentShape
    caption: str
    offset: int


class Shard:
    """A file opened to read from any place, by several threads or processes at once; closed when nobody holds it."""

    def __init__(self, path: Path, size: int) -> None:
        """Raises InputError unless the file is there and as large as it was."""
        self.path = path
        try:
            self.descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise InputError(f"{path} is gone ({error.strerror}); start anew to encode it again") from None
        if os.fstat(self.descriptor).st_size != size:
            raise InputError(f"{path} changed after it was found; start anew to read what it holds now")

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)

    def read(self, offset: int, size: int) -> bytearray:
        """So many bytes. Raises InputError where they cannot be read."""
        content = bytearray()
        try:  # no system gives more than 2 GB at a time
            while part := os.pread(self.descriptor, size - len(content), offset + len(content)):
                content += part
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror}") from None
        if len(content) < size:
            raise InputError(f"{self.path} was cut off after it was found; delete it and start anew")
        return content


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

    `captions` by keys take the place of those that the clips had when they were encoded. `skipped`: (path, reason) of
    clips that could not be encoded just now.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        keys: Sequence[str] | None = None,
        captions: Mapping[str, str] = MappingProxyType({}),
        skipped: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.folder, self.skipped = Path(folder), skipped
        self.shards = sorted(self.folder.glob(SHARD.format("*")))
        found: dict[str, Entry] = {}
        self.faults: dict[str, str] = {}  # keys of clips that could not be encoded, and why
        self.sizes: list[int] = []  # of the shards, in bytes
        shapes: Shapes = {}
        for number, shard in enumerate(self.shards):
            entries, faults, size = _read_header(number, shard, shapes)
            found.update(entries)
            self.faults.update(faults)
            self.sizes.append(size)
        self.known = found.keys()
        wanted = list(found) if keys is None else [key for key in keys if key in found]
        self.entries = [found[key]._replace(caption=captions[key]) if key in captions else found[key] for key in wanted]
        self._open = lru_cache(OPEN)(Shard)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        shard, _, channels, shape, caption, offset = self.entries[index]
        sizes = (channels, shape.frames, shape.height, shape.width)
        content = self._open(self.shards[shard], self.sizes[shard]).read(offset, DTYPE.itemsize * math.prod(sizes))
        return torch.frombuffer(content, dtype=DTYPE).view(sizes), caption

    def shape(self, index: int) -> LatentShape:
        """Latent shape of a clip, from the header alone."""
        return self.entries[index].shape

    def __getstate__(self) -> dict:
        return {**self.__dict__, "known": None, "_open": None}  # open files and dict views do not travel to workers

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _open=lru_cache(OPEN)(Shard))


def fill(
    folder: str | Path,
    wanted: Sequence[tuple[str, int]],
    encode: Callable[[list[int]], Iterable[tuple[int, Tensor, str]]],
    *,
    shard: int,
    faults: Mapping[int, str] = MappingProxyType({}),
    known: Container[str] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, str]:
    """Encode the (key, index) pairs that the folder lacks and append them, a shard at a time, each atomically.

    A shard has `shard` clips, or those of a MINUTE by the `clock`, in seconds; who asks to stop gets what is there as
    one. `encode` takes dataset indices and yields (index, latents, caption); indices it leaves out are not cached. Why
    it left them out may stand in `faults` by then, and is kept beside the others. `known`: keys that the folder has,
    where the caller knows them; else it is looked into. -> the name of the shard of each new key.
    """
    folder, written = Path(folder), {}
    tidy(folder)
    known = LatentCache(folder).known if known is None else known
    missing = [(key, index) for key, index in wanted if key not in known]
    clips: dict[int, tuple[Tensor, str]] = {}

    def keep(part: Mapping[int, str]) -> None:
        with later():
            if clips:
                written.update(_write_shard(folder, part, clips, faults))
                clips.clear()

    for start in range(0, len(missing), shard):
        part, since = {index: key for key, index in missing[start : start + shard]}, clock()
        try:
            for index, latents, caption in encode(list(part)):
                clips[index] = latents.half().contiguous(), caption
                if clock() - since >= MINUTE:
                    keep(part)
                    since = clock()
            keep(part)
        except KeyboardInterrupt:
            keep(part)
            raise
    return written


def _write_shard(
    folder: Path, keys: Mapping[int, str], clips: Mapping[int, tuple[Tensor, str]], faults: Mapping[int, str]
) -> dict[str, str]:
    """Write clips, by index, and why others of these keys have no latents -> the shard's name for each key."""
    tensors = {keys[index]: latents for index, (latents, _) in clips.items()}
    entries = [
        {"key": keys[index], "shape": list(latents.shape[1:]), "caption": caption}
        for index, (latents, caption) in clips.items()
    ]
    digest = hashlib.sha256("".join(sorted(tensors)).encode()).hexdigest()[:16]
    header = {"clips": entries, "faults": {key: faults[index] for index, key in keys.items() if index in faults}}
    save_tensors(folder / SHARD.format(digest), tensors, header)
    return dict.fromkeys(tensors, SHARD.format(digest))


def _read_header(number: int, shard: Path, shapes: Shapes) -> tuple[dict[str, Entry], dict[str, str], int]:
    """Entries and faults by key, and the size of the file. `shapes` holds each shape once, for all the clips of it."""
    try:
        with safe_open(shard, framework="pt"):  # which raises unless the table is sound and the tensors fill the file
            size = shard.stat().st_size
        table = read_table(shard)
        header = parse_json(table.metadata[HEADER], "its header", Header)
        clips = {clip["key"]: clip for clip in header["clips"]}
        entries = {key: _entry(number, clip, table.rows[key], table.start, shapes) for key, clip in clips.items()}
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{shard} is not a readable shard of latents ({error}); delete it to encode anew") from None
    return entries, header.get("faults", {}), size  # older shards have no faults


def _entry(number: int, clip: CachedClip, tensor: Row, start: int, shapes: Shapes) -> Entry:
    """Of a clip in a header, by its row in safetensors' table; `start` is where the tensors begin."""
    sizes = tuple(clip["shape"])
    channels, *rest = tensor["shape"] or [0]
    if tensor["dtype"] != "F16" or tuple(rest) != sizes:
        raise ValueError(f"{clip['key']} is {tensor['dtype']} {tensor['shape']}, expected F16 (C, {sizes})")
    if sizes not in shapes:
        shapes[sizes] = LatentShape(*sizes)
    return Entry(number, clip["key"], channels, shapes[sizes], clip["caption"], start + tensor["data_offsets"][0])
