"""How much of the machine a training step uses: `python tools/bench_step.py [tokens=4096] [dim=512] [layers=12]
[shape=5x16x16] [steps=5] [device=cpu] [precision=fp32,bf16] [compile=false] [recompute=nothing]`.

Steps of a DiT (50 million parameters as it stands) with its optimizer and averages, on packs of mixed shapes about as
large as `shape`, and square matmuls of 1024 (8192 on a GPU) of the same precision, taking turns of equal length. Told:
the flops of the matmuls of forward and backward (three times those of forward, nothing for what is computed again) a
second, as a share of the matmuls' own rate and, on an H100 or H200, of 989 TFLOP/s.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from videodit.cli import typed
from videodit.config import Launch
from videodit.data.batches import LatentBatch
from videodit.flow.path import PATHS
from videodit.models.text import train_tokenizer
from videodit.parallel.mesh import Mesh
from videodit.parallel.shard import parallelize
from videodit.parallel.store import Checkpoints
from videodit.track.tracker import Tracker
from videodit.train.dit_step import FlowObjective, TrainingTimes
from videodit.train.ema import EMA
from videodit.train.loop import Run
from videodit.train.machine import PRECISIONS, Compute, keep_freed_memory, peak_memory
from videodit.train.optim import adamw
from videodit.train.settings import Loop

DEFAULTS = {"tokens": "4096", "dim": "512", "layers": "12", "shape": "5x16x16", "steps": "5", "device": "cpu",
            "precision": "fp32,bf16", "compile": "false", "recompute": "nothing", "heads": "", "ffn": ""}  # fmt: skip
CAPTION = "a large red ball rolls slowly to the right on a gray ground"
PEAK = 989e12  # dense bfloat16 flops a second of an H100 or H200


def packed(given: dict[str, str]) -> LatentBatch:
    """Clips of the shape, of half as many frames and of images, up to the number of tokens."""
    frames, height, width = map(int, given["shape"].split("x"))
    shapes = [(frames, height, width), ((frames + 1) // 2, height, width), (1, height, width), (frames, width, height)]
    batch, used = LatentBatch([], [], []), 0
    while used < int(given["tokens"]):
        t, h, w = shapes[len(batch.latents) % len(shapes)]
        batch.latents.append(torch.randn(16, t, h, w))
        batch.captions.append(CAPTION)
        batch.indices.append(len(batch.indices))
        used += t * h * w // 4
    return batch


def training(folder: Path, given: dict[str, str], device: torch.device, precision: torch.dtype) -> Run:
    """A run ready for `advance`."""
    dim = int(given["dim"])
    heads = given["heads"] or max(1, dim // 64)
    sizes = [f"model.dim={dim}", f"model.layers={given['layers']}", f"model.heads={heads}",
             f"model.ffn={given['ffn'] or 4 * dim}"]  # fmt: skip
    settings = typed.settings("train", sizes)
    torch.manual_seed(0)
    tokenizer = train_tokenizer([CAPTION], folder / "tokenizer.json", vocabulary=64)
    objective = FlowObjective(
        dit=settings.model().to(device), text=settings.text().to(device), tokenizer=tokenizer,
        path=PATHS["rectified"](prediction="velocity"), drop=0.1, seed=0, pipeline={}, frozen={},
        times=TrainingTimes(mean=0.0, std=1.0, shift=1.0), device=device,
    )  # fmt: skip
    mesh = Mesh(launch=Launch(), device=device, sizes=(1, 1, 1))
    parallelize(objective.module, mesh, recompute=given["recompute"], compile=given["compile"] == "true", offload=False,
                precision=precision)  # fmt: skip
    return Run(
        folder=folder, objective=objective, batches=lambda start, stop: iter(()), tracker=Tracker(), config={},
        optimizer=adamw(objective.module, lr=1e-4, text_lr=1e-4, betas=(0.9, 0.95), weight_decay=0.0,
                        curve=lambda step: 1.0),
        ema=EMA(module=objective.module, decay=0.99), compute=Compute(precision), mesh=mesh, sample=lambda step: None,
        checkpoints=Checkpoints(folder=folder / "checkpoints", keep=1, mesh=mesh),
        settings=Loop(steps=1, clip_norm=1.0, max_bad=5, log_every=10**9, save_every=10**9, sample_every=10**9),
    )  # fmt: skip


def matmuls(a: Tensor, b: Tensor, seconds: float) -> float:
    """Flops a second, over all of these seconds as a step's are."""
    count, began = 0, time.perf_counter()
    while time.perf_counter() < began + seconds:
        for _ in range(10):
            out = a @ b
        out[0, 0].item()
        count += 10
    return 2 * count * len(a) ** 3 / (time.perf_counter() - began)


def main() -> None:
    """Print a line for each precision."""
    given = DEFAULTS | dict(argument.split("=", 1) for argument in sys.argv[1:])
    device = torch.device(given["device"])
    if device.type == "cpu":
        keep_freed_memory()  # as `videodit train` does
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    size = 8192 if device.type == "cuda" else 1024  # as train.machine measures
    for kind in given["precision"].split(","):
        precision = PRECISIONS[kind]
        with tempfile.TemporaryDirectory() as folder:
            run, batch = training(Path(folder), given, device, precision), packed(given)
            a, b = (torch.randn(size, size, device=device, dtype=precision) for _ in range(2))
            run.advance([batch])  # warms up
            run.advance([batch])
            rates, seconds, work = [], [], {}
            for _ in range(int(given["steps"])):
                began = time.perf_counter()
                work, _ = run.advance([batch])
                seconds.append(time.perf_counter() - began)
                rates.append(matmuls(a, b, seconds[-1]))
        count = sum(p.numel() for p in run.objective.dit.parameters()) / 1e6
        rate, mine = median(rates), work["flops"] / median(seconds)
        speed = work["tokens"] / median(seconds)
        peak = f", {100 * mine / PEAK:.1f} % of 989 TFLOP/s" if device.type == "cuda" else ""
        print(
            f"{name}, {kind}: {count:.0f} M parameters, {len(batch.latents)} clips, {work['tokens']:.0f} tokens, "
            f"{median(seconds):.3f} s a step, {speed:.0f} tokens/s, {mine / 1e12:.4g} TFLOP/s, "
            f"matmul {rate / 1e12:.4g}: {mine / rate:.2f}{peak}; {peak_memory(device) / 2**30:.2f} GiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
