"""Where stages run: the processes of this machine, or those of a Ray cluster. The same stages, the same results."""

from __future__ import annotations

import json
import logging
import os
import queue
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from videodit.config import ray_environment, share_environment, shared_environment
from videodit.errors import InputError
from videodit.ingest.guard import Guard, Result, dropped
from videodit.ingest.record import Record, Stage

Results = Iterator[tuple[int, Result]]

BLOCKS = 10_000  # that Ray Data is given at most
ON_A_GPU = 4  # processes that share one: each has its own copy of a model, and reads clips for it
RETRIES = 3  # of a record whose Ray actor died
CONNECT = 30.0  # seconds for a cluster to answer
FREE = 120.0  # seconds for a machine of it to have room
STORE = 2**28  # bytes that a cluster made here shares; records are small


class Engine(Protocol):
    """Runs a stage over records, inside `with`."""

    def __enter__(self) -> Engine: ...

    def __exit__(self, *_: object) -> None: ...

    def run(self, stage: Stage, records: Sequence[Record], limits: Sequence[float], most: int | None) -> Results:
        """(place of the record, what became of it) as they are done.

        limits: seconds for each; most: workers (None: all).
        """


class Local:
    """Processes of this machine.

    Args:
        workers: how many; None: as many as there are cores, and ON_A_GPU of a stage that computes there.
    """

    def __init__(self, *, workers: int | None) -> None:
        _check_workers(workers)
        self.asked, self.workers = workers, workers or _cores()

    def __enter__(self) -> Local:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing outlives `run`."""

    def run(self, stage: Stage, records: Sequence[Record], limits: Sequence[float], most: int | None) -> Results:
        """See Engine."""
        todo, done = iter(enumerate(zip(records, limits, strict=True))), queue.Queue()
        lock, stop, go_on = threading.Lock(), threading.Event(), threading.Semaphore(0)
        shared = self.asked is None and _wants_gpu(stage, _has_cuda)
        most = most or (ON_A_GPU if shared else self.workers)
        count = min(self.workers, most, len(records))
        guards = [Guard(stage) for _ in range(count)]

        def work(guard: Guard) -> None:
            try:
                while not stop.is_set():
                    with lock:
                        place, given = next(todo, (None, None))
                    if place is None:
                        return
                    result = guard(*given)
                    done.put((place, result))
                    if "stop" in result:  # the next call may cost: not before whoever reads this wants to go on
                        go_on.acquire()
            except BaseException as error:
                done.put((None, error))
            finally:
                guard.close()

        threads = [threading.Thread(target=work, args=(guard,), daemon=True) for guard in guards]
        for thread in threads:
            thread.start()
        try:
            for _ in range(len(records)):
                place, result = done.get()
                if place is None:
                    raise result
                yield place, result
                if "stop" in result:
                    go_on.release()
        finally:
            stop.set()
            for guard in guards:
                guard.end()
                go_on.release()
            for thread in threads:
                thread.join()


class Ray:
    """Actors of Ray Data, each with a guarded process; see `conf/engine/ray.yaml`. Ray tries again what it lost.

    The package must be installed, and the files and the output be under the same names, on all of its machines.

    Args:
        address: of the cluster: HOST:PORT, "auto" for the one that this machine is of, "local" for one made here.
        workers: how many; None: as many as the cluster has CPUs.
    """

    def __init__(self, *, address: str, workers: int | None) -> None:
        _check_workers(workers)
        if "://" in address:
            raise InputError(f"engine.address={address}: auto, local or HOST:PORT, on a machine of the cluster")
        ray_environment(alone=address == "local")
        try:
            import ray.data
        except ImportError:
            raise InputError('engine=ray needs Ray: pip install "videodit[ray]"') from None
        self.ray, self.address, self.workers, self.joined = ray, address, workers, False

    def __enter__(self) -> Ray:
        if not self.ray.is_initialized():
            self._join()
            self.joined = True
        for handler in logging.getLogger("ray.data").handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.setLevel(logging.CRITICAL)  # the rest is in Ray's own files
        return self

    def __exit__(self, *_: object) -> None:
        if self.joined:
            self.ray.shutdown()  # ends a cluster that was made here, and leaves any other
            self.joined = False

    def run(self, stage: Stage, records: Sequence[Record], limits: Sequence[float], most: int | None) -> Results:
        """See Engine. Inside `with` only."""
        if not records:
            return
        options = self._room(stage)
        count = self.workers or int(self.ray.cluster_resources()["CPU"] // options["num_cpus"])
        count = max(1, min(count, most or count, len(records)))
        rows = [{"place": i, "given": json.dumps(one)} for i, one in enumerate(zip(records, limits, strict=True))]
        blocks = len(rows) // -(-len(rows) // BLOCKS)  # of one row each, so that none waits for another
        data = self.ray.data.from_items(rows, override_num_blocks=blocks)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # max_task_retries may become an argument of another name
            data = data.map_batches(
                _Guarded,
                fn_constructor_args=(stage, os.getcwd(), shared_environment()),
                batch_size=1,
                compute=self.ray.data.ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=1),
                max_task_retries=RETRIES,
                **options,
            )
        data.context.enable_progress_bars = data.context.print_on_execution_start = False
        data.context.target_max_block_size = 1  # a result is handed over as it is made
        data.context.max_errored_blocks = -1
        lost = set(range(len(rows)))
        for batch in data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for row in batch.to_pylist():
                lost.discard(row["place"])
                yield row["place"], json.loads(row["result"])
        for place in sorted(lost):
            yield place, dropped("the machine failed", f"its Ray actor died, {RETRIES + 1} times at most", again=True)

    def _join(self) -> None:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        if self.address == "local":
            quiet |= {"include_dashboard": False, "object_store_memory": STORE}
        try:
            if self.address != "local":
                _check_answer(self.address)
            with _hushed():
                self.ray.init(self.address, **quiet)
        except BaseException as error:
            self.ray.shutdown()
            if not isinstance(error, OSError | ValueError | RuntimeError | self.ray.exceptions.RayError):
                raise
            why = " ".join(str(error).split())
            raise InputError(f"engine.address={self.address}: no Ray cluster can be joined there ({why})") from None

    def _room(self, stage: Stage) -> dict[str, float]:
        """What an actor of a stage needs of a machine; InputError if none has it free, or lacks the package."""
        exceptions, largest = self.ray.exceptions, [node["Resources"].get("CPU", 0) for node in self.ray.nodes()]
        options = {"num_cpus": max(1, min(getattr(stage, "threads", 1), max(largest, default=1)))}
        options |= {"num_gpus": 1} if _wants_gpu(stage, lambda: "GPU" in self.ray.cluster_resources()) else {}
        trial = self.ray.remote(_nothing).options(**options).remote()
        try:
            self.ray.get(trial, timeout=FREE)
        except exceptions.GetTimeoutError:
            self.ray.cancel(trial)
            needs = " and ".join(f"{name}={number:g}" for name, number in options.items())
            raise InputError(f"no machine of the Ray cluster had {needs} free within {FREE:.0f} seconds") from None
        except exceptions.RayTaskError as error:
            raise InputError(f"a machine of the Ray cluster cannot run videodit: {error.cause}") from None
        return options


class _Guarded:
    """A guard for Ray Data, whose batches are columns, in the folder and environment of who asks."""

    def __init__(self, stage: Stage, folder: str, environment: Mapping[str, str]) -> None:
        self.guard, self.missing = Guard(stage), None
        share_environment(environment)
        try:
            os.chdir(folder)
        except OSError as error:
            self.missing = {"stop": f"engine=ray: run it in a folder that all machines have: {error}"}

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        results = [self.missing or self.guard(*json.loads(given)) for given in batch["given"]]
        return {"place": list(batch["place"]), "result": [json.dumps(result) for result in results]}


def _check_answer(address: str) -> None:
    """OSError or ValueError where no cluster answers; Ray itself might wait for minutes, and cannot be interrupted."""
    if address != "auto":
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=CONNECT).close()
    command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "status", f"--address={address}"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=CONNECT)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"no answer within {CONNECT:.0f} seconds") from None
    if asked.returncode:
        raise ConnectionError((asked.stderr.strip() or "ray status fails").splitlines()[-1])


@contextmanager
def _hushed() -> Iterator[None]:
    """Without what libraries write to the terminal by themselves; errors are raised as ever."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _nothing() -> None:
    """Shows that a machine has room, and the package."""


def _has_cuda() -> bool:
    import torch  # seconds, which few stages need

    return torch.cuda.is_available()


def _wants_gpu(stage: Stage, there: Callable[[], bool]) -> bool:
    """Whether a stage, or what it calls, computes on CUDA; an empty device takes it where it is there."""
    parts = [stage, *(getattr(stage, name, None) for name in ("captioner", "cutter", "embedder"))]
    devices = [str(part.device) for part in [*parts, *getattr(stage, "scorers", ())] if hasattr(part, "device")]
    return any(device.startswith("cuda") or (not device and there()) for device in devices)


def _cores() -> int:
    """Cores that this process may use, as far as the system says that."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_workers(workers: int | None) -> None:
    if workers is not None and workers < 1:
        raise InputError(f"engine.workers={workers}: at least 1, or null for all cores")
