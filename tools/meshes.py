"""What each process of a large run would hold: `python tools/meshes.py [ranks=64] [model=XL]`.

Every mesh of `conf/parallel` is composed, and its model built without values and sharded, as the first of so many
processes that are only imagined (torch's fake process group). The table is of what stays from step to step, in float32:
weights, gradients, averages and AdamW's two moments; and of the plan's number for the same.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from videodit.cli import typed
from videodit.config import Launch, conf_dir
from videodit.parallel.mesh import AXES, Mesh
from videodit.parallel.shard import local, parallelize
from videodit.plan.training import Training, held
from videodit.train.settings import Train

GIB = 2**30


def main() -> None:
    """Print the table."""
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    ranks, model = int(given.pop("ranks", 64)), given.pop("model", "XL")
    dist.init_process_group("fake", rank=0, world_size=ranks)
    print(f"model={model}, {ranks} processes, the first of them\n")
    print("parallel   replicate  shard  context   weights  all that stays      plan")
    for path in sorted((conf_dir() / "parallel").glob("*.yaml")):
        overrides = [f"model={model}", f"parallel={path.stem}", *(f"{k}={v}" for k, v in given.items())]
        print(row(path, typed.settings("train", overrides), ranks))


def row(path: Path, cfg: Train, ranks: int) -> str:
    """One line: build, shard, count."""
    sizes = tuple(getattr(cfg.parallel, axis) for axis in AXES)
    mesh = Mesh(launch=Launch(0, ranks), device=torch.device("cpu"), sizes=sizes)
    with torch.device("meta"):
        module = nn.ModuleDict({"dit": cfg.model()})
    specs = {"dit": module["dit"].spec}
    how = {key: getattr(cfg.parallel, key) for key in ("recompute", "compile", "offload")}
    parallelize(module, mesh, **how, precision=torch.bfloat16)
    weights = 4 * sum(local(parameter).numel() for parameter in module.parameters())
    plan = held(specs, Training(torch.bfloat16, (), muon=False, shards=mesh.shard * mesh.context))
    numbers = "".join(f" {size:>{width}}" for size, width in zip(mesh.sizes, (9, 6, 8), strict=True))
    amounts = f"{weights / GIB:>6.3f} GiB {5 * weights / GIB:>11.3f} GiB {plan / GIB:>5.3f} GiB"
    return f"{path.stem:10}{numbers} {amounts}"


if __name__ == "__main__":
    main()
