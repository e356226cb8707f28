"""What several processes do in the tests: a few steps of a small training, on a mesh of some shape.

Run as a process: python -m tests.parallel.cases RANK RANKS PORT FOLDER NAME…, where the name "long" is a run of 60
steps with records on disk, for being killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from tests.train import tiny
from tests.train.runs import Memory
from videodit.checkpoint.store import load_tensors, save_tensors
from videodit.config import Launch
from videodit.data.batches import PackBatches
from videodit.data.packing import Share, Work
from videodit.flow.path import PATHS
from videodit.models.dit import DiT
from videodit.models.text import TextEncoder, Tokenizer, train_tokenizer
from videodit.parallel import sequence
from videodit.parallel.mesh import Mesh
from videodit.parallel.shard import gathered, local, parallelize
from videodit.parallel.store import Checkpoints
from videodit.shapes import LatentShape
from videodit.track.jsonl import Jsonl
from videodit.track.tracker import Tracker
from videodit.train.adapter import LoRA
from videodit.train.dit_step import FlowObjective, TrainingTimes
from videodit.train.ema import EMA
from videodit.train.loop import Run
from videodit.train.machine import Compute
from videodit.train.optim import adamw, muon
from videodit.train.settings import Loop

SHAPES = ((3, 4, 4), (1, 4, 6), (2, 6, 4), (1, 2, 2), (5, 6, 6), (1, 6, 4), (2, 2, 6))  # 1 to 45 tokens
STEPS = 60  # of the long run
COLOURS = ("red", "green", "blue")


class Clips:
    """Latents of mixed shapes."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        generator = torch.Generator().manual_seed(index)
        latents = torch.randn(tiny.CHANNELS, *SHAPES[index % len(SHAPES)], generator=generator)
        return latents.half(), "a ball" if index % 5 else f"a large {COLOURS[index % 3]} ball rolls"

    def shape(self, index: int) -> LatentShape:
        return LatentShape(*SHAPES[index % len(SHAPES)])


@dataclass(frozen=True)
class Case:
    """A mesh of these sizes, and what else is not as usual."""

    sizes: tuple[int, int, int]
    most: int | None = None
    recompute: str = "nothing"
    wrong: bool = False  # tokens of a clip are taken for those of its neighbour
    time: str = "adaln_single"
    adapter: bool = False  # trains, and the DiT does not


CASES = {
    "fsdp": Case((1, -1, 1)),
    "muon": Case((1, -1, 1)),
    "muon, hsdp": Case((-1, 1, 1)),
    "muon, both": Case((2, 2, 1)),
    "fsdp, small packs, recompute": Case((1, -1, 1), most=40, recompute="blocks"),
    "fsdp, recompute cheap": Case((1, -1, 1), recompute="cheap"),
    "fsdp, an adapter": Case((1, -1, 1), adapter=True),
    "hsdp": Case((-1, 1, 1)),
    "context": Case((1, 1, -1)),
    "context, recompute": Case((1, 1, -1), recompute="blocks", most=40),
    "context, time as a state": Case((1, 1, -1), time="cross"),
    "context, time as a token": Case((1, 1, -1), time="in_context"),
    "a wrong split": Case((1, 1, -1), wrong=True),
    "hsdp of two": Case((2, 2, 1)),
    "fsdp and context": Case((1, 2, 2)),
    "hsdp and context": Case((2, 1, 2)),
}


def awake(time: str = "adaln_single") -> nn.Module:
    """A DiT every part of which has a gradient: nothing starts at zero."""
    dit, generator = tiny.dit(time=time), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in dit.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return dit


def words(folder: Path) -> Tokenizer:
    """The tokenizer of all processes, made once."""
    path = folder / "tokenizer.json"
    if not path.exists():
        train_tokenizer([Clips()[i][1] for i in range(24)], path, vocabulary=64)
    return Tokenizer(path=path)


def training(
    folder: Path, mesh: Mesh, case: Case, *, steps: int = 10, save_every: int = 99, words_of: Path | None = None
) -> Run:
    """A run of a DiT and its text encoder, ready to `fit`."""
    text, dit, lora = tiny.text(), awake(case.time), None
    if case.adapter:
        torch.manual_seed(4)
        lora = LoRA(rank=3, alpha=3.0, targets=DiT.ADAPTABLE, dora=False, rslora=False)
        lora.inject(dit)
    objective = FlowObjective(
        dit=dit,
        text_encoders=[TextEncoder("text", words(words_of or folder.parent), text)],
        path=PATHS["rectified"](prediction="velocity"),
        times=TrainingTimes(mean=0.0, std=1.0, shift={"base_tokens": 12, "base_shift": 1.0}),
        drop=0.1,
        seed=0,
        pipeline={"base": {"model": "tiny", "weights": {}}} if case.adapter else {},
        frozen={},
        adapter=lora,
        device=mesh.device,
    )
    parallelize(objective.module, mesh, recompute=case.recompute, compile=False, offload=False,
                precision=torch.float32)  # fmt: skip
    batches = PackBatches(
        cache=Clips(), tokens=150, most=case.most, patch=(1, 2, 2), image=0.2, whole=0.5, seed=0,
        work=Work(1.0, 0.01), share=Share(mesh.data_rank, mesh.data_ranks),
    )  # fmt: skip
    return Run(
        folder=folder,
        objective=objective,
        batches=lambda start, stop: (batches[step] for step in range(start, stop)),
        optimizer=adamw(objective.module, lr=1e-3, text_lr=1e-3, betas=(0.9, 0.95),
                        weight_decay=0.1, curve=lambda step: 1.0),
        ema=EMA(module=objective.module, decay=0.9),
        checkpoints=Checkpoints(folder=folder / "checkpoints", keep=2, mesh=mesh),
        tracker=Memory(),
        settings=Loop(steps=steps, clip_norm=0.5, max_bad=1, log_every=1, save_every=save_every, sample_every=99),
        compute=Compute(torch.float32),
        config={},
        mesh=mesh,
        sample=lambda step: None,
    )  # fmt: skip


def outcome(run: Run) -> tuple[dict[str, list[float]], dict[str, Tensor]]:
    """Fit a run -> what it tracked, and its first gradients, last weights and averages, whole."""
    gradients: dict[str, Tensor] = {}
    norms = run.optimizer.norms

    def watched(mesh: Mesh) -> dict[str, float]:
        found = norms(mesh)
        if run.step == 0:
            grads = {f"grad/{n}": p.grad.clone() for n, p in run.optimizer.parameters.items() if p.grad is not None}
            gradients.update(gathered(grads, mesh))
        return found

    run.optimizer.norms = watched
    run.fit()
    weights = gathered(run.objective.module.state_dict(), run.mesh)
    averages = gathered({f"ema/{name}": value for name, value in run.ema.averages.items()}, run.mesh)
    tracker: Any = run.tracker
    names = sorted({name for _, values in tracker.records for name in values if "loss" in name or "norm" in name})
    return {name: tracker.column(name) for name in names}, gradients | weights | averages


def wrong_overlaps(lengths: tuple[int, ...], start: int, stop: int) -> list[int]:
    """The planted error: where a run holds two clips, one token of the first counts as the second's."""
    found = sequence.right(lengths, start, stop)
    here = [clip for clip, length in enumerate(found) if length]
    if len(here) > 1 and found[here[0]] > 1:
        found[here[0]] -= 1
        found[here[1]] += 1
    return found


def muon_steps(mesh: Mesh) -> dict[str, Tensor]:
    """Weights and momenta after three updates by gradients that are the same numbers however they are sharded."""
    module = nn.ModuleDict({"dit": awake(), "block": nn.ModuleList([nn.Linear(7, 5) for _ in range(3)])})
    nn.init.normal_(module["block"][0].weight, generator=torch.Generator().manual_seed(1))
    parallelize(module, mesh, recompute="nothing", compile=False, offload=False, precision=torch.float32)
    rates = {"lr": 1e-3, "text_lr": 1e-3, "muon_lr": 0.01}
    optimizer = muon(module, **rates, betas=(0.9, 0.95), weight_decay=0.1, curve=lambda step: 1.0)
    for step in range(3):
        for number, (name, parameter) in enumerate(optimizer.parameters.items()):
            whole = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(100 * step + number))
            if isinstance(parameter, DTensor):
                whole = distribute_tensor(whole, parameter.device_mesh, parameter.placements)
            optimizer.parts[name].grad = local(whole)
        optimizer.step(step)
    return gathered(module.state_dict(), mesh) | gathered(optimizer.state(), mesh)


def work(rank: int, ranks: int, port: int, folder: Path, names: Sequence[str]) -> None:
    """What one process does: the cases one after the other."""
    launch = Launch(rank, ranks, rank, "127.0.0.1", port)
    if list(names) == ["long"]:
        mesh = Mesh(launch=launch, device=torch.device("cpu"), sizes=(1, -1, 1))
        run = training(folder / "run", mesh, CASES["fsdp"], steps=STEPS, save_every=4, words_of=folder)
        run.tracker = Jsonl(path=folder / "run" / "metrics.jsonl") if mesh.main else Tracker()
        run.fit()
        return
    for name in names:
        case = CASES[name]
        mesh = Mesh(launch=launch, device=torch.device("cpu"), sizes=case.sizes if ranks > 1 else (1, 1, 1))
        if name.startswith("muon"):
            keep(folder, f"{name} {ranks}", {}, muon_steps(mesh), mesh)
            continue
        sequence.right = sequence.overlaps
        sequence.overlaps = wrong_overlaps if case.wrong else sequence.right
        numbers, tensors = outcome(training(folder / f"{name} {ranks}", mesh, case, words_of=folder))
        sequence.overlaps = sequence.right
        keep(folder, f"{name} {ranks}", numbers, tensors, mesh)


def keep(folder: Path, name: str, numbers: dict, tensors: dict[str, Tensor], mesh: Mesh) -> None:
    """Write what a case came to."""
    if mesh.main:
        save_tensors(folder / f"{name}.safetensors", tensors, numbers)


def start(folder: Path, ranks: int, names: Sequence[str]) -> list[subprocess.Popen]:
    """The processes, started."""
    words(folder)
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.parallel.cases"]
    return [
        subprocess.Popen([*command, str(rank), str(ranks), str(port), str(folder), *names], stderr=subprocess.PIPE,
                         env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=Path(__file__).parents[2])
        for rank in range(ranks)
    ]  # fmt: skip


def together(folder: Path, ranks: int, names: Sequence[str]) -> Iterator[tuple[str, dict, dict]]:
    """Run the cases on so many processes -> name, numbers and tensors of each."""
    processes = start(folder, ranks, names)
    told = [process.communicate(timeout=300)[1].decode() for process in processes]
    assert all(process.returncode == 0 for process in processes), "\n".join(told)[-4000:]
    for name in names:
        tensors, numbers = load_tensors(folder / f"{name} {ranks}.safetensors")
        yield name, numbers, tensors


if __name__ == "__main__":
    torch.set_num_threads(1)
    work(*map(int, sys.argv[1:4]), Path(sys.argv[4]), sys.argv[5:])
