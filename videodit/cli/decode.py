"""`videodit decode`: finish what was denoised but not decoded."""

from __future__ import annotations

from pathlib import Path

from videodit.atomic import check_output
from videodit.checkpoint.resolve import bundled
from videodit.cli.places import check_folder, check_paths, saved
from videodit.cli.settings import Decode
from videodit.data.video import target
from videodit.decode import Way
from videodit.errors import InputError
from videodit.generate import waiting
from videodit.generate.pipe import load
from videodit.generate.record import inside
from videodit.generate.waiting import Waiting
from videodit.nn.device import pick_dtype
from videodit.printable import answer, say


def run(asked: Decode) -> None:
    """Decode the latents that wait in a file and write the videos."""
    if not asked.path:
        raise InputError("path: name a file of latents, such as video.latents.safetensors")
    path = Path(asked.path)
    left = waiting.read(path)
    paths = paths_of(path, left, asked.out)
    before = left.records[0].get("made_with", {})
    model = asked.model or named_model(path, left.model)
    dtype = before.get("dtype", "")
    vae_dtype = pick_dtype(asked.vae_dtype or before.get("vae_dtype", dtype), "vae_dtype")
    pipe = load(model, device=asked.device or None, dtype=pick_dtype(dtype), vae_dtype=vae_dtype)
    denoised = waiting.denoised(pipe, path, left)
    check_paths(paths, [one.request for one in denoised])
    if asked.chunk is not None:
        pipe = pipe.with_options(decoding=Way(asked.chunk))
    elif "decoding" in before:
        pipe = pipe.with_options(decoding=Way(**before["decoding"]))
    for one, video in zip(denoised, paths, strict=True):
        answer(saved(pipe.decode(one), video))
    if not asked.keep:
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
