"""`videodit generate`: requests from the command line, from a file or from a recorded video, to mp4 files."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from videodit.checkpoint.adapters import parse
from videodit.checkpoint.store import load_tensors, save_tensors
from videodit.cli.memory import check_memory, dtype_of, passes_of, way_of
from videodit.data.sheet import sheet
from videodit.data.video import probe
from videodit.errors import InputError
from videodit.generate import Pipe, Request, Video, as_guidance, load
from videodit.printable import answer, say
from videodit.track.progress import Progress

if TYPE_CHECKING:
    from omegaconf import DictConfig

KEYS = (
    *("negative", "width", "height", "size", "frames", "seconds", "fps", "aspect", "preset", "fit"),
    *("seed", "steps", "guidance", "sampler", "step_cache"),
)
LATENTS = ".latents.safetensors"  # what a file of latents that wait for decoding is called
COLUMNS = 9  # frames of a clip on a contact sheet


def run(cfg: DictConfig) -> None:
    """Make the videos that `cfg` asks for."""
    if sum(bool(cfg[key]) for key in ("prompt", "prompts", "recipe")) > 1:
        raise InputError("give one of prompt, prompts and recipe")
    out = Path(cfg.out)
    if not cfg.prompts:
        check_file(out)
    asked = read_requests(Path(cfg.prompts)) if cfg.prompts else [from_recipe(cfg) if cfg.recipe else from_keys(cfg)]
    if cfg.prompts and out.suffix == ".mp4":
        raise InputError(f"out={out}: many videos need a folder")
    how = {"offload": cfg.offload, "quantize": cfg.quantize, "compiled": cfg.compile}
    pipe = load(cfg.model, device=cfg.device or None, dtype=dtype_of(cfg.dtype), lora=cfg.lora, **how)
    pipe.passes, pipe.way = passes_of(cfg.passes), way_of(cfg.chunk)
    requests = [pipe.request(**keys) for keys in asked]
    if cfg.recipe:
        check_weights(pipe, Path(cfg.recipe))
        tell_differences(pipe, Path(cfg.recipe))
    tell(pipe, requests)
    paths = [out / f"{number:04d}.mp4" for number in range(len(requests))] if cfg.prompts else [out]
    rows = []
    groups = batches(list(zip(requests, paths, strict=True)), cfg.batch)
    for batch in groups:
        check_memory(pipe, [request for request, _ in batch], cfg.memory)
    for batch in groups:
        videos = make(pipe, [request for request, _ in batch], [path for _, path in batch])
        rows += [video.frames for video in videos] if cfg.sheet else []
    if cfg.sheet:
        sheet(cfg.sheet, rows, [request.prompt for request in requests], COLUMNS)
        answer(cfg.sheet)


def make(pipe: Pipe, requests: list[Request], paths: list[Path]) -> list[Video]:
    """One pack of requests, with a progress bar. Between denoising and decoding the latents are safe on disk."""
    with Progress(total=requests[0].steps, label="denoise") as progress:
        latents = pipe.denoise(requests, lambda step, steps: progress.update(step), say)
    waiting = paths[0].with_suffix(LATENTS)
    header = {
        **{"model": pipe.parts.name, "weights": pipe.parts.fingerprints, "paths": [str(path) for path in paths]},
        "requests": [asdict(request) for request in requests],
    }
    try:
        save_tensors(waiting, {str(number): x for number, x in enumerate(latents)}, header)
    except InputError as error:  # no reason to give up: perhaps there is room for the video
        say(f"the latents are not kept: {error}")
    try:
        videos = finish(pipe, latents, requests, paths)
    except BaseException:
        if waiting.exists():
            say(f"denoising is done; to go on from there: videodit decode {shlex.quote(str(waiting))}")
        raise
    waiting.unlink(missing_ok=True)
    return videos


def finish(pipe: Pipe, latents: list[Tensor], requests: list[Request], paths: list[Path]) -> list[Video]:
    """Decode and write."""
    videos = pipe.decode(latents, requests, say)
    for path, video in zip(paths, videos, strict=True):
        answer(video.save(path))
    return videos


class Waiting(NamedTuple):
    """What a file of latents holds."""

    model: str
    weights: dict[str, str]
    requests: list[Request]
    paths: list[Path]
    latents: list[Tensor]


def read_latents(path: Path) -> Waiting:
    """A file of latents that `make` wrote. Raises InputError for any other."""
    tensors, header = load_tensors(path)
    try:
        requests = [Request(**{**one, "guidance": as_guidance(one["guidance"])}) for one in header["requests"]]
        latents = [tensors[str(number)] for number in range(len(requests))]
        return Waiting(header["model"], header["weights"], requests, [Path(p) for p in header["paths"]], latents)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: it holds no latents that wait for decoding ({error})") from None


def from_keys(cfg: DictConfig) -> dict[str, Any]:
    """The request of the command line; what was not given is left out."""
    if not cfg.prompt.strip():
        raise InputError('prompt: it is empty; say what the video shows: videodit generate "a red ball rolls right"')
    return {"prompt": cfg.prompt} | {key: cfg[key] for key in KEYS if cfg[key] not in ("", None)}


def from_recipe(cfg: DictConfig) -> dict[str, Any]:
    """The request that a video was made from."""
    record = read_record(Path(cfg.recipe))
    if record["model"] != cfg.model:
        say(f"recipe: made with model={record['model']}, now {cfg.model}")
    if record.get("lora", {}) != parse(cfg.lora):
        say(f"recipe: made with lora={record.get('lora', {})}, now {parse(cfg.lora)}")
    return {key: record[key] for key in Request.__dataclass_fields__ if key in record}  # older records have fewer


def read_record(path: Path) -> dict[str, Any]:
    """The record inside a video. Raises InputError when there is none."""
    try:
        record = json.loads(probe(path).metadata.get("comment", ""))
        return record if record["model"] and record["weights"] else {}
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: it has no record of how it was made; videodit did not write it") from None


def read_requests(path: Path) -> list[dict[str, Any]]:
    """Requests from a .jsonl file. Raises InputError naming file and line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"prompts={path}: cannot be read ({error})") from None
    requests = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            request = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: not valid JSON ({error})") from None
        if not isinstance(request, dict) or not isinstance(request.get("prompt"), str):
            raise InputError(f'{path}, line {number}: expected an object such as {{"prompt": "a red ball"}}')
        if unknown := sorted(request.keys() - {"prompt", *KEYS}):
            raise InputError(f"{path}, line {number}: unknown key {unknown[0]!r}")
        requests.append(request)
    if not requests:
        raise InputError(f"{path}: there is no request in it")
    return requests


def batches(pairs: list[tuple[Request, Path]], size: int) -> list[list[tuple[Request, Path]]]:
    """Runs of requests that one pack can hold: of the same sampler, steps and step_cache, at most `size` together."""

    def kind(pair: tuple[Request, Path]) -> tuple:
        return pair[0].sampler, pair[0].steps, pair[0].step_cache

    groups = [list(run) for _, run in groupby(pairs, key=kind)]
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
    """Say where a recipe was followed in another way than now, which may change pixels."""
    before = read_record(recipe).get("made_with", {})
    now = {"dtype": str(pipe.parts.dtype).removeprefix("torch."), "quantize": pipe.parts.quantize}
    for key, value in now.items():
        if before.get(key, value) != value:
            say(f"recipe: made with {key}={before[key]}, now {value}")


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
