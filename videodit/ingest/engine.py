"""Where stages run: the processes of this machine, or those of a Ray cluster. The same stages, the same results."""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from videodit.errors import InputError
from videodit.ingest.guard import Guard, Result
from videodit.ingest.record import Record, Stage

Results = Iterator[tuple[int, Result]]


class Engine(Protocol):
    """Runs a stage over records."""

    def run(self, stage: Stage, records: Sequence[Record], limits: Sequence[float], most: int | None) -> Results:
        """(place of the record, what became of it) as they are done.

        limits: seconds for each; most: workers (None: all).
        """


class Local:
    """Processes of this machine.

    Args:
        workers: how many; None: as many as there are cores.
    """

    def __init__(self, *, workers: int | None) -> None:
        if workers is not None and workers < 1:
            raise InputError(f"engine.workers={workers}: at least 1, or null for all cores")
        self.workers = workers or len(os.sched_getaffinity(0))

    def run(self, stage: Stage, records: Sequence[Record], limits: Sequence[float], most: int | None) -> Results:
        """See Engine."""
        todo, done = iter(enumerate(zip(records, limits, strict=True))), queue.Queue()
        lock, stop = threading.Lock(), threading.Event()
        count = min(self.workers, most or self.workers, len(records))
        guards = [Guard(stage) for _ in range(count)]

        def work(guard: Guard) -> None:
            try:
                while not stop.is_set():
                    with lock:
                        place, given = next(todo, (None, None))
                    if place is None:
                        return
                    done.put((place, guard(*given)))
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
        finally:
            stop.set()
            for guard in guards:
                guard.end()
            for thread in threads:
                thread.join()


class Ray:
    """Ray Data on the cluster at `address` ("auto": the one this machine is of; "local": one made here).

    The files and the output must be under the same names on all of its machines.

    Args:
        workers: how many; None: as many as the cluster has CPUs.
    """

    def __init__(self, *, address: str, workers: int | None) -> None:
        try:
            import ray
        except ImportError:
            raise InputError('engine=ray needs Ray: pip install "videodit[ray]"') from None
        self.ray = ray
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False, logging_level="error")
        self.workers = workers or int(ray.cluster_resources().get("CPU", 1))

    def run(self, stage: Stage, records: Sequence[Record], limits: Sequence[float], most: int | None) -> Results:
        """See Engine."""
        rows = [{"place": place, "given": json.dumps(given)}
                for place, given in enumerate(zip(records, limits, strict=True))]  # fmt: skip
        count = min(self.workers, most or self.workers, len(records))
        data = self.ray.data.from_items(rows, override_num_blocks=min(len(rows), 4 * count))
        done = data.map_batches(_Guarded, fn_constructor_args=(stage,), concurrency=count, batch_size=1)
        for row in done.iter_rows():
            yield int(row["place"]), json.loads(row["result"])


class _Guarded:
    """A guard for Ray Data, whose batches are columns."""

    def __init__(self, stage: Stage) -> None:
        self.guard = Guard(stage)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        results = [json.dumps(self.guard(*json.loads(given))) for given in batch["given"]]
        return {"place": list(batch["place"]), "result": results}
