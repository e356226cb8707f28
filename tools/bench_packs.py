"""Useful tokens a second of packs, of buckets and of one clip at a time: `python tools/bench_packs.py [ranks=2]
[clips=../shared/clips] [sides=128,192] [budget=4096] [most=0] [model=toy] [optim=muon] [rounds=3]
[kinds=packs,buckets]`.

The same clips, the same number of tokens a step at most, the same training step (`Run.advance`; Muon is what a DiT is
trained with unless told otherwise). All steps of all kinds take turns in a random order, anew each round, because a
machine's speed changes from minute to minute. The kinds are those of tools/pack_kinds.py.

200 clips of 12 shapes, or what `clips=` holds, encoded by the bundled VAE at several lengths and at the areas of
squares with these sides. Also told: how equal the processes' work is (largest over mean, by step and over the epoch),
and that every clip is used once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from socket import socket

import numpy as np
import torch
from pack_kinds import CAPTIONS, KINDS, Stored, epoch
from torch import Tensor

from videodit.checkpoint.store import load_tensors, save_tensors
from videodit.cli import typed
from videodit.config import Launch, launch
from videodit.data.batches import PackBatches
from videodit.data.datasets import VideoFolder
from videodit.data.packing import Share
from videodit.errors import InputError
from videodit.flow.path import PATHS
from videodit.models.text import Tokenizer, train_tokenizer
from videodit.parallel.mesh import Mesh
from videodit.parallel.shard import parallelize
from videodit.parallel.store import Checkpoints
from videodit.shapes import Triple
from videodit.track.tracker import Tracker
from videodit.train.build import work_of
from videodit.train.dit_step import FlowObjective, TrainingTimes
from videodit.train.ema import EMA
from videodit.train.init import find_vae, open_vae
from videodit.train.loop import Run
from videodit.train.machine import Compute, keep_freed_memory
from videodit.train.settings import Loop, Train

SHAPES = [(t, h, w) for t in (1, 3, 5, 9) for h, w in ((8, 8), (8, 12), (12, 12))]  # 16 to 324 tokens
LENGTHS = (1, 9, 17, 33)  # frames of a real clip
DEFAULTS = {"ranks": "1", "clips": "", "sides": "128,192", "budget": "4096", "model": "toy", "optim": "muon",
            "rounds": "3", "most": "0", "kinds": "packs,buckets,gathered,single"}  # fmt: skip
WARM = 3  # steps of each kind, before any is timed


def made_up() -> list[Tensor]:
    """200 clips of 12 shapes, more short ones than long."""
    rng = np.random.default_rng(0)
    weights = np.array([1 / shape[0] ** 0.5 for shape in SHAPES])
    places = rng.choice(len(SHAPES), size=200, p=weights / weights.sum())
    places[: len(SHAPES)] = np.arange(len(SHAPES))
    return [
        torch.randn(16, *SHAPES[place], generator=torch.Generator().manual_seed(i)) for i, place in enumerate(places)
    ]


def real(root: Path, areas: list[int], patch: Triple) -> list[Tensor]:
    """Every video of a folder at several lengths and its own proportions, through the bundled VAE."""
    vae = open_vae(find_vae("toy"))
    found = []
    with tempfile.TemporaryDirectory() as name:
        files = [path for path in sorted(root.rglob("*")) if path.suffix in (".mp4", ".mpg", ".ogv")]
        for path in files:
            (Path(name) / path.name).symlink_to(path.resolve())
        lines = [json.dumps({"file_name": path.name, "caption": path.stem}) for path in files]
        (Path(name) / "metadata.jsonl").write_text("\n".join(lines))
        for frames in LENGTHS:
            for area in areas:
                folder = VideoFolder(root=name, part="all", share=None, frames=frames, height=None, width=None,
                                     area=area, fps=8.0, fit="crop", stride=vae.stride, patch=patch)  # fmt: skip
                for index in range(len(folder)):
                    try:
                        clip = folder[index].clip
                    except InputError:
                        continue
                    with torch.no_grad():
                        found.append(vae.encode(clip[None])[0])
    return found


def composed(given: dict[str, str]) -> Train:
    """The settings of `videodit train`."""
    return typed.settings("train", [f"{key}={given[key]}" for key in ("model", "optim")])


def objective(folder: Path, config: Train) -> FlowObjective:
    """What is trained."""
    torch.manual_seed(0)
    return FlowObjective(
        dit=config.model(), text=config.text(), tokenizer=Tokenizer(path=folder / "tokenizer.json"),
        path=PATHS["rectified"](prediction="velocity"), drop=0.1, seed=0, pipeline={}, frozen={},
        device=torch.device("cpu"),
        times=TrainingTimes(mean=0.0, std=1.0, shift=1.0),
    )  # fmt: skip


def measure(folder: Path, given: dict[str, str], here: Launch) -> dict[str, float]:
    """Useful tokens a second of each kind, as this process sees them: of each step the median over the rounds."""
    mesh = Mesh(launch=here, device=torch.device("cpu"), sizes=(1, -1, 1))
    config = composed(given)
    trained = objective(folder, config)
    parallelize(trained.module, mesh, recompute="nothing", compile=False, offload=False, precision=torch.float32)
    run = Run(
        folder=folder, objective=trained, batches=lambda start, stop: iter(()),
        optimizer=config.optim.make()(trained.module, curve=lambda step: 0.1),  # as fast at any
        ema=EMA(module=trained.module, decay=0.99), tracker=Tracker(), config={}, mesh=mesh,
        compute=Compute(torch.float32),
        checkpoints=Checkpoints(folder=folder / "checkpoints", keep=1, mesh=mesh), sample=lambda step: None,
        settings=Loop(steps=1, clip_norm=1.0, max_bad=5, log_every=10**9, save_every=10**9, sample_every=10**9),
    )  # fmt: skip
    kinds = batches_of(folder, given, Share(mesh.rank, mesh.ranks))
    steps = {
        (kind, place): [kinds[kind]._read(*pack) for pack in step[mesh.rank]]
        for kind in given["kinds"].split(",")
        for place, step in enumerate(epoch(kinds[kind]))
    }
    tokens, seconds = {}, defaultdict(list)
    for key in [key for key in steps if key[1] < WARM]:
        run.advance(steps[key])
    for number in range(int(given["rounds"])):
        order = [list(steps)[i] for i in np.random.default_rng(number).permutation(len(steps))]
        for key in order:
            mesh.wait()
            began = time.perf_counter()
            tokens[key] = run.advance(steps[key])[0]["tokens"]
            mesh.wait()
            seconds[key].append(time.perf_counter() - began)
    rates = {}
    for kind in given["kinds"].split(","):
        own = [key for key in steps if key[0] == kind]
        rates[kind] = sum(tokens[key] for key in own) / sum(np.median(seconds[key]) for key in own)
    return rates


def batches_of(folder: Path, given: dict[str, str], share: Share) -> dict[str, PackBatches]:
    """The four ways, over the stored latents."""
    tensors, _ = load_tensors(folder / "latents.safetensors")
    cache = Stored([tensors[name] for name in sorted(tensors)])
    dit = objective(folder, composed(given)).dit
    how = {
        "cache": cache, "tokens": int(given["budget"]), "most": int(given["most"]) or None,
        "patch": dit.patch, "image": 0.0, "whole": 1.0, "work": work_of(dit), "share": share, "seed": 0,
    }  # fmt: skip
    return {name: kind(**how) for name, kind in KINDS.items()}


def balance(batches: PackBatches) -> tuple[float, float]:
    """Largest work of a process over the mean: in the worst step and over the epoch. Every clip must be there once."""
    steps = epoch(batches)
    used = Counter(i for step in steps for rank in step for pack, idle in rank if not idle for i, _ in pack)
    assert used == Counter(range(len(batches.cache))), "a clip is unused or used twice"
    works = np.array(
        [[sum(batches.work(batches.size(*c)) for pack, idle in rank if not idle for c in pack) for rank in step]
         for step in steps]
    )  # fmt: skip
    total = works.sum(0)
    return (works.max(1) / works.mean(1)).max(), total.max() / total.mean()


def main() -> None:
    """Prepare, run on one process or several, print the table."""
    given = DEFAULTS | dict(argument.split("=", 1) for argument in sys.argv[1:])
    if "folder" in given:  # one of several processes
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // launch().ranks))
        keep_freed_memory()  # as `videodit train` does
        rates = measure(Path(given["folder"]), given, launch())
        if launch().rank == 0:
            (Path(given["folder"]) / "rates.json").write_text(json.dumps(rates))
        return
    with tempfile.TemporaryDirectory() as name:
        folder, ranks = Path(name), int(given["ranks"])
        areas = [int(side) ** 2 for side in given["sides"].split(",")]
        latents = real(Path(given["clips"]), areas, tuple(composed(given).model.patch)) if given["clips"] else made_up()
        save_tensors(folder / "latents.safetensors", {f"{i:04d}": x for i, x in enumerate(latents)}, {})
        train_tokenizer(CAPTIONS, folder / "tokenizer.json", vocabulary=64)
        command = [sys.executable, __file__, *(f"{key}={value}" for key, value in given.items()), f"folder={folder}"]
        with socket() as free:
            free.bind(("127.0.0.1", 0))
            where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(ranks)}
        root = str(Path(__file__).parents[1])
        started = [
            subprocess.Popen(command, env={**os.environ, **where, "RANK": str(rank), "LOCAL_RANK": str(rank),
                                           "PYTHONPATH": root})
            for rank in range(ranks)
        ]  # fmt: skip
        if any([process.wait() for process in started]):
            raise SystemExit(1)
        rates = json.loads((folder / "rates.json").read_text())
        kinds = batches_of(folder, given, Share(0, ranks))
        shapes = len({x.shape for x in latents})
        print(f"{len(latents)} clips of {shapes} shapes, {given['budget']} tokens a step, {ranks} processes\n")
        print(f"{'':9}{'steps':>6}{'tokens/s':>10}{'packs are':>11}{'worst step':>12}{'epoch':>8}")
        for kind in rates:
            ratio, (step, whole) = rates["packs"] / rates[kind], balance(kinds[kind])
            print(f"{kind:9}{len(epoch(kinds[kind])):>6}{rates[kind]:>10.0f}{ratio:>10.2f}x"
                  f"{step:>12.3f}{whole:>8.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
