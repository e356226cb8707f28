"""`videodit generate`: requests from the command line, from a file or from a recorded video, to mp4 files."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from videodit.atomic import check_output
from videodit.checkpoint.adapters import parse
from videodit.checkpoint.resolve import families
from videodit.checkpoint.store import sole
from videodit.cli import waiting
from videodit.cli.memory import check_memory, passes_of, way_of
from videodit.config import assets_dir
from videodit.data.sheet import sheet
from videodit.data.video import probe
from videodit.decode import Way
from videodit.errors import InputError, did_you_mean
from videodit.generate import VERSIONS, Pipe, Video, load
from videodit.nn.device import pick_dtype
from videodit.printable import answer, say
from videodit.record import Layout, beside, check_place, parse_record
from videodit.request import OWN, Request, check_contrary, check_keys, given_of, with_defaults
from videodit.track.progress import Progress
from videodit.untrusted import json_lines

if TYPE_CHECKING:
    from omegaconf import DictConfig

KEYS = (
    *("negative", "width", "height", "size", "frames", "seconds", "fps", "aspect", "preset", "fit"),
    *("seed", "steps", "guidance", "sampler", "step_cache", "shift"),
)
NUMBERED = re.compile(r"(\d{4,})\.(mp4|latents\.safetensors|mp4\.json)")
TOGETHER = 8  # requests of a file that are made in one pack, if nothing else is said
COLUMNS = 9  # frames of a clip on a contact sheet


def run(cfg: DictConfig) -> None:
    """Make the videos that `cfg` asks for."""
    if cfg.prompts and (cfg.prompt or cfg.recipe):
        raise InputError("prompts= names a file of requests: give no prompt and no recipe= beside it")
    out = Path(cfg.out)
    if not cfg.prompts:
        check_file(out)
    if cfg.prompts and out.suffix == ".mp4":
        raise InputError(f"out={out}: many videos need a folder")
    asked = from_lines(cfg) if cfg.prompts else [from_recipe(cfg) if cfg.recipe else from_keys(cfg)]
    check_output(out / "0000.mp4" if cfg.prompts else out)
    if cfg.sheet:
        check_output(Path(cfg.sheet), "sheet")
    before = read_record(Path(cfg.recipe)).get("made_with", {}) if cfg.recipe else {}
    offload = before.get("offload", cfg.offload) if cfg.offload == "auto" else cfg.offload
    vae_dtype = pick_dtype(cfg.vae_dtype or before.get("vae_dtype", before.get("dtype", "")), "vae_dtype")
    how = {"offload": offload, "quantize": cfg.quantize, "compiled": cfg.compile, "vae_dtype": vae_dtype}
    pipe = load(cfg.model, device=cfg.device or None, dtype=pick_dtype(cfg.dtype), lora=cfg.lora, base=cfg.base, **how)
    set_way(pipe, cfg, before)
    requests = [pipe.request(**keys) for keys in asked]
    with alone(out) if cfg.prompts else nullcontext():
        paths = names_in(out, requests, pipe) if cfg.prompts else [out]
        for path in paths:
            check_place(path)
        make_all(cfg, pipe, requests, paths)


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Be the only run that gives names to videos in a folder. InputError where another one does."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        with sole(out / ".lock", f"out={out}"):
            yield
    finally:
        with suppress(OSError):
            out.rmdir()  # where nothing came of it


def make_all(cfg: DictConfig, pipe: Pipe, requests: list[Request], paths: list[Path]) -> None:
    """The videos of requests, pack after pack; what an earlier run of the same command has made stays as it is."""
    tell(pipe, requests)
    groups = batches(list(zip(requests, paths, strict=True)), TOGETHER if cfg.batch is None else cfg.batch)
    layout = None
    if cfg.recipe:
        check_weights(pipe, Path(cfg.recipe))
        layout = None if changes(cfg) else layout_of(pipe, requests, Path(cfg.recipe), cfg.memory)
    for batch in groups:
        check_memory(pipe, [request for request, _ in batch], cfg.memory, layout)
    if cfg.recipe:
        tell_differences(pipe, Path(cfg.recipe))
    rows = []
    for batch in groups:
        if cfg.prompts and not cfg.sheet and is_done(batch, pipe):  # a sheet needs the frames as they were
            answer(*(path for _, path in batch))
            continue
        videos = make(pipe, [request for request, _ in batch], [path for _, path in batch], layout)
        rows += [video.frames for video in videos] if cfg.sheet else []
    if cfg.sheet:
        sheet(cfg.sheet, rows, [request.prompt for request in requests], COLUMNS)
        answer(cfg.sheet)


def is_done(batch: Sequence[tuple[Request, Path]], pipe: Pipe) -> bool:
    """Whether all of a pack is there from an earlier run, and nothing of it waits."""
    there = all(path.exists() and beside(path).exists() and holds(path, one, pipe) for one, path in batch)
    return there and not batch[0][1].with_suffix(waiting.ENDING).exists()


def set_way(pipe: Pipe, cfg: DictConfig, before: dict[str, Any]) -> None:
    """Take passes and decoding as they were typed, else from a record's `made_with`, else as they are."""
    if cfg.passes is not None or "passes" in before:
        pipe.passes = passes_of(before["passes"] if cfg.passes is None else cfg.passes)
    set_decoding(pipe, cfg.chunk, before)


def set_decoding(pipe: Pipe, chunk: Any, before: dict[str, Any]) -> None:
    """The same for decoding alone."""
    if chunk is not None:
        pipe.way = way_of(chunk)
    elif "decoding" in before:
        pipe.way = Way(**before["decoding"])


def make(pipe: Pipe, requests: list[Request], paths: list[Path], layout: Layout | None = None) -> list[Video]:
    """One pack of requests, with a progress bar. Between denoising and decoding the latents are safe on disk.

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


def bundled() -> list[str]:
    """The names of the models that the package brings along."""
    return [folder.parent.name for folder in assets_dir().glob("*/pipeline.json")]


def finish(
    pipe: Pipe, latents: list[Tensor], requests: list[Request], paths: list[Path], records: list[dict[str, Any]]
) -> list[Video]:
    """Decode and write."""
    videos = pipe.decode(latents, requests, say, records)
    for path, video in zip(paths, videos, strict=True):
        answer(video.save(path))
    return videos


def from_keys(cfg: DictConfig) -> dict[str, Any]:
    """The request of the command line; what was not given is left out."""
    if not cfg.prompt.strip():
        raise InputError('prompt: it is empty; say what the video shows: videodit generate "a red ball rolls right"')
    return {"prompt": cfg.prompt, **given(cfg)}


def given(cfg: DictConfig) -> dict[str, Any]:
    """The keys of a request that stand on the command line, but for the prompt."""
    keys = {key: cfg[key] for key in KEYS if cfg[key] not in ("", None)}
    check_keys(keys)
    check_contrary(keys)
    return keys


def changes(cfg: DictConfig) -> dict[str, Any]:
    """What the command line says otherwise than a recipe."""
    return {**({"prompt": cfg.prompt} if cfg.prompt else {}), **given(cfg)}


def from_lines(cfg: DictConfig) -> list[dict[str, Any]]:
    """The requests of a file. Keys on the command line are for lines that lack them; seeds count up, as in Python."""
    defaults = given(cfg)
    first = defaults.pop("seed", 0)
    lines = read_requests(Path(cfg.prompts))
    return [with_defaults(line, {**defaults, "seed": first + number}) for number, line in enumerate(lines)]


def names_in(out: Path, requests: Sequence[Request], pipe: Pipe) -> list[Path]:
    """Names of videos in a folder, one for each request, none of which holds what another run made or left to decode.

    The same requests have the names that they had: after a kill the same command makes the same folder.
    """
    there = [int(found[1]) for path in out.glob("*") if (found := NUMBERED.fullmatch(path.name))]
    end = max(there, default=-1) + 1
    for first in range(end + 1):
        paths = [out / f"{first + number:04d}.mp4" for number in range(len(requests))]
        mine = all(holds(path, one, pipe) for path, one in zip(paths, requests, strict=True))
        if mine and end <= first + len(requests):
            break
    if first:
        say(f"out={out} holds other videos already; these are {first:04d}.mp4 and on")
    return paths


def holds(path: Path, request: Request, pipe: Pipe) -> bool:
    """Whether a name is free, or has this request's video as it would be made now, or latents that wait for it."""
    records = []
    try:
        if path.exists():
            records.append(read_record(path))
        if (latents := path.with_suffix(waiting.ENDING)).exists():
            records += waiting.read(latents).records[:1]
    except InputError:  # what is not of this program
        return False
    own = json.loads(json.dumps({**asdict(request), "weights": pipe.parts.fingerprints}))
    how = pipe.made_with
    return all(
        {key: one.get(key) for key in own} == own and {key: one.get("made_with", {}).get(key) for key in how} == how
        for one in records
    )


def from_recipe(cfg: DictConfig) -> dict[str, Any]:
    """The request that a video was made from, but for what the command line says otherwise."""
    changed = changes(cfg)
    record = read_record(Path(cfg.recipe))
    if record["model"] != cfg.model:
        say(f"recipe: made with model={record['model']}, now {cfg.model}")
    if record.get("lora", {}) != parse(cfg.lora):
        say(f"recipe: made with lora={record.get('lora', {})}, now {parse(cfg.lora)}")
    before = {key: record[key] for key in OWN if key in record}  # older records have fewer
    check_keys(before)
    if changed:
        told = ", ".join(f"{key}={value}" for key, value in changed.items())
        say(f"recipe: followed but for {told}, so another video")
    return with_defaults(changed, before)


def read_record(path: Path) -> dict[str, Any]:
    """The record inside a video. Raises InputError when there is none."""
    text = probe(path).metadata.get("comment", "")
    if not text.lstrip().startswith("{"):
        raise InputError(f"{path}: it has no record of how it was made; videodit did not write it")
    return parse_record(text, f"{path}: its record")


def layout_of(pipe: Pipe, requests: list[Request], recipe: Path, memory: str) -> Layout | None:
    """The layout that a recipe's video was made in; None where that is not known or the memory does not suffice."""
    layout = read_record(recipe).get("made_with", {}).get("layout")
    if layout is None:
        return None
    pipe.check_layout(layout, requests, f"{recipe}: its record: made_with.layout")
    if len(layout["shapes"]) == 1:
        return layout
    try:
        check_memory(pipe, requests, memory, layout)
    except InputError as error:
        say(f"recipe: made alone, not in its pack, so pixels may differ within rounding ({error})")
        return None
    return layout


def read_requests(path: Path) -> list[dict[str, Any]]:
    """Requests from a .jsonl file. Raises InputError naming file and line."""
    requests = []
    for number, request in json_lines(path, Any):
        if isinstance(request, InputError):
            raise request
        if not isinstance(request, dict) or not isinstance(request.get("prompt"), str):
            raise InputError(f'{path}, line {number}: expected an object such as {{"prompt": "a red ball"}}')
        if unknown := sorted(request.keys() - {"prompt", *KEYS}):
            raise InputError(f"{path}, line {number}: unknown key {unknown[0]!r}{did_you_mean(unknown[0], KEYS)}")
        request = given_of(request)
        try:
            check_keys(request)
            check_contrary(request)
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from None
        requests.append(request)
    if not requests:
        raise InputError(f"{path}: there is no request in it")
    return requests


def batches(pairs: list[tuple[Request, Path]], size: int) -> list[list[tuple[Request, Path]]]:
    """Runs of requests that one pack can hold, which go the same way, at most `size` together."""

    groups = [list(run) for _, run in groupby(pairs, key=lambda pair: pair[0].way)]
    # A step cache skips by what the whole pack does: alone, a video is the one that its recipe makes again.
    sizes = [1 if group[0][0].step_cache else max(1, size) for group in groups]
    return [group[i : i + n] for group, n in zip(groups, sizes, strict=True) for i in range(0, len(group), n)]


def check_file(out: Path) -> None:
    """Refuse, before any work, an `out` that no video can be written to."""
    if out.is_dir():
        raise InputError(f"out={out}: it is a folder; name a .mp4 file")
    if out.suffix.lower() != ".mp4":
        raise InputError(f"out={out}: videos are written as .mp4")


def check_weights(pipe: Pipe, recipe: Path) -> None:
    """Refuse to remake a video with other weights than its own."""
    recorded = read_record(recipe)["weights"]
    if recorded != pipe.parts.fingerprints:
        other = [part for part, digest in pipe.parts.fingerprints.items() if recorded.get(part) != digest]
        raise InputError(f"{recipe}: made with other weights ({', '.join(other)}) than model={pipe.parts.name} has")


def tell_differences(pipe: Pipe, recipe: Path) -> None:
    """Say in a line where a recipe was followed in another way than now, which may change pixels."""
    record = read_record(recipe)
    before = {**record.get("made_with", {}), **record.get("versions", {})}
    now = {**pipe.made_with, **VERSIONS}
    if other := [f"{key}={before[key]}, now {now[key]}" for key in now if key in before and before[key] != now[key]]:
        say(f"recipe: made with {'; '.join(other)}: pixels may differ within rounding")


def tell(pipe: Pipe, requests: list[Request]) -> None:
    """Say what the model will do differently from what the words or numbers suggest."""
    words = {word for request in requests for word in pipe.parts.tokenizer.unknown_words(request.prompt)}
    if words:
        say(f"words the model does not know: {', '.join(sorted(words))}")
    for request in requests:
        if rest := pipe.parts.tokenizer.unread(request.prompt):
            say(f"the prompt is too long for the model, which does not read: {rest[:60]}{'…' * (len(rest) > 60)}")
        native = pipe.native(request)
        if (native.frames, native.height, native.width) != (request.frames, request.height, request.width):
            answer(f"made at {native}, then brought to {request.width}x{request.height}, {request.frames} frames")
