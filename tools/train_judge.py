"""Trains the judge of the toy world: `python tools/train_judge.py [steps=3000] [out=data/judge.safetensors] ...`.

Writes the weights as float16 every few minutes, and at the end with the scores on rendered clips that it never saw.
On a machine with other work, OMP_WAIT_POLICY=PASSIVE keeps idle threads from spinning.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from videodit.checkpoint.store import load_tensors, save_tensors
from videodit.shapes import VideoShape
from videodit.toy.judge import Judge, vocabulary
from videodit.toy.train_judge import train_judge, validate

OPTIONS = {
    "steps": 3000, "batch": 32, "lr": 3e-3, "seed": 1, "width": 32, "maps": 2, "features": 64,
    "threads": 2, "count": 1000, "every": 200.0, "init": "", "out": "data/judge.safetensors",
}  # fmt: skip
HELD_OUT = 1000  # the seed of the scenes to validate on
VALIDATION = ((17, 64, 64), (1, 64, 64), (9, 64, 64), (33, 64, 64), (17, 96, 64), (17, 64, 96))


def main(arguments: list[str]) -> None:
    """Train, validate, save."""
    given = dict(argument.split("=", 1) for argument in arguments)
    if unknown := given.keys() - OPTIONS.keys():
        sys.exit(f"unknown {', '.join(sorted(unknown))}: it knows {', '.join(OPTIONS)}")
    chosen = {key: type(default)(given.get(key, default)) for key, default in OPTIONS.items()}
    torch.set_num_threads(chosen["threads"])
    torch.manual_seed(chosen["seed"])
    judge = Judge(words=vocabulary(), width=chosen["width"], maps=chosen["maps"], features=chosen["features"])
    if chosen["init"]:  # weights to go on from
        judge.load_state_dict({name: t.float() for name, t in load_tensors(Path(chosen["init"]))[0].items()})
    print(f"{sum(p.numel() for p in judge.parameters()):,} parameters", flush=True)
    began = saved = time.monotonic()
    smooth: dict[str, float] = {}

    def report(step: int, average: Judge, losses: Mapping[str, float]) -> None:
        nonlocal saved
        smooth.update({label: 0.98 * smooth.get(label, value) + 0.02 * value for label, value in losses.items()})
        if step % 50 == 0:
            numbers = "  ".join(f"{label} {value:.3f}" for label, value in smooth.items())
            print(f"step {step}/{chosen['steps']}  {time.monotonic() - began:.0f}s  {numbers}", flush=True)
        if time.monotonic() - saved > chosen["every"]:
            saved = time.monotonic()
            save(Path(chosen["out"]), average, {"step": step})

    training = {key: chosen[key] for key in ("steps", "batch", "lr", "seed")}
    best = train_judge(judge, **training, report=report)
    save(Path(chosen["out"]), best, training)
    save(Path(chosen["out"]), best, training | {"scores": scores(best, chosen["count"])})


def save(path: Path, judge: Judge, about: Mapping[str, object]) -> None:
    """Write the weights and what made them."""
    tensors = {name: tensor.half() for name, tensor in judge.state_dict().items()}
    save_tensors(path, tensors, {"architecture": "judge", "arguments": judge.arguments, "training": dict(about)})


def scores(judge: Judge, count: int) -> dict[str, dict[str, float]]:
    """Accuracy by shape and label on `count` one-body clips, printed with the words that are confused."""
    table = {}
    for bodies in (1, 2):
        for frames, height, width in VALIDATION if bodies == 1 else VALIDATION[:1]:
            shape = VideoShape(frames, height, width)
            result = validate(judge, shape, clips=count, seed=HELD_OUT, split="any", bodies=bodies)
            table[f"{shape}, bodies {bodies}"] = result.accuracy
            print(shape, bodies, {label: round(100 * value, 2) for label, value in result.accuracy.items()}, flush=True)
            print("   ", [(*pair, times) for pair, times in result.confusions.most_common(12)])
            print("   ", result.mistakes[:12], flush=True)
    return table


if __name__ == "__main__":
    main(sys.argv[1:])
