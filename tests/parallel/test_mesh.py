"""The mesh of one process, its sizes, and where tokens are cut."""

from __future__ import annotations

import pytest
import torch

from tests.train.runs import alone
from videodit import config
from videodit.config import Launch, launch
from videodit.errors import InputError
from videodit.parallel.mesh import Mesh, filled
from videodit.parallel.sequence import overlaps, run_sizes


def test_one_process_needs_nobody() -> None:
    mesh = alone()
    assert mesh.main and mesh.devices is None and (mesh.data_rank, mesh.data_ranks) == (0, 1)
    assert mesh.exchange({"a": [1, "b", None]}) == [{"a": [1, "b", None]}]
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("sizes", "ranks", "expected"),
    [((1, -1, 1), 1, (1, 1, 1)), ((1, -1, 2), 64, (1, 32, 2)), ((-1, 8, 1), 64, (8, 8, 1)), ((2, 2, 2), 8, (2, 2, 2))],
)
def test_what_is_left_is_filled_in(sizes: tuple, ranks: int, expected: tuple) -> None:
    assert filled(sizes, ranks) == expected


@pytest.mark.parametrize(
    ("sizes", "ranks", "message"),
    [
        ((1, 1, 1), 2, "replicate 1 x shard 1 x context 1 does not make 2 processes"),
        ((1, -1, 3), 4, "does not make 4"),
        ((-1, -1, 1), 4, "only one of"),
        ((0, -1, 1), 4, "parallel.replicate=0"),
        ((1, "all", 1), 4, "parallel.shard=all"),
    ],
)
def test_sizes_that_make_no_sense_are_named(sizes: tuple, ranks: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Mesh(launch=Launch(0, ranks), device=torch.device("cpu"), sizes=sizes)


def test_launchers_say_who_we_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for names in config.LAUNCHERS:
        for name in names:
            monkeypatch.delenv(name, raising=False)
    assert launch() == Launch(0, 1)
    monkeypatch.setenv("MASTER_ADDR", "node7")
    monkeypatch.setenv("MASTER_PORT", "1234")
    for names in config.LAUNCHERS:
        with monkeypatch.context() as patch:
            for name, value in zip(names, ("5", "8", "1"), strict=True):
                patch.setenv(name, value)
            assert launch() == Launch(5, 8, 1, "node7", 1234)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu7", "gpu7"), ("gpu[01-04,07],b2", "gpu01"), ("a,b[1-2]", "a"), ("r[3,5]n[10-11]", "r3n10"), ("x[9]", "x9")],
)
def test_processes_of_slurm_meet_without_being_told_where(
    monkeypatch: pytest.MonkeyPatch, nodes: str, first: str
) -> None:
    """At the first node of the step, as `scontrol show hostnames` has it, and a port that another job does not have."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    given = {"PROCID": "5", "STEP_NUM_TASKS": "8", "LOCALID": "1", "STEP_NODELIST": nodes, "JOB_ID": "1234567"}
    for name, value in given.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert launch() == Launch(5, 8, 1, first, 24567)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_runs_cover_the_pack(count: int) -> None:
    lengths = (5, 1, 7, 20, 3)
    sizes = run_sizes(sum(lengths), count)
    assert sum(sizes) == 36 and max(sizes) - min(sizes) <= 1
    ends = [sum(sizes[:i]) for i in range(count + 1)]
    parts = [overlaps(lengths, a, b) for a, b in zip(ends, ends[1:], strict=False)]
    assert [sum(part) for part in parts] == sizes
    assert tuple(map(sum, zip(*parts, strict=True))) == lengths
