"""How near `videodit plan` comes to what happens: `python tools/check_plan.py [case=N]`.

Each case is a model with random weights of real sizes and a request. In a process of its own the plan is made first,
then the request is run; the most memory (the kernel's high-water mark, weights and libraries included) and the time of
denoising and of decoding are compared with the plan. The rates that the times come from were measured on other shapes
(`plan/machine.py`). With nothing else on the machine; a quarter of an hour.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import videodit
from videodit.checkpoint.family import settings
from videodit.checkpoint.parts import FILES, TOKENIZERS
from videodit.checkpoint.resolve import read_family
from videodit.checkpoint.store import save_model, write_json
from videodit.decode import Way
from videodit.generate.admission import job_of, setup_of
from videodit.models.build import rebuild
from videodit.models.text import train_tokenizer
from videodit.plan.generation import Planner, base_memory
from videodit.plan.machine import GIB, Limit, rates, resident

PROMPT = "a large red ball rolls slowly to the right on a gray ground while two small blue cubes spin behind it"
SMALL_TEXT = {"vocabulary": 256, "dim": 4096, "layers": 2, "heads": 64, "head_dim": 64, "ffn": 10240}


@dataclass(frozen=True)
class Case:
    """A bundled model, or a public one with some other sizes; how it is opened; what is asked of it."""

    model: str
    request: dict[str, Any]
    chunk: int = 4
    dit: dict[str, Any] = field(default_factory=dict)
    offload: str = "none"

    def __str__(self) -> str:
        changed = "".join(f" {key}={value}" for key, value in self.dit.items())
        asked = " ".join(f"{key}={value}" for key, value in self.request.items())
        return f"{self.model}{changed} {asked} chunk={self.chunk} offload={self.offload}"


CASES = (
    Case("toy", {"size": "64x64", "frames": 17, "steps": 20}),
    Case("toy", {"size": "96x64", "frames": 49, "steps": 20}),
    Case("wan2.1-t2v-1.3b", {"size": "416x240", "frames": 17, "steps": 1}, offload="model"),
    Case("wan2.1-t2v-1.3b", {"size": "416x240", "frames": 33, "steps": 2}, chunk=1, dit={"layers": 8}),
    Case("wan2.2-ti2v-5b", {"size": "512x512", "frames": 9, "steps": 2}, dit={"layers": 4}),
)


def main(arguments: list[str]) -> None:
    """Run all cases, or measure one."""
    if arguments and arguments[0] == "measure":
        print(json.dumps(measure(CASES[int(arguments[1])], arguments[2])))
        return
    chosen = [int(word.partition("=")[2]) for word in arguments] or range(len(CASES))
    print(f"{'':<9}{'planned':>10}{'measured':>10}{'ratio':>7}{'planned':>11}{'measured':>10}{'ratio':>7}")
    for number in chosen:
        print(CASES[number], flush=True)
        with tempfile.TemporaryDirectory() as folder:
            model = CASES[number].model if CASES[number].model == "toy" else write(CASES[number], Path(folder))
            command = [sys.executable, __file__, "measure", str(number), str(model)]
            out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        for name, (memory, peak, seconds, took) in json.loads(out.splitlines()[-1]).items():
            sizes = f"{memory / GIB:>8.2f} G{peak / GIB:>8.2f} G{memory / peak:>7.2f}"
            print(f"{name:<9}{sizes}{seconds:>9.1f} s{took:>8.1f} s{seconds / took:>7.2f}", flush=True)


def write(case: Case, folder: Path) -> Path:
    """A model of these sizes, random."""
    family = read_family(case.model)
    family["dit"]["arguments"].update(case.dit)
    family["text"]["arguments"].update(SMALL_TEXT)
    for part in ("dit", "text", "vae"):
        torch.manual_seed(0)
        with torch.no_grad():
            network = rebuild(family[part]["architecture"], family[part]["arguments"])
            save_model(folder / FILES[part], network)
    train_tokenizer([PROMPT], folder / TOKENIZERS["text"], vocabulary=256)
    write_json(folder / "pipeline.json", settings(case.model, exact=False))
    return folder


def measure(case: Case, model: str) -> dict[str, tuple[float, float, float, float]]:
    """For each stage and the whole: bytes planned and measured, seconds planned and measured."""
    pipe = videodit.load(model, device="cpu", offload=case.offload).with_options(decoding=Way(case.chunk))
    request = pipe.request(PROMPT, **case.request)
    speed = rates(pipe.parts.device, pipe.parts.dtype)
    planner = Planner(pipe.parts, Limit("none", 2**60), base=base_memory(pipe.parts.device, resident()), rates=speed)
    text, denoise, decode = planner.plan(job_of(pipe, [request]), setup_of(pipe)).stages
    for part in ("text", "dit") if case.offload == "none" else ("text",):
        pipe.parts.network(part)  # the times are of computing: without loading libraries and weights
    [denoised], first, one = watched(lambda: pipe.denoise([request]))
    pipe.parts.network("vae")  # where one is open at a time the DiT is closed now, not while it is watched
    _, second, two = watched(lambda: pipe.decode(denoised))
    planned = max(text.memory, denoise.memory)
    return {
        "denoise": (planned, first, text.seconds + denoise.seconds, one),
        "decode": (decode.memory, second, decode.seconds, two),
        "whole": (
            *(max(planned, decode.memory), max(first, second)),
            *(text.seconds + denoise.seconds + decode.seconds, one + two),
        ),
    }


def watched(run: Callable[[], Any]) -> tuple[Any, int, float]:
    """Its result, the most bytes that the process held, and seconds."""
    Path("/proc/self/clear_refs").write_text("5")
    start = time.perf_counter()
    out = run()
    took = time.perf_counter() - start
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return out, int(line.split()[1]) * 1024, took


if __name__ == "__main__":
    main(sys.argv[1:])
