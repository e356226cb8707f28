"""Videos of one pack, with what is left behind where a run ends before they are written."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from torch import Tensor

from videodit.checkpoint.resolve import bundled, families
from videodit.cli import waiting
from videodit.errors import InputError
from videodit.generate import Pipe, Video
from videodit.printable import answer, say
from videodit.record import Layout
from videodit.request import Request
from videodit.track.progress import Progress


def make(pipe: Pipe, requests: list[Request], paths: list[Path], layout: Layout | None = None) -> list[Video]:
    """Make one pack of requests, with a progress bar. Between denoising and decoding the latents are safe on disk.

    Those that an earlier run of the same requests has left there are not made again.
    """
    records, (model, typed) = pipe.records(requests, layout), lasting(pipe.parts.name)
    header = {"model": model, "paths": [path.name for path in paths], "records": records}
    latents, kept = denoised(pipe, requests, paths[0], header, layout)
    try:
        videos = finish(pipe, latents, requests, paths, records)
    except BaseException:
        if kept is not None:
            words = [str(kept[0]), *([f"model={model}"] if typed else [])]
            say(f"denoising is done; to go on from there: videodit decode {shlex.join(words)}")
        raise
    if kept is not None:
        waiting.forget(waiting.places(paths[0], header), kept[1])
    return videos


def denoised(
    pipe: Pipe, requests: list[Request], first: Path, header: dict[str, Any], layout: Layout | None
) -> tuple[list[Tensor], tuple[Path, os.stat_result] | None]:
    """The latents of a pack, whose first video is to be `first`, and the file where they wait, if a disk takes it."""
    if there := waiting.find(pipe, first, requests, header):
        say(f"{there[0]} waits from an earlier run: only decoding is left")
        return there[1].latents, (there[0], there[1].place)
    with Progress(total=requests[0].steps, label="denoise") as progress:
        latents = pipe.denoise(requests, lambda step, steps: progress.update(step), say, layout)
    try:
        return latents, waiting.keep(first, latents, header)
    except InputError as error:  # no reason to give up: perhaps there is room for the video
        say(f"the latents are not kept: {error}")
        return latents, None


def lasting(model: str) -> tuple[str, bool]:
    """What a file may call a model, and whether its reader has to be told it again: a file's word is never fetched."""
    if model in bundled():
        return model, False
    local = model not in families() and Path(model).exists()
    return (str(Path(model).absolute()), False) if local else (model, True)


def finish(
    pipe: Pipe, latents: list[Tensor], requests: list[Request], paths: list[Path], records: list[dict[str, Any]]
) -> list[Video]:
    """Decode and write."""
    videos = pipe.decode(latents, requests, say, records)
    for path, video in zip(paths, videos, strict=True):
        answer(video.save(path) if path.suffix else f"{video.save(path)}/")
    return videos
