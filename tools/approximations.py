"""What the approximations cost and give: `python tools/approximations.py [model=toy] [prompts=8] [steps=50]`.

The step cache at several thresholds, 8-bit weights and bfloat16 beside the exact video of the same seed: PSNR of the
clips (mean over the prompts), seconds of denoising beside the exact ones, steps skipped. For a model on a CPU.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import time
from typing import Any

import torch
from torch import Tensor

import videodit
from videodit.generate import Pipe
from videodit.toy.grammar import evaluation_prompts


def main(arguments: list[str]) -> None:
    """Print the table."""
    given = {"model": "toy", "prompts": "8", "steps": "50"} | dict(word.split("=", 1) for word in arguments)
    prompts = [text for text, _ in evaluation_prompts("ordinary", int(given["prompts"]), 0)]
    steps = int(given["steps"])
    exact = videodit.load(given["model"], device="cpu")
    make(exact, prompts[:1], 1)  # libraries get warm
    expected, seconds, _ = make(exact, prompts, steps)
    print(f"{given['model']}, {len(prompts)} prompts, {steps} steps: {seconds:.1f} s")
    print(f"{'':<18}{'PSNR, dB':>9}{'time':>7}   what it says")
    for threshold in (0.02, 0.05, 0.1, 0.2):
        report(f"step_cache={threshold}", expected, seconds, make(exact, prompts, steps, step_cache=threshold))
    kinds: dict[str, dict[str, Any]] = {"dtype=bfloat16": {"dtype": torch.bfloat16}}
    if importlib.util.find_spec("torchao"):
        kinds["quantize=int8"] = {"quantize": "int8"}
    for name, how in kinds.items():
        pipe = videodit.load(given["model"], device="cpu", **how)
        make(pipe, prompts[:1], 1)
        report(name, expected, seconds, make(pipe, prompts, steps))


class Heard(logging.Handler):
    """Keeps what the library says."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one message."""
        self.lines.append(record.getMessage())


def make(pipe: Pipe, prompts: list[str], steps: int, **keys: Any) -> tuple[list[Tensor], float, list[str]]:
    """Clips, seconds of denoising, and what was told."""
    heard, logger = Heard(), logging.getLogger("videodit.generate")
    logger.addHandler(heard)
    logger.setLevel(logging.INFO)
    requests = [pipe.request(prompt, seed=number, steps=steps, **keys) for number, prompt in enumerate(prompts)]
    start = time.perf_counter()
    denoised = pipe.denoise(requests)
    seconds = time.perf_counter() - start
    logger.removeHandler(heard)
    return [pipe.decode(one).clip for one in denoised], seconds, heard.lines


def report(name: str, expected: list[Tensor], seconds: float, made: tuple[list[Tensor], float, list[str]]) -> None:
    """A line."""
    clips, took, said = made
    errors = [(a - b).square().mean().item() / 4 for a, b in zip(expected, clips, strict=True)]
    psnr = sum(-10 * torch.tensor(max(error, 1e-12)).log10().item() for error in errors) / len(errors)
    print(f"{name:<18}{psnr:>9.1f}{took / seconds:>7.2f}   {' '.join(said)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
