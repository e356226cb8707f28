"""`videodit decode`: finish what was denoised but not decoded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from videodit.atomic import check_output
from videodit.checkpoint.resolve import bundled
from videodit.cli import waiting
from videodit.cli.generate import set_decoding
from videodit.cli.making import finish
from videodit.cli.places import check_folder, check_paths, inside
from videodit.cli.waiting import Waiting
from videodit.data.video import target
from videodit.errors import InputError
from videodit.generate import load
from videodit.nn.device import pick_dtype
from videodit.printable import say
from videodit.request import OWN

if TYPE_CHECKING:
    from omegaconf import DictConfig


def run(cfg: DictConfig) -> None:
    """Decode the latents of `cfg.path` and write the videos."""
    if not cfg.path:
        raise InputError("path: name a file of latents, such as video.latents.safetensors")
    path = Path(cfg.path)
    left = waiting.read(path)
    paths = paths_of(path, left, cfg.out)
    before = left.records[0].get("made_with", {})
    model = cfg.model or named_model(path, left.model)
    dtype = before.get("dtype", "")
    typed = cfg.vae_dtype if "vae_dtype" in cfg else ""
    vae_dtype = pick_dtype(typed or before.get("vae_dtype", dtype), "vae_dtype")
    pipe = load(model, device=cfg.device or None, dtype=pick_dtype(dtype), vae_dtype=vae_dtype)
    vae, theirs = pipe.parts.fingerprints["vae"], left.records[0]["weights"].get("vae")
    if vae != theirs:
        raise InputError(f"{path}: its latents are of another VAE ({theirs}) than the model's ({vae})")
    requests = [pipe.request(**{key: one[key] for key in OWN if key in one}) for one in left.records]
    check_paths(paths, requests)
    waiting.check_latents(pipe, path, left, requests)
    # What an older file does not say is as it is now.
    records = [{**now, **one} for now, one in zip(pipe.records(requests), left.records, strict=True)]
    set_decoding(pipe, cfg.chunk, before)
    finish(pipe, left.latents, requests, paths, records)
    if not cfg.keep:
        waiting.forget([path], left.place)


def paths_of(path: Path, left: Waiting, typed: str) -> list[Path]:
    """Where the videos go: where the user says, else beside the latents, where nothing else is replaced."""
    out = Path(typed or path.parent)
    if typed and len(left.names) == 1 and not (typed.endswith("/") and Path(left.names[0]).suffix):
        paths = [target(typed, "out")]
    else:
        check_folder(out)
        paths = [out / name for name in left.names]
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
