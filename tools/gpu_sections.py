"""The sections of tools/gpu_page.py, one a process: `python tools/gpu_sections.py NAME SCALE SECONDS FILE`.

Each writes rows and lines to FILE as it goes. A library that a whole section needs and does not find is told.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpu_parts import Model, Page
    from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
PEAK = 989e12  # dense bfloat16 flops a second of an H100 or H200, by its data sheet
TOLERANCE = 2e-2  # of the largest value, in half precision, as in tests/gpu
APART = {"float32": 0.01, "bfloat16": 0.2}  # ours from theirs, root mean squares, at most: TF32, and many layers
ROWS = 64  # queries of each clip that are compared with the definition


def main(name: str, scale: str, seconds: str, file: str) -> None:
    """Run one section."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tools")]
    try:
        from gpu_parts import Page
    except ModuleNotFoundError as error:  # torch, einops, yaml: without them there is nothing
        Path(file).write_text(json.dumps(["left_out", "", f"all of it: {error.name} is missing"]) + "\n")
        return
    page = Page(scale, float(seconds), Path(file))
    with page.case(name):
        SECTIONS[name](page)


def tests(page: Page) -> None:
    """Run the tests of tests/gpu, or where there is no GPU find them. One that lacks a library is left out."""
    import pytest

    counts: dict[str, Counter[str]] = {}

    class Recorder:
        """Writes a file's counts anew after each of its tests."""

        def note(self, test: str, outcome: str, text: str = "") -> None:
            file = Path(test.partition("::")[0]).name
            lacks = re.search(r"No module named '(?!videodit|tests)(\w+)", text)
            own = counts.setdefault(file, Counter())
            own[outcome if outcome != "failed" or not lacks else "left out"] += 1
            page.row("tests", file=file, **{name: own[name] for name in kinds})
            if lacks:
                page.leave_out(f"{file}: {lacks[1]} is missing")
            elif outcome == "failed":
                page.fail(f"{test}: {text.strip().splitlines()[-1][:300] if text.strip() else 'no message'}")

        def pytest_collectreport(self, report: Any) -> None:
            if report.failed:
                self.note(report.nodeid, "failed", report.longreprtext)

        def pytest_collection_finish(self, session: Any) -> None:
            for item in session.items if not page.cuda else ():
                self.note(item.nodeid, "found")

        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.when == "call" or report.outcome != "passed":
                self.note(report.nodeid, report.outcome, report.longreprtext)

    kinds = ("passed", "failed", "skipped", "left out") if page.cuda else ("found", "failed", "left out")
    command = [str(ROOT / "tests" / "gpu"), "-m", "gpu", "-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
    command += ["--continue-on-collection-errors", "--disable-plugin-autoload"]
    command += [] if page.cuda else ["--collect-only"]
    code = pytest.main(command, plugins=[Recorder()])
    if not counts:
        page.fail(f"pytest found no test: it ended with {code}")
    if not page.cuda:
        page.leave_out("the tests are found, not run: there is no GPU")


def kernels(page: Page) -> None:
    """Every kernel that serves here: how far from the definition, how fast forward, and forward and backward."""
    from videodit.nn.kernels import KERNELS, Use

    heads, channels = page.scale.heads
    use = Use(page.device, page.dtype, channels, grad=False)
    for kernel in KERNELS:
        if reason := use.refusal(kernel):
            page.leave_out(f"{kernel}: {reason}")
    for pack, (queries, keys) in page.scale.packs.items():
        first: list[Tensor] = []  # sdpa's
        for kernel in (name for name in KERNELS if use.refusal(name) is None):
            name = f"{kernel}, {pack}"
            scores = 4 * heads * sum(queries) * sum(keys)
            if kernel == "reference" and scores > 2**33:
                page.leave_out(f"{name}: its scores would take {scores / 2**30:.0f} GiB")
            elif page.enough(name, 30 if kernel == "flex" else 3):
                with page.case(name):
                    _kernel(page, kernel, pack, first)


def _kernel(page: Page, kernel: str, pack: str, first: list[Tensor]) -> None:
    """A row for a kernel and a pack. `first`: what sdpa gave, if it has run."""
    import torch

    from videodit.nn.kernels import Use, attend

    (heads, channels), (queries, keys) = page.scale.heads, page.scale.packs[pack]
    if page.cuda:
        torch.compiler.reset()  # flex is compiled anew for every kind of pack, of which torch allows a few
    of = torch.Generator(page.device).manual_seed(0)
    sizes = (sum(queries), sum(keys), sum(keys))
    q, k, v = (torch.randn(n, heads, channels, generator=of, device=page.device).to(page.dtype) for n in sizes)
    with torch.no_grad():
        out = attend(q, k, v, queries, keys, kernel=kernel)
        rows, lengths = _some_rows(queries, page.device)
        truth = attend(q[rows].double(), k.double(), v.double(), lengths, keys, kernel="reference")
        error = _apart(torch.max, out[rows], truth)
        if kernel == "sdpa":
            first.append(out)
        apart = _apart(torch.max, out, first[0]) if first else None
        seconds = page.timed(lambda: attend(q, k, v, queries, keys, kernel=kernel))
    flops = 4.0 * heads * channels * sum(a * b for a, b in zip(queries, keys, strict=True))
    both = None
    if Use(page.device, page.dtype, channels, grad=True).refusal(kernel) is None:
        inputs = [x.requires_grad_() for x in (q, k, v)]
        both = page.timed(partial(_forward_and_backward, kernel, inputs, queries, keys))
    page.row(
        "kernels", kernel=f"{kernel}, {pack}", error=error, **{"from sdpa": apart}, ms=1e3 * seconds,
        **{"TFLOP/s": flops / seconds / 1e12, "ms with backward": both and 1e3 * both,
           "TFLOP/s with backward": both and 3.5 * flops / both / 1e12},
    )  # fmt: skip
    if not error <= TOLERANCE:
        page.fail(f"{kernel}, {pack}: {error:.1e} from the definition, of which {TOLERANCE} is rounding")


def _apart(how: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> float:
    """How far x is from y, as a share of y: the largest value (torch.max) or the norm (torch.linalg.vector_norm)."""
    y = y.float()
    return (how((x.float() - y).abs()) / how(y.abs())).item()


def _forward_and_backward(kernel: str, inputs: list[Tensor], queries: tuple, keys: tuple) -> None:
    import torch

    from videodit.nn.kernels import attend

    out = attend(*inputs, queries, keys, kernel=kernel)
    torch.autograd.grad(out, inputs, torch.ones_like(out))


def _some_rows(lengths: tuple[int, ...], device: Any) -> tuple[Tensor, tuple[int, ...]]:
    """Places of up to ROWS tokens of each clip, evenly spread, and how many of each."""
    import torch

    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    parts = [start + torch.linspace(0, n - 1, min(n, ROWS)).long() for start, n in zip(starts, lengths, strict=True)]
    return torch.cat(parts).to(device), tuple(map(len, parts))


def models(page: Page) -> None:
    """A DiT step with guidance and the VAE's decoding, ours and diffusers' in turns, and their memory by the plan."""
    beside = page.has("diffusers", "diffusers' side of each row")
    _dits(page, beside, compiled=False)
    for dtype in ("float32", "bfloat16"):
        if page.enough(f"VAE decode, {dtype}", 20):
            with page.case(f"VAE decode, {dtype}"):
                _decode(page, dtype, beside)
    from videodit.accel.compiling import lacking_compiler

    if lacking := lacking_compiler(page.device):
        page.leave_out(f"compiled steps: there is no {lacking}")
    else:
        _dits(page, beside, compiled=True)


def _dits(page: Page, beside: bool, *, compiled: bool) -> None:
    """A row for each model."""
    for model in page.scale.models:
        name = f"DiT {model.name}, {'compiled' if compiled else 'eager'}"
        if page.enough(name, 60 if compiled else 25):
            with page.case(name):
                _dit(page, model, beside, compiled)


def _dit(page: Page, model: Model, beside: bool, compiled: bool) -> None:
    from gpu_parts import PROMPTS, Guided, family, planned, random_network

    from videodit.accel.compiling import compile_blocks
    from videodit.train.machine import matmul_rate

    found = family(page, model)
    spec = found["dit"]
    theirs = None
    if beside:
        from gpu_theirs import our_dit, their_dit, their_step

        theirs = their_dit(spec["arguments"], page.device, page.dtype)
        ours = our_dit(spec, theirs)
    else:
        ours = random_network(spec, page.device, page.dtype)
    ours.requires_grad_(False).eval()
    step = Guided(page, ours, model.shape)
    other = [] if theirs is None else [their_step(theirs, step)]
    rate = matmul_rate(page.device, page.dtype, seconds=page.scale.least)
    flops = step.flops
    name = f"DiT {model.name}, {model.blocks} of {found['layers']} blocks" if model.blocks else f"DiT {model.name}"
    if compiled:
        for stack in ours.stacks().values():
            compile_blocks(stack, backend=page.scale.backend)
        if theirs is not None:
            theirs.compile_repeated_blocks(backend=page.scale.backend)
    else:
        step()
        weights, before = sum(x.numel() * x.element_size() for x in ours.parameters()), page.held()
        kept = ours.kept({"text": PROMPTS}) * page.dtype.itemsize  # the session has them already
        measured = weights + kept + page.peak(step) - before
        page.beside_plan(name, planned(page, found, model.shape, page.dtype, "model")["denoise"], measured)
    seconds, outputs = page.in_turns([step, *other])
    more = {"TFLOP/s": flops / seconds[0] / 1e12, "of matmul": flops / seconds[0] / rate}
    name = f"{name}, {'compiled' if compiled else 'eager'}"
    _beside(page, name, str(page.dtype).removeprefix("torch."), seconds, outputs, more)


def _beside(
    page: Page, name: str, kind: str, seconds: list[float], outputs: list[Tensor], more: dict[str, float | None]
) -> None:
    """A row of ours beside theirs, if there are theirs; more than rounding in this type between them is a failure."""
    import torch

    theirs = seconds[1] if len(seconds) > 1 else None
    apart = None if theirs is None else _apart(torch.linalg.vector_norm, *(x.cpu() for x in outputs))
    page.row("models", what=name, **{"ours, s": seconds[0], "diffusers, s": theirs,
             "ratio": theirs and seconds[0] / theirs, "apart (norm)": apart}, **more)  # fmt: skip
    if apart is not None and not apart <= APART[kind]:
        page.fail(f"{name}: {apart:.1e} from diffusers', of which {APART[kind]} may be rounding")


def _decode(page: Page, dtype: str, beside: bool) -> None:
    import torch
    from gpu_parts import CHUNK, family, planned, random_network

    from videodit.decode import Way, decode

    model, kind = page.scale.models[0], getattr(torch, dtype)
    found = family(page, model)
    if beside:
        from gpu_theirs import our_vae, their_decoding, their_vae

        theirs = their_vae(found["vae"], page.device, kind)
        vae = our_vae(found["vae"], theirs)
    else:
        vae = random_network(found["vae"], page.device, kind)
    vae.requires_grad_(False).eval()
    of = torch.Generator().manual_seed(0)
    latents = torch.randn(found["dit"]["arguments"]["channels"], *model.shape, generator=of).to(page.device, kind)

    @torch.no_grad()
    def ours() -> Tensor:
        return decode(vae, latents, Way(CHUNK)).clamp(-1, 1)

    works = [ours, *([their_decoding(theirs, latents)] if beside else [])]
    name = f"VAE decode, {dtype}"
    ours()
    weights, before = sum(x.numel() * x.element_size() for x in vae.parameters()), page.held()
    measured = weights + page.peak(ours) - before
    page.beside_plan(name, planned(page, found, model.shape, kind, "model")["decode"], measured)
    seconds, outputs = page.in_turns(works)
    _beside(page, name, dtype, seconds, outputs, {"TFLOP/s": None, "of matmul": None})


def training(page: Page) -> None:
    """Steps of the 1.3B DiT with AdamW and averages, by what is recomputed: MFU, and memory by the plan."""
    from gpu_training import plan_of, room, step_row

    page.leave_out("the text encoder: the states of prompts are at hand, as where they are cached")
    for recompute in ("blocks", "cheap", "nothing"):
        name = f"recompute={recompute}"
        if not page.enough(name, 25):
            continue
        with page.case(name):
            need, free = plan_of(page, recompute), room(page)
            if need > free:
                page.leave_out(f"{name}: planned {need / 2**30:.0f} GiB, there are {free / 2**30:.0f}")
            else:
                step_row(page, name, recompute, need, PEAK, compiled=False)
    name = "recompute=blocks, compiled"
    if page.enough(name, 75):
        with page.case(name):
            step_row(page, name, "blocks", None, PEAK, compiled=True)


def packs(page: Page) -> None:
    """Useful tokens a second of packs and of buckets over the same clips, steps in a random order."""
    from gpu_training import packs_beside_buckets

    packs_beside_buckets(page)


def offload(page: Page) -> None:
    """Seconds of a step with all weights there, with one network at a time, and with one block at a time."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        _offload(page, Path(folder))


def _offload(page: Page, folder: Path) -> None:
    import torch
    from gpu_parts import Guided, family, planned, random_network
    from safetensors.torch import save_file

    model = page.scale.models[0]
    found, file = family(page, model), folder / "dit.safetensors"
    network = random_network(found["dit"], page.device, page.dtype).requires_grad_(False)
    save_file({name: value.cpu() for name, value in network.state_dict().items()}, file)
    del network
    page.note("The DiT alone: with offload=model the text encoder and the VAE are opened for each video as well.")
    rows: dict[str, tuple[float, float]] = {}
    outputs: list[Tensor] = []
    for how in ("none", "model", "block"):
        page.free()
        start, began = page.held(), page.now()
        dit = _opened(found["dit"], file, page, how)
        loading = page.now() - began
        step = Guided(page, dit, model.shape, keep=how != "block")
        peak = page.peak(lambda step=step: outputs.append(step())) - start
        [seconds], _ = page.in_turns([step])
        rows[how] = seconds, loading
        apart = _apart(torch.max, outputs[-1], outputs[0])
        page.row("offload", offload=how, **{"s a step": seconds, "beside none": seconds / rows["none"][0],
                 "s to open, each video": 0.0 if how == "none" else loading, "difference": apart})  # fmt: skip
        if how != "model":
            page.beside_plan(f"DiT {model.name}, offload={how}",
                             planned(page, found, model.shape, page.dtype, how)["denoise"], peak)  # fmt: skip
        if not apart <= TOLERANCE:
            page.fail(f"offload={how}: {apart:.1e} of the largest value from offload=none")
        del dit, step


def _opened(spec: dict[str, Any], file: Path, page: Page, how: str) -> Any:
    """The network of a file as `Part.load` opens it: blocks' weights stay mapped where they come one by one."""
    import torch
    from safetensors.torch import load_file

    from videodit.accel.offload import stream
    from videodit.models.build import rebuild

    with torch.device("meta"):
        dit = rebuild(spec["architecture"], spec["arguments"])
    home = tuple(f"{name}." for name in dit.STACKS) if how == "block" else ()
    state = {name: x if name.startswith(home) and home else x.to(page.device) for name, x in load_file(file).items()}
    dit.load_state_dict(state, strict=True, assign=True)
    for blocks in dit.stacks().values() if home else ():
        stream(blocks, page.device, page.dtype, dit.KEEP_FP32)
    return dit.requires_grad_(False).eval()


SECTIONS: dict[str, Callable[[Any], None]] = {
    section.__name__: section for section in (tests, kernels, models, training, packs, offload)
}

if __name__ == "__main__":
    main(*sys.argv[1:])
