"""`videodit generate`: requests from the command line, from a file or from a recorded video, to files of video."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videodit.atomic import check_output
from videodit.checkpoint.adapters import parse
from videodit.cli.making import make
from videodit.cli.memory import check_memory, passes_of, way_of
from videodit.cli.places import (
    alone,
    check_folder,
    check_paths,
    check_sheet,
    is_done,
    labels,
    names_by_seed,
    names_in,
    read_record,
    seeds_of,
    several,
    sheet_of,
)
from videodit.data.sheet import sheet
from videodit.data.video import kept_as, target
from videodit.decode import Way
from videodit.errors import InputError, did_you_mean
from videodit.generate import VERSIONS, Pipe, load
from videodit.nn.device import pick_dtype
from videodit.nn.kernels import AUTO
from videodit.printable import answer, say
from videodit.record import Layout, made_in
from videodit.request import OWN, Request, check_contrary, check_keys, given_of, with_defaults
from videodit.shapes import VideoShape
from videodit.untrusted import json_lines

if TYPE_CHECKING:
    from omegaconf import DictConfig

KEYS = (
    *("negative", "width", "height", "size", "frames", "seconds", "fps", "aspect", "preset", "fit"),
    *("seed", "steps", "guidance", "sampler", "step_cache", "shift"),
)
TOGETHER = 8  # requests of a file that are made in one pack, if nothing else is said
COLUMNS = 9  # frames of a clip on a contact sheet


def run(cfg: DictConfig) -> None:
    """Make the videos that `cfg` asks for."""
    if cfg.prompts and (cfg.prompt or cfg.recipe):
        raise InputError("prompts= names a file of requests: give no prompt and no recipe= beside it")
    seed = seeds_of(cfg.seed, cfg.count)
    by_seed = isinstance(seed, list) or cfg.count is not None
    folder = bool(cfg.prompts) or (by_seed and cfg.out.endswith("/"))
    out = Path(cfg.out) if folder else target(cfg.out, "out")
    if folder:
        check_folder(out)
    asked = asked_of(cfg, seed)
    check_output(out / "0000.mp4" if folder else out)
    if cfg.sheet:
        check_sheet(Path(cfg.sheet))
    pipe, before = opened(cfg)
    set_way(pipe, cfg, before)
    requests = [pipe.request(**keys) for keys in asked]
    with alone(out) if folder else nullcontext():
        paths = names_in(out, requests, pipe) if folder else names_by_seed(out, requests, pipe) if by_seed else [out]
        check_paths(paths, requests)
        page = Path(cfg.sheet) if cfg.sheet else sheet_of(paths, requests) if by_seed else None
        if page in paths:
            raise InputError(f"sheet={page}: the video has this name")
        if paths == [out] and out.exists():
            say(f"{out} is there already; it will be replaced")
        make_all(cfg, pipe, requests, paths, page)


def make_all(cfg: DictConfig, pipe: Pipe, requests: list[Request], paths: list[Path], page: Path | None) -> None:
    """The videos of requests, pack after pack, and a page of them all; what is there of an earlier run stays as it is.

    `page`: the contact sheet, if there is to be one.
    """
    groups = batches(list(zip(requests, paths, strict=True)), TOGETHER if cfg.batch is None else cfg.batch)
    layout = None
    if cfg.recipe:
        check_weights(pipe, Path(cfg.recipe))
        layout = None if given(cfg) or len(requests) > 1 else layout_of(pipe, requests, Path(cfg.recipe), cfg.memory)
    tell(pipe, requests, layout)
    lines = [kept_as(path, one.height, one.width) for path, one in zip(paths, requests, strict=True)]
    answer(*(line for line in dict.fromkeys(lines) if line))
    for batch in groups:
        check_memory(pipe, [request for request, _ in batch], cfg.memory, layout)
    if cfg.recipe:
        tell_differences(pipe, Path(cfg.recipe))
    rows = []
    for batch in groups:
        if cfg.prompts and not page and is_done(batch, pipe):  # a sheet needs the frames as they were
            answer(*(path for _, path in batch))
            continue
        videos = make(pipe, [request for request, _ in batch], [path for _, path in batch], layout)
        rows += [video.frames for video in videos] if page else []
    if page:
        sheet(page, rows, labels(requests), COLUMNS)
        answer(page)


def opened(cfg: DictConfig) -> tuple[Pipe, dict[str, Any]]:
    """The model, opened as a recipe's record says where nothing else is typed, and what that says: its `made_with`."""
    before = read_record(Path(cfg.recipe)).get("made_with", {}) if cfg.recipe else {}
    offload = before.get("offload", cfg.offload) if cfg.offload == "auto" else cfg.offload
    vae_dtype = pick_dtype(cfg.vae_dtype or before.get("vae_dtype", before.get("dtype", "")), "vae_dtype")
    how = {"offload": offload, "quantize": cfg.quantize, "compiled": cfg.compile, "vae_dtype": vae_dtype}
    where = {"device": cfg.device or None, "dtype": pick_dtype(cfg.dtype)}
    pipe = load(cfg.model, lora=cfg.lora, base=cfg.base, kernel=cfg.kernel, **where, **how)
    made_by = before.get("kernel", AUTO)
    if cfg.kernel == AUTO != made_by and pipe.attention.refusal(made_by) is None:
        pipe.parts.kernel = made_by  # where this machine can
    return pipe, before


def asked_of(cfg: DictConfig, seed: list[int] | int | None) -> list[dict[str, Any]]:
    """The keys of each request."""
    if not cfg.prompts:
        return several(from_recipe(cfg) if cfg.recipe else from_keys(cfg), seed, cfg.count)
    if isinstance(seed, list):
        raise InputError(f"seed={cfg.seed}: with prompts= it is one number, from which seeds count up by lines")
    return from_lines(cfg)


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


def from_keys(cfg: DictConfig) -> dict[str, Any]:
    """The request of the command line; what was not given is left out."""
    if not cfg.prompt.strip():
        raise InputError('prompt: it is empty; say what the video shows: videodit generate "a red ball rolls right"')
    return given(cfg)


def given(cfg: DictConfig) -> dict[str, Any]:
    """The keys of a request that a command has and that were typed; of several seeds the first."""
    keys = {key: cfg[key] for key in ("prompt", *KEYS) if key in cfg and cfg[key] not in ("", None)}
    if isinstance(keys.get("seed"), str):
        keys["seed"] = seeds_of(keys["seed"], None)[0]
    check_keys(keys)
    check_contrary(keys)
    return keys


def from_lines(cfg: DictConfig) -> list[dict[str, Any]]:
    """The requests of a file. Keys on the command line are for lines that lack them; seeds count up, as in Python."""
    defaults = given(cfg)
    first = defaults.pop("seed", 0)
    lines = read_requests(Path(cfg.prompts))
    return [with_defaults(line, {**defaults, "seed": first + number}) for number, line in enumerate(lines)]


def from_recipe(cfg: DictConfig) -> dict[str, Any]:
    """The request that a video was made from, but for what the command line says otherwise."""
    changed = given(cfg)
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


def layout_of(pipe: Pipe, requests: list[Request], recipe: Path, memory: str) -> Layout | None:
    """The layout that a recipe's video was made in; alone in its shape where that is not known or needs too much."""
    record = read_record(recipe)
    layout = record.get("made_with", {}).get("layout")
    if layout is None:
        return layout_alone(pipe, requests, record.get("generated"))
    pipe.check_layout(layout, requests, f"{recipe}: its record: made_with.layout")
    if len(layout["shapes"]) == 1:
        return layout
    try:
        check_memory(pipe, requests, memory, layout)
    except InputError as error:
        say(f"recipe: made alone, not in its pack, so pixels may differ within rounding ({error})")
        return layout_alone(pipe, requests, asdict(made_in(layout, pipe.parts.sizes("vae").stride)))
    return layout


def layout_alone(pipe: Pipe, requests: list[Request], generated: Mapping[str, Any] | None) -> Layout | None:
    """One request's layout at the shape of a record, which may not be the one that is made for it now."""
    if generated is None:
        return None
    shape = VideoShape(*(generated[key] for key in ("frames", "height", "width")))
    shape = shape.latent(pipe.parts.sizes("vae").stride)
    layout = {**pipe.layouts(requests)[0], "shapes": [[shape.frames, shape.height, shape.width]]}
    return pipe.check_layout(layout, requests, "recipe: its record: generated")


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


def tell(pipe: Pipe, requests: list[Request], layout: Layout | None = None) -> None:
    """Say what the model will do differently from what the words or numbers suggest."""
    if line := pipe.attention.told(pipe.parts.kernel):
        say(line)
    words = {word for request in requests for word in pipe.parts.tokenizer.unknown_words(request.prompt)}
    if words:
        say(f"words the model does not know: {', '.join(sorted(words))}")
    lines = []
    for request in requests:
        if rest := pipe.parts.tokenizer.unread(request.prompt):
            say(f"the prompt is too long for the model, which does not read: {rest[:60]}{'…' * (len(rest) > 60)}")
        stride = pipe.parts.sizes("vae").stride
        lines.append(told(request, made_in(layout, stride) if layout else pipe.native(request), pipe.defaults["fps"]))
    answer(*(line for line in dict.fromkeys(lines) if line))


def told(request: Request, made: VideoShape, fps: float) -> str:
    """What is made, and what becomes of it, where that is not what was asked for."""
    changes = []
    if (made.height, made.width) != (request.height, request.width):
        changes.append(f"brought to {request.width}x{request.height}")
    if fps != request.fps and request.frames > 1:
        changes.append(f"brought to {request.frames} frames at {request.fps:g} a second")
    elif made.frames > request.frames:
        changes.append(f"cut to the first {request.frames} frames")
    elif made.frames < request.frames:  # a recipe of before
        changes.append(f"the last one held until there are {request.frames}")
    return f"made at {made}, then {', '.join(changes)}" if changes else ""
