"""`videodit generate`: requests from the command line, from a file or from a recorded video, to files of video."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

from videodit.atomic import check_output
from videodit.cli.places import (
    alone,
    check_folder,
    check_paths,
    check_sheet,
    is_done,
    labels,
    names_by_seed,
    names_in,
    saved,
    seeds_of,
    several,
    sheet_of,
)
from videodit.cli.settings import Generate
from videodit.data.sheet import sheet
from videodit.data.video import kept_as, target
from videodit.decode import Way
from videodit.errors import InputError
from videodit.generate.jobs import TOGETHER, Job, admit_all, grouped, make
from videodit.generate.layout import Layout, made_in
from videodit.generate.pipe import Pipe, load
from videodit.generate.recipe import Recipe
from videodit.generate.request import KEYS, Request, check_contrary, check_keys, read_requests, with_defaults
from videodit.generate.video import Video
from videodit.generate.waiting import OnDisk
from videodit.nn.device import pick_dtype
from videodit.nn.kernels import AUTO
from videodit.printable import answer, say
from videodit.shapes import VideoShape
from videodit.track.progress import Progress

COLUMNS = 9  # frames of a clip on a contact sheet


def run(asked: Generate) -> None:
    """Make the videos that are asked for."""
    if asked.prompts and (asked.prompt or asked.recipe):
        raise InputError("prompts= names a file of requests: give no prompt and no recipe= beside it")
    seed = seeds_of(asked.seed, asked.count)
    by_seed = isinstance(seed, list) or asked.count is not None
    folder = bool(asked.prompts) or (by_seed and asked.out.endswith("/"))
    out = Path(asked.out) if folder else target(asked.out, "out")
    if folder:
        check_folder(out)
    keys = given(asked)
    recipe = Recipe.read(Path(asked.recipe)) if asked.recipe else None
    wanted = wanted_of(asked, keys, seed, recipe)
    check_output(out / "0000.mp4" if folder else out)
    if asked.sheet:
        check_sheet(Path(asked.sheet))
    pipe = opened(asked, recipe)
    requests = [pipe.request(**one) for one in wanted]
    with alone(out) if folder else nullcontext():
        paths = names_in(out, requests, pipe) if folder else names_by_seed(out, requests, pipe) if by_seed else [out]
        check_paths(paths, requests)
        page = Path(asked.sheet) if asked.sheet else sheet_of(paths, requests) if by_seed else None
        if page in paths:
            raise InputError(f"sheet={page}: the video has this name")
        if paths == [out] and out.exists():
            say(f"{out} is there already; it will be replaced")
        layout = None
        if recipe is not None:
            recipe.check_weights(pipe)
            layout = None if keys or len(requests) > 1 else recipe.layout(pipe, requests[0], asked.memory)
        tell(pipe, requests, layout)
        lines = [kept_as(path, one.height, one.width) for path, one in zip(paths, requests, strict=True)]
        answer(*(line for line in dict.fromkeys(lines) if line))
        jobs = grouped(requests, TOGETHER if asked.batch is None else asked.batch, layout)
        pipe = admit_all(pipe, jobs, asked.memory)
        if recipe is not None:
            recipe.tell_differences(pipe)
        make_all(pipe, jobs, paths, page, again=bool(asked.prompts))


def make_all(pipe: Pipe, jobs: Sequence[Job], paths: Sequence[Path], page: Path | None, *, again: bool) -> None:
    """The videos of jobs, and a page of them all. again: packs that an earlier run has made stay as they are.

    page: the contact sheet, if there is to be one.
    """
    rows = []
    for job in jobs:
        own = [paths[number] for number in job.numbers]
        if again and not page and is_done(own, job.requests, pipe):  # a sheet needs the frames as they were
            answer(*own)
            continue
        for video in made(pipe, job, own):
            rows += [video.frames] if page else []
    if page:
        sheet(page, rows, labels([one for job in jobs for one in job.requests]), COLUMNS)
        answer(page)


def made(pipe: Pipe, job: Job, paths: Sequence[Path]) -> Iterator[Video]:
    """The videos of a job, as they are written. Where that ends before the last one, its latents wait."""
    shelf = OnDisk(pipe, job.requests, paths, job.layout)
    try:
        with Bar() as bar:
            for number, video in enumerate(make(pipe, job, handover=shelf, progress=bar)):
                answer(saved(video, paths[number]))
                yield video
    except BaseException:
        if shelf.path is not None:
            words = [str(shelf.path), *([f"model={shelf.model}"] if shelf.typed else [])]
            say(f"denoising is done; to go on from there: videodit decode {shlex.join(words)}")
        raise


class Bar:
    """A progress bar of a job's denoising, from its beginning to its last step."""

    def __init__(self) -> None:
        self._inside = ExitStack()
        self._bar: Progress | None = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._inside.close()

    def __call__(self, job: Job, step: int, steps: int) -> None:
        if step == 0:
            self._bar = self._inside.enter_context(Progress(total=steps, label="denoise"))
        elif self._bar is not None:
            self._bar.update(step)
        if step == steps:
            self._inside.close()


def opened(asked: Generate, recipe: Recipe | None) -> Pipe:
    """The model, opened and run as a recipe's record says where nothing else is typed."""
    before = recipe.made_with if recipe else {}
    offload = before.get("offload", asked.offload) if asked.offload == "auto" else asked.offload
    vae_dtype = pick_dtype(asked.vae_dtype or before.get("vae_dtype", before.get("dtype", "")), "vae_dtype")
    how = {"offload": offload, "quantize": asked.quantize, "compiled": asked.compile, "vae_dtype": vae_dtype}
    where = {"device": asked.device or None, "dtype": pick_dtype(asked.dtype)}
    pipe = load(asked.model, lora=asked.lora, base=asked.base, kernel=asked.kernel, **where, **how)
    options = recipe.options(pipe, kernel=asked.kernel == AUTO) if recipe else {}
    options |= {} if asked.passes is None else {"passes": asked.passes}
    options |= {} if asked.chunk is None else {"decoding": Way(asked.chunk)}
    return pipe.with_options(**options)


def wanted_of(
    asked: Generate, keys: dict[str, Any], seed: list[int] | int | None, recipe: Recipe | None
) -> list[dict[str, Any]]:
    """The keys of each request; `keys`: those that were typed."""
    if asked.prompts:
        if isinstance(seed, list):
            raise InputError(f"seed={asked.seed}: with prompts= it is one number, from which seeds count up by lines")
        return from_lines(Path(asked.prompts), keys)
    if recipe is not None:
        return several(recipe.request(keys, asked.model, asked.lora), seed, asked.count)
    if not asked.prompt.strip():
        raise InputError('prompt: it is empty; say what the video shows: videodit generate "a red ball rolls right"')
    return several(keys, seed, asked.count)


def given(asked: Any) -> dict[str, Any]:
    """The keys of a request that a command has and that were typed; of several seeds the first."""
    keys = {key: getattr(asked, key) for key in KEYS if getattr(asked, key, "") not in ("", None)}
    if isinstance(keys.get("seed"), str):
        keys["seed"] = seeds_of(keys["seed"], None)[0]
    check_keys(keys)
    check_contrary(keys)
    return keys


def from_lines(path: Path, keys: dict[str, Any]) -> list[dict[str, Any]]:
    """The requests of a file. Typed keys are for lines that lack them; seeds count up, as in Python."""
    first = keys.get("seed", 0)
    return [with_defaults(line, {**keys, "seed": first + number}) for number, line in enumerate(read_requests(path))]


def tell(pipe: Pipe, requests: Sequence[Request], layout: Layout | None = None) -> None:
    """Say what the model will do differently from what the words or numbers suggest."""
    if line := pipe.attention.told(pipe.options.kernel):
        say(line)
    tokenizers = [encoder.tokenizer for encoder in pipe.parts.text_encoders]
    unknown = [{word for one in requests for word in own.unknown_words(one.prompt)} for own in tokenizers]
    if words := set.intersection(*unknown):
        say(f"words the model does not know: {', '.join(sorted(words))}")
    lines = []
    for request in requests:
        if rest := min((tokenizer.unread(request.prompt) for tokenizer in tokenizers), key=len):
            say(f"the prompt is too long for the model, which does not read: {rest[:60]}{'…' * (len(rest) > 60)}")
        made = made_in(layout, pipe.stride) if layout else pipe.native(request)
        lines.append(told(request, made, pipe.defaults["fps"]))
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
