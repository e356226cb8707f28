"""A Ray cluster gives the set that one machine gives; what goes wrong on it is told in the same words."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.ingest.test_engine import gone
from tests.ingest.work import Naughty
from videodit.cli.main import main
from videodit.data import video
from videodit.errors import InputError
from videodit.ingest import engine
from videodit.ingest.engine import Local, Ray
from videodit.ingest.record import Record

FINE = {"do": "fine", "value": 0}


@pytest.fixture(scope="module")
def cluster(checkout: Path) -> Iterator[Any]:
    """Two nodes of one CPU each; nothing of them is left afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(checkout))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_BACKEND_LOG_LEVEL", "fatal")
        import ray
        from ray.cluster_utils import Cluster

        node = {"num_cpus": 1, "object_store_memory": 2**27}
        made = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        try:
            made.add_node(**node)
            yield made
            assert not any(gone(node.all_processes["raylet"][0].process.pid) for node in made.list_all_nodes())
        finally:
            ours = below(made)
            ray.shutdown()
            made.shutdown()
            left = alive(ours)
            for one in left:
                one.kill()
        assert not left


def below(cluster: Any) -> list[psutil.Process]:
    """The processes of a cluster."""
    nodes = cluster.list_all_nodes()
    daemons = [info.process.pid for node in nodes for of in node.all_processes.values() for info in of]
    return [one for pid in daemons for one in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))]


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that do not end within a while."""
    deadline = time.monotonic() + 20
    while left := [one for one in processes if not gone(one.pid)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return left


@pytest.fixture
def on(cluster: Any) -> Iterator[Callable[..., dict[int, Any]]]:
    """What becomes of records on the cluster."""
    with Ray(address=cluster.address, workers=None) as ray:
        yield lambda records, limits: dict(ray.run(Naughty(), records, limits, None))


def folder(root: Path) -> Path:
    """Small videos: one broken, two alike, one with a caption."""

    def rolling(seed: int, faster: int) -> np.ndarray:
        tiles = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        return np.stack([np.roll(tiles, (i * faster, 2 * i), (0, 1)) for i in range(20)])

    root.mkdir()
    for i in range(4):
        video.write(root / f"{i}.mp4", rolling(i, i + 1), 8.0)
    video.write(root / "alike.mp4", np.clip(rolling(1, 2), 3, 252), 8.0)
    (root / "broken.mp4").write_bytes((root / "0.mp4").read_bytes()[:900])
    (root / "2.txt").write_text("tiles roll to the right")
    return root


def busy(cluster: Any, seen: set[int], stop: threading.Event) -> None:
    """The raylets below which a guard's process was seen."""
    while not stop.wait(0.1):
        for node in cluster.list_all_nodes():
            raylet = node.all_processes["raylet"][0].process.pid
            for one in psutil.Process(raylet).children(recursive=True):
                try:
                    if "multiprocessing.spawn" in " ".join(one.cmdline()):
                        seen.add(raylet)
                except psutil.Error:
                    pass


@pytest.mark.slow
def test_a_cluster_gives_the_same_set(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                      capfd: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    folder(tmp_path / "videos")
    monkeypatch.chdir(tmp_path)  # workers find what is meant relative to here
    common = ["ingest", "videos", "report=false", "encode.bundle=2"]
    assert main([*common, "out=one"]) == 0
    seen, stop = set(), threading.Event()
    watch = threading.Thread(target=busy, args=(cluster, seen, stop))
    watch.start()
    capfd.readouterr()
    try:
        assert main([*common, "out=many", "engine=ray", f"engine.address={cluster.address}"]) == 0
    finally:
        stop.set()
        watch.join()
    told = capfd.readouterr()
    assert len(seen) == 2, "a node did nothing"
    shown = [line for line in told.err.splitlines() if line.strip()]
    assert all(line.split()[0] in ("scan", "cut", "measure", "caption", "encode") for line in shown), told.err
    assert "near-duplicate" in told.out and "cannot be read" in told.out
    files = {p.relative_to("one") for p in Path("one").rglob("*") if p.is_file() and ".ingest" not in p.parts}
    assert {"manifest.parquet", "dropped.parquet", "set.json"} <= set(map(str, files))
    assert sum(path.suffix == ".safetensors" for path in files) >= 2
    for path in files:
        assert (Path("one") / path).read_bytes() == (Path("many") / path).read_bytes(), path
    assert {p.name for p in Path("one/cache").iterdir()} == {p.name for p in Path("many/cache").iterdir()}
    for journal in Path("one/.ingest").glob("*.jsonl"):
        other = Path("many/.ingest") / journal.name
        assert sorted(journal.read_text().splitlines()) == sorted(other.read_text().splitlines())


@pytest.mark.slow
def test_what_goes_wrong_is_told_as_by_one_machine(on: Callable[..., dict[int, Any]]) -> None:
    does = ["fine", "sleep", "die", "exit", "drop", "bug", "disk", "stop", "fine"]
    records = [{"do": do, "value": i} for i, do in enumerate(does)]
    limits = [2.0 if do == "sleep" else 60.0 for do in does]
    here, there = dict(Local(workers=2).run(Naughty(), records, limits, None)), on(records, limits)
    for i, do in enumerate(does):
        if do == "fine":
            assert there[i]["records"][0]["twice"] == 2 * i
        else:
            assert there[i] == here[i]
    assert sorted(there) == sorted(here)


@pytest.mark.slow
def test_a_dead_actor_is_made_again(on: Callable[..., dict[int, Any]], tmp_path: Path) -> None:
    once = {"do": "kill actor", "value": 1, "mark": str(tmp_path / "mark")}
    always = {"do": "kill actor", "value": 1, "mark": ""}
    found = on([FINE, once, FINE, always, FINE], [60.0] * 5)
    assert sorted(found) == list(range(5))
    assert found[1]["records"][0]["twice"] == 2
    assert found[3]["dropped"] == "the machine failed" and found[3]["again"]
    assert all("records" in found[i] for i in (0, 2, 4))


@pytest.mark.slow
def test_results_come_as_they_are_done(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "BLOCKS", 2)  # as with very many records: several to a block
    records: list[Record] = [FINE, {"do": "sleep", "value": 0}, FINE, FINE]
    with Ray(address=cluster.address, workers=None) as ray:
        running = ray.run(Naughty(), records, [600.0] * 4, None)
        pids = []
        for place in (next(running) for _ in range(3)):
            pids.append(place[1]["records"][0]["pid"])  # no one waits for the record that sleeps
        running.close()
    deadline = time.monotonic() + 30
    while not all(map(gone, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert all(map(gone, pids)), "leaving early ends the workers"


@pytest.mark.slow
def test_a_cluster_without_room_is_not_waited_for(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "FREE", 3.0)
    with Ray(address=cluster.address, workers=None) as ours:
        hog = ours.ray.remote(Hog).options(num_cpus=1)
        hogs = [hog.remote(), hog.remote()]
        ours.ray.get([one.ready.remote() for one in hogs])
        with pytest.raises(InputError, match="no machine of the Ray cluster had num_cpus=1 free within 3 seconds"):
            list(ours.run(Naughty(), [FINE], [60.0], None))
        for one in hogs:
            ours.ray.kill(one)


class Hog:
    """Takes a CPU."""

    def ready(self) -> None:
        """It has it."""


@pytest.mark.slow
def test_a_cluster_made_here_listens_at_the_loopback_only_and_ends(checkout: Path) -> None:
    code = """
import contextlib, psutil
from tests.ingest.work import Naughty
from videodit.ingest.engine import Ray
with Ray(address="local", workers=None) as ray:
    print(list(ray.run(Naughty(), [{"do": "fine", "value": 21}], [60.0], None))[0][1]["records"][0]["twice"])
    ours, ports = [psutil.Process(), *psutil.Process().children(recursive=True)], []
    for one in ours:
        with contextlib.suppress(psutil.NoSuchProcess):
            ports += [c.laddr.ip for c in one.net_connections("tcp") if c.status == "LISTEN"]
    print(len(ours) > 3, bool(ports), {ip.rpartition(":")[2] for ip in ports})
print(psutil.wait_procs(ours[1:], timeout=20)[1])
"""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=180)
    assert done.stdout.splitlines() == ["42", "True True {'127.0.0.1'}", "[]"], done.stdout + done.stderr
    assert done.stderr == ""


def test_without_ray_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                             capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    assert main(["ingest", str(tmp_path), f"out={tmp_path / 'set'}", "engine=ray"]) == 2
    assert capsys.readouterr().err == 'videodit: error: engine=ray needs Ray: pip install "videodit[ray]"\n'


def test_an_address_without_a_cluster_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                              capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.setattr(engine, "CONNECT", 3.0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
        for address in (nobody, "127.0.0.1", "127.0.0.1:port"):
            command = ["ingest", str(tmp_path), f"out={tmp_path / 'set'}", "engine=ray", f"engine.address={address}"]
            assert main(command) == 2
            told = capsys.readouterr().err
            assert f"engine.address={address}: no Ray cluster can be joined there" in told and told.count("\n") == 1
    with socket.create_server(("127.0.0.1", 0)) as other:
        with pytest.raises(InputError, match="no answer within 3 seconds"):
            Ray(address=f"127.0.0.1:{other.getsockname()[1]}", workers=None).__enter__()
    with pytest.raises(InputError, match="auto, local or HOST:PORT"):
        Ray(address="ray://head:10001", workers=None)
    with pytest.raises(InputError, match="engine.workers=0"):
        Ray(address="auto", workers=0)
