"""The processes of a run, and this one's place among them.

Three axes: `replicate` whole copies of the weights, each cut into `shard` parts, and `context` processes that share the
tokens of the same packs. The first two see different clips.
"""

from __future__ import annotations

import atexit
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from videodit.config import Launch
from videodit.errors import InputError

AXES = ("replicate", "shard", "context")
PATIENCE = timedelta(hours=2)  # for the slowest rank, such as one that still reads what others have cached


class Mesh:
    """One process, or one of many, of sizes (replicate, shard, context); one size may be -1: what is left.

    device: where this process computes. Raises InputError where the sizes do not make up the number of processes.
    """

    def __init__(self, *, launch: Launch, device: torch.device, sizes: tuple[int, int, int]) -> None:
        self.rank, self.ranks, self.device = launch.rank, launch.ranks, device
        self.replicate, self.shard, self.context = self.sizes = filled(sizes, launch.ranks)
        self.devices: DeviceMesh | None = None
        if self.ranks > 1:
            _connect(launch, device)
            self.devices = init_device_mesh(device.type, self.sizes, mesh_dim_names=AXES)

    @property
    def main(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    @property
    def data_ranks(self) -> int:
        """How many shares of a step there are."""
        return self.replicate * self.shard

    @property
    def data_rank(self) -> int:
        """Which share is this process's."""
        return self.rank // self.context

    def weights(self) -> DeviceMesh:
        """The axes over which weights are sharded, behind the one over which they are replicated if there is one."""
        assert self.devices is not None
        flat = self.devices[AXES[1:]]._flatten("weights") if self.context > 1 else self.devices["shard"]
        if self.replicate == 1:
            return flat
        return self.devices["replicate", flat.mesh_dim_names[0]]

    def exchange(self, value: Any) -> list[Any]:
        """What every rank gave, in their order: anything that JSON holds. All ranks must call it."""
        if self.ranks == 1:
            return [value]
        own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.long) for _ in range(self.ranks)]
        dist.all_gather(sizes, torch.tensor([len(own)]))
        most = int(max(sizes))
        padded = torch.zeros(most, dtype=torch.uint8)
        padded[: len(own)] = own
        all_of_them = [torch.empty(most, dtype=torch.uint8) for _ in range(self.ranks)]
        dist.all_gather(all_of_them, padded)
        return [json.loads(bytes(x[: int(n)].tolist())) for x, n in zip(all_of_them, sizes, strict=True)]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Around what every rank does: an InputError of one of them is raised by all, lest the others wait for it."""
        told = ""
        try:
            yield
        except InputError as error:
            told = str(error)
        if told := next(filter(None, self.exchange(told)), ""):
            raise InputError(told)

    def wait(self) -> None:
        """Go on when all ranks have come here."""
        self.exchange(None)


def filled(sizes: tuple[int, int, int], ranks: int) -> tuple[int, int, int]:
    """The sizes with -1 replaced, for so many processes."""
    known = 1
    for name, size in zip(AXES, sizes, strict=True):
        if not isinstance(size, int) or (size < 1 and size != -1):
            raise InputError(f"parallel.{name}={size}: a whole number above 0, or -1 for what is left")
        known *= size if size > 0 else 1
    if sizes.count(-1) > 1:
        raise InputError(f"parallel: only one of {', '.join(AXES)} can be -1")
    free = -1 in sizes
    if ranks % known or (not free and known != ranks):
        wanted = " x ".join(f"{name} {size}" for name, size in zip(AXES, sizes, strict=True) if size > 0)
        processes = f"{ranks} processes" if ranks > 1 else "one process, which is all there is without torchrun"
        raise InputError(f"parallel: {wanted} does not make {processes}; -1 takes what is left")
    a, b, c = (ranks // known if size == -1 else size for size in sizes)
    return a, b, c


def _connect(launch: Launch, device: torch.device) -> None:
    """Find the others. Small things, and all on a CPU, go by gloo."""
    if dist.is_initialized():
        return
    backend = "gloo" if device.type == "cpu" else f"cpu:gloo,{device.type}:nccl"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        backend, init_method=f"tcp://{launch.address}:{launch.port}", rank=launch.rank, world_size=launch.ranks,
        timeout=PATIENCE,
    )  # fmt: skip
    atexit.register(dist.destroy_process_group)
