"""Latents that wait for decoding: in a file that no other run replaces or deletes, until their videos are there.

C, t, h, w of latents
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, NotRequired

import torch
from torch import Tensor
from typing_extensions import TypedDict

from videodit.checkpoint.parts import first, name_of
from videodit.checkpoint.resolve import bundled, families
from videodit.checkpoint.store import load_tensors, save_tensors
from videodit.data.video import KINDS
from videodit.errors import InputError
from videodit.generate.layout import Layout
from videodit.generate.model import Model
from videodit.generate.pipe import Pipe
from videodit.generate.record import checked
from videodit.generate.request import OWN, Request
from videodit.generate.video import Denoised
from videodit.models.interfaces import VAE
from videodit.printable import note, warn
from videodit.signals import later
from videodit.untrusted import check

ENDING = ".latents.safetensors"  # what such a file is called
STEM = 190  # bytes of a video's name that a name of its own begins with: a system takes 255


class Header(TypedDict):
    """What a file of latents says of itself. Of the version before: requests and weights instead of records."""

    model: str
    paths: list[str]
    records: NotRequired[list[dict[str, Any]]]
    requests: NotRequired[list[dict[str, Any]]]
    weights: NotRequired[dict[str, str]]


class Waiting(NamedTuple):
    """What a file of latents holds: for each video a file name, a record and latents. `place`: which file it is."""

    model: str
    names: list[str]
    records: list[dict[str, Any]]
    latents: list[Tensor]
    place: os.stat_result


class OnDisk:
    """Where the latents of one pack wait while they are decoded: beside the first of its videos, `paths`.

    path: the file where they wait. typed: whether its reader has to name the model again, as no file's word is fetched.
    """

    def __init__(
        self, pipe: Pipe, requests: Sequence[Request], paths: Sequence[Path], layout: Layout | None = None
    ) -> None:
        self.pipe, self.requests, self.first = pipe, requests, paths[0]
        self.model, self.typed = lasting(pipe.parts.name)
        records = pipe.records(requests, layout)
        self.header = {"model": self.model, "paths": [path.name for path in paths], "records": records}
        self.path: Path | None = None
        self._place: os.stat_result | None = None

    def take(self) -> list[Denoised] | None:
        """Those that an earlier run of the same requests has left there, if it has."""
        found = find(self.pipe, self.first, self.requests, self.header)
        if found is None:
            return None
        self.path, left = found
        self._place = left.place
        note(__name__, f"{self.path} waits from an earlier run: only decoding is left")
        return [Denoised(*one) for one in zip(left.latents, self.requests, self.header["records"], strict=True)]

    def keep(self, denoised: Sequence[Denoised]) -> None:
        """Write them, if a disk takes them: what it does not take is no reason to give up, as videos are smaller."""
        try:
            self.path, self._place = keep(self.first, [one.latents for one in denoised], self.header)
        except InputError as error:
            warn(__name__, f"the latents are not kept: {error}")

    def forget(self) -> None:
        """Delete them: all videos are there."""
        if self._place is not None:
            forget(places(self.first, self.header), self._place)


def lasting(model: str) -> tuple[str, bool]:
    """What a file may call a model, and whether its reader has to be told it again: a file's word is never fetched."""
    if model in bundled():
        return model, False
    local = model not in families() and Path(model).exists()
    return (str(Path(model).absolute()), False) if local else (model, True)


def keep(video: Path, latents: Sequence[Tensor], header: Mapping[str, Any]) -> tuple[Path, os.stat_result]:
    """Write latents, of which `video` is the first that comes of them -> the file, VIDEO.latents.safetensors.

    Where others wait under that name already, it is a name of its own.
    """
    plain, own = places(video, header)
    with later():
        save_tensors(own, {str(number): x for number, x in enumerate(latents)}, header)
        place = own.stat()
        try:
            os.link(own, plain)  # which, unlike a rename, never replaces what is there
        except OSError:
            return own, place
        own.unlink()
    return plain, place


def places(video: Path, header: Mapping[str, Any]) -> tuple[Path, Path]:
    """The names that latents with this header may have: the plain one, and one that no others have."""
    digest = sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()[:12]
    stem = video.stem.encode("utf-8", "ignore")[:STEM].decode("utf-8", "ignore")
    return video.with_suffix(ENDING), video.with_name(f"{stem}-{digest}{ENDING}")


def find(
    model: Model, video: Path, requests: Sequence[Request], header: Mapping[str, Any]
) -> tuple[Path, Waiting] | None:
    """The file where latents of just these requests wait, made as they would be now, if there is one."""
    wanted = json.loads(json.dumps(header))
    for path in places(video, header):
        with suppress(InputError):  # others', or of another version
            if path.exists():
                waiting = read(path)
                check_latents(model, path, waiting, requests)
                if wanted == {"model": waiting.model, "paths": waiting.names, "records": waiting.records}:
                    return path, waiting
    return None


def forget(paths: Sequence[Path], place: os.stat_result) -> None:
    """Delete the file that had this place, under whichever of the names it has, and no other."""
    for path in paths:
        with suppress(FileNotFoundError):
            if _identity(path.stat()) == _identity(place):
                path.unlink()


def _identity(place: os.stat_result) -> tuple[int, ...]:
    """What no other file has: a number alone is given to the next one when it is free again."""
    return place.st_dev, place.st_ino, place.st_size, place.st_mtime_ns


def read(path: Path) -> Waiting:
    """A file of latents that `keep` wrote. InputError for any other."""
    tensors, content = load_tensors(path)
    if not {"model", "paths"} <= content.keys():
        raise InputError(f"{path}: it holds no latents that wait for decoding")
    header, names = check(content, Header, path), []
    if "records" in header:
        records, names = header["records"], header["paths"]
    else:  # of the version before: names as they were to be written from where the run was started
        whole = {"model": header["model"], "weights": header.get("weights", {})}
        records = [{**one, **whole} for one in header.get("requests", [])]
        names = [Path(name).name for name in header["paths"]]
    records = [checked(one, f"{path}: video {number}") for number, one in enumerate(records)]
    wanted = {str(number) for number in range(len(records))}
    if not records or len(names) != len(records) or tensors.keys() != wanted:
        counts = f"{len(tensors)} tensors, {len(records)} videos and {len(names)} names"
        raise InputError(f"{path}: it holds no latents that wait for decoding, but {counts}")
    for name in names:
        plain = Path(name).name == name and not name.startswith(".") and Path(name).suffix.lower() in KINDS
        if not plain or names.count(name) > 1:
            raise InputError(f"{path}: it names a video {name!r}, which is no plain name of one")
    return Waiting(header["model"], names, records, [tensors[str(n)] for n in range(len(records))], path.stat())


def denoised(pipe: Pipe, path: Path, waiting: Waiting) -> list[Denoised]:
    """What waits in a file, to be decoded by a pipe. InputError where that has another VAE, or they do not fit."""
    own, theirs = first(pipe.parts.fingerprints, VAE), waiting.records[0]["weights"].get(name_of(VAE))
    if own != theirs:
        raise InputError(f"{path}: its latents are of another VAE ({theirs}) than the model's ({own})")
    requests = [pipe.request(**{key: one[key] for key in OWN if key in one}) for one in waiting.records]
    check_latents(pipe, path, waiting, requests)
    # What an older file does not say is as it is now.
    records = [{**now, **one} for now, one in zip(pipe.records(requests), waiting.records, strict=True)]
    return [Denoised(*one) for one in zip(waiting.latents, requests, records, strict=True)]


def check_latents(model: Model, path: Path, waiting: Waiting, requests: Sequence[Request]) -> None:
    """Refuse latents that are not of their requests. Records of old files are told what they were made at."""
    vae = model.parts.sizes(VAE)
    for number, (x, one, record) in enumerate(zip(waiting.latents, requests, waiting.records, strict=True)):
        # How many frames are made for those that are asked for has been another number.
        latent_frames = x.shape[1] if x.ndim == 4 else 1
        own = {"frames": 1 + (latent_frames - 1) * vae.stride[0], "fps": model.defaults["fps"]}
        generated = record.setdefault("generated", {**asdict(model.native(one)), **own})
        shape = replace(model.native(one), frames=generated["frames"]).latent(vae.stride)
        wanted = (vae.latent_channels, shape.frames, shape.height, shape.width)
        if tuple(x.shape) != wanted or not x.is_floating_point():
            kind = str(x.dtype).removeprefix("torch.")
            raise InputError(f"{path}: video {number}: latents {tuple(x.shape)} {kind}, its request's are {wanted}")
        if x.dtype.itemsize < 2 or not torch.isfinite(x).all():
            raise InputError(f"{path}: video {number}: its latents are no finite numbers in 16 bits or more")
