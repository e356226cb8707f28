"""`videodit decode`: finish what was denoised but not decoded."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NotRequired

import torch
from torch import Tensor
from typing_extensions import TypedDict

from videodit.atomic import check_output
from videodit.checkpoint.store import load_tensors
from videodit.cli.generate import bundled, finish, set_decoding
from videodit.cli.places import check_folder, check_paths, inside
from videodit.data.video import KINDS, target
from videodit.errors import InputError
from videodit.generate import Pipe, load
from videodit.nn.device import pick_dtype
from videodit.printable import say
from videodit.record import checked
from videodit.request import OWN, Request
from videodit.untrusted import check

if TYPE_CHECKING:
    from omegaconf import DictConfig


class Header(TypedDict):
    """What a file of latents says of itself. Of the version before: requests and weights instead of records."""

    model: str
    paths: list[str]
    records: NotRequired[list[dict[str, Any]]]
    requests: NotRequired[list[dict[str, Any]]]
    weights: NotRequired[dict[str, str]]


class Waiting(NamedTuple):
    """What a file of latents holds: for each video a file name, a record and latents."""

    model: str
    names: list[str]
    records: list[dict[str, Any]]
    latents: list[Tensor]


def run(cfg: DictConfig) -> None:
    """Decode the latents of `cfg.path` and write the videos."""
    if not cfg.path:
        raise InputError("path: name a file of latents, such as video.latents.safetensors")
    path = Path(cfg.path)
    waiting = read_latents(path)
    paths = paths_of(path, waiting, cfg.out)
    before = waiting.records[0].get("made_with", {})
    model = cfg.model or named_model(path, waiting.model)
    dtype = before.get("dtype", "")
    vae_dtype = pick_dtype(cfg.vae_dtype or before.get("vae_dtype", dtype), "vae_dtype")
    pipe = load(model, device=cfg.device or None, dtype=pick_dtype(dtype), vae_dtype=vae_dtype)
    vae, theirs = pipe.parts.fingerprints["vae"], waiting.records[0]["weights"].get("vae")
    if vae != theirs:
        raise InputError(f"{path}: its latents are of another VAE ({theirs}) than the model's ({vae})")
    requests = [pipe.request(**{key: one[key] for key in OWN if key in one}) for one in waiting.records]
    check_paths(paths, requests)
    check_latents(pipe, path, waiting, requests)
    # What an older file does not say is as it is now.
    records = [{**now, **one} for now, one in zip(pipe.records(requests), waiting.records, strict=True)]
    set_decoding(pipe, cfg.chunk, before)
    finish(pipe, waiting.latents, requests, paths, records)
    if not cfg.keep:
        path.unlink()


def read_latents(path: Path) -> Waiting:
    """A file of latents that `generate` wrote. Raises InputError for any other."""
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
    return Waiting(header["model"], names, records, [tensors[str(number)] for number in range(len(records))])


def paths_of(path: Path, waiting: Waiting, typed: str) -> list[Path]:
    """Where the videos go: where the user says, else beside the latents, where nothing else is replaced."""
    out = Path(typed or path.parent)
    if typed and len(waiting.names) == 1 and not (typed.endswith("/") and Path(waiting.names[0]).suffix):
        paths = [target(typed, "out")]
    else:
        check_folder(out)
        paths = [out / name for name in waiting.names]
    for one in paths:
        check_output(one)
        if not typed and one.exists():
            try:
                known = inside(one)
            except InputError:
                known = ""
            if not known:
                raise InputError(f"{one}: {path} would replace it, and videodit did not write it; give out=")
    return paths


def named_model(path: Path, name: str) -> str:
    """The model that a file names, if that opens nothing but what lies here. InputError otherwise."""
    if name not in bundled() and not (Path(name).is_absolute() and Path(name).exists()):
        raise InputError(f"{path}: made with model={name}; a file's word is not looked for: say model=… yourself")
    say(f"with model={name}, which {path} names")
    return name


def check_latents(pipe: Pipe, path: Path, waiting: Waiting, requests: list[Request]) -> None:
    """Refuse latents that are not of their requests. Records of old files are told what they were made at."""
    vae = pipe.parts.sizes("vae")
    for number, (x, one, record) in enumerate(zip(waiting.latents, requests, waiting.records, strict=True)):
        # How many frames are made for those that are asked for has been another number.
        latent_frames = x.shape[1] if x.ndim == 4 else 1
        own = {"frames": 1 + (latent_frames - 1) * vae.stride[0], "fps": pipe.defaults["fps"]}
        generated = record.setdefault("generated", {**asdict(pipe.native(one)), **own})
        shape = replace(pipe.native(one), frames=generated["frames"]).latent(vae.stride)
        wanted = (vae.latent_channels, shape.frames, shape.height, shape.width)
        if tuple(x.shape) != wanted or not x.is_floating_point():
            kind = str(x.dtype).removeprefix("torch.")
            raise InputError(f"{path}: video {number}: latents {tuple(x.shape)} {kind}, its request's are {wanted}")
        if x.dtype.itemsize < 2 or not torch.isfinite(x).all():
            raise InputError(f"{path}: video {number}: its latents are no finite numbers in 16 bits or more")
