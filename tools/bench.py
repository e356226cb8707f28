"""How fast this machine trains and runs the toy: `python tools/bench.py [seconds=3]`, a table, nothing written.

Each row is the best of the tries that fit into `seconds`, so what else runs on the machine shows as little as possible;
compare rows of one run, and runs only as ratios. "share" is the matmuls' floating-point operations a second over the
fp32 matmul rate measured just before the row.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable

import torch

from videodit.cli import typed
from videodit.models.pack import Context, Ragged, Times, patchify
from videodit.nn.kernels import KERNELS, Use, attend
from videodit.toy.world import ToyWorld
from videodit.train.machine import matmul_rate
from videodit.train.optim import Optimizer

CPU = torch.device("cpu")


def best(work: Callable[[], object], seconds: float) -> float:
    """Shortest time of one call, in seconds."""
    work()
    shortest, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        work()
        shortest = min(shortest, time.perf_counter() - started)
    return shortest


def row(name: str, *values: str) -> None:
    """Print a line of the table."""
    print(f"{name:<52}" + "".join(f"{value:>16}" for value in values), flush=True)


def training(
    dit: torch.nn.Module, frames: tuple[int, ...], dtype: torch.dtype, text_dim: int, optimizer: Optimizer | None
) -> Callable[[], None]:
    """One forward and backward of the DiT on 48 clips of these latent frames, and by choice the optimizer's update."""
    torch.manual_seed(0)
    latents = sorted((torch.randn(16, frames[i % len(frames)], 8, 8) for i in range(48)), key=lambda x: x.shape[1])
    pack, lengths = patchify(latents, dit.patch), tuple(9 + i % 11 for i in range(48))
    context = Context({"text": Ragged(torch.randn(sum(lengths), text_dim), lengths)})
    times = Times.per_clip(torch.rand(48, dtype=torch.float64))
    target = torch.randn(len(pack.tokens), dit.head.out_features)

    def step() -> None:
        amp = torch.autocast("cpu", dtype) if dtype != torch.float32 else contextlib.nullcontext()
        with amp:
            out = dit(pack, times, dit.prepare(context, pack))
        (out.float() - target).square().mean().backward()
        if optimizer is not None:
            optimizer.step(0)
        dit.zero_grad(set_to_none=True)

    step.clips = len(latents)
    step.flops = 3 * sum(dit.flops(count, 14) for count in pack.lengths)
    return step


def main(seconds: float) -> None:
    """Print the table."""

    settings = typed.settings("train", [])
    dit, vae = settings.model(), settings.vae()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    row("training step of the toy DiT (forward, backward)", "clips/s", "GFLOP/s", "share of fp32")
    muon = settings.optim.make()(dit, curve=lambda step: 1.0)
    for dtype in (torch.float32, torch.bfloat16):
        for name, frames in (("17 frames", (5,)), ("1 to 17 frames mixed", (1, 3, 5, 5))):
            for optimizer, suffix in ((None, ""), (muon, ", Muon")):
                rate = matmul_rate(CPU, torch.float32, seconds=1.0)
                step = training(dit, frames, dtype, settings.text.arguments["dim"], optimizer)
                took = best(step, seconds)
                speed = step.flops / took
                values = f"{step.clips / took:.1f}", f"{speed / 1e9:.0f}", f"{speed / rate:.2f}"
                row(f"  {name}, {dtype}{suffix}", *values)
    row("\nattention, 48 clips x 80 tokens, 4 heads of 64", "ms forward")
    q, lengths = torch.randn(48 * 80, 4, 64), (80,) * 48
    with torch.no_grad():
        for kernel in KERNELS:
            reason = Use(CPU, torch.float32, 64, grad=False).refusal(kernel)
            if reason:
                row(f"  {kernel}", "–", f"  {reason}")
                continue
            took = best(lambda k=kernel: attend(q, q, q, lengths, lengths, kernel=k), 1.0)
            row(f"  {kernel}", f"{1e3 * took:.1f}")
        world = ToyWorld(seed=0, size=64, frames=17, height=64, width=64, fps=8.0)
        clips = torch.stack([sample.clip for sample in world.__getitems__(range(16))])
        row("\ntoy world and VAE, 17x64x64", "clips/s")
        row("  rendering", f"{16 / best(lambda: world.__getitems__(range(16)), seconds):.1f}")
        row("  VAE encoding", f"{16 / best(lambda: vae.encode(clips), seconds):.1f}")
        latents = vae.encode(clips[:4])
        row("  VAE decoding", f"{4 / best(lambda: vae.decode(latents), seconds):.1f}")


if __name__ == "__main__":
    arguments = dict(word.split("=", 1) for word in sys.argv[1:])
    main(float(arguments.get("seconds", 3)))
