"""Many requests: grouped into jobs, each a pack, which are admitted, denoised, handed over and decoded one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Protocol

from videodit.generate.admission import admit
from videodit.generate.layout import Layout
from videodit.generate.pipe import Pipe
from videodit.generate.request import Request
from videodit.generate.velocity import Cancel, check_cancel
from videodit.generate.video import Denoised, Video

TOGETHER = 8  # requests that are made in one pack, if nothing else is said


@dataclass(frozen=True)
class Job:
    """Requests that are made together, and their numbers among all. layout: of a record that its one is made like."""

    requests: tuple[Request, ...]
    numbers: range
    layout: Layout | None = None


Progress = Callable[[Job, int, int], None]  # (job, steps done, steps in all); at its beginning with 0


class Handover(Protocol):
    """Keeps what a job has denoised until its videos are there: on disk `waiting.OnDisk`."""

    def take(self) -> Sequence[Denoised] | None:
        """What was denoised before, if it was."""
        ...

    def keep(self, denoised: Sequence[Denoised]) -> None:
        """Keep it."""
        ...

    def forget(self) -> None:
        """All videos are there."""
        ...


def grouped(requests: Sequence[Request], together: int = TOGETHER, layout: Layout | None = None) -> list[Job]:
    """Runs of requests that one pack can hold, at most `together` of them, in their order."""
    jobs, done = [], 0
    for _, run in groupby(requests, key=lambda one: one.way):
        group = tuple(run)
        # A step cache skips by what the whole pack does: alone, a video is the one that its recipe makes again.
        size = 1 if group[0].step_cache else max(1, together)
        for first in range(0, len(group), size):
            own = group[first : first + size]
            jobs.append(Job(own, range(done, done + len(own)), layout))
            done += len(own)
    return jobs


def admit_all(pipe: Pipe, jobs: Sequence[Job], memory: str = "check") -> Pipe:
    """The pipe that makes all jobs: see `admission.admit`. InputError where one of them cannot fit."""
    for job in jobs:
        pipe = admit(pipe, job.requests, memory, job.layout)
    return pipe


def run(
    pipe: Pipe, jobs: Sequence[Job], *, memory: str = "check", progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> Iterator[tuple[int, Video]]:  # fmt: skip
    """The videos of all jobs as they are finished, with the numbers of their requests.

    InputError, before anything is denoised, where a job cannot fit into the memory. `cancel`: see `Pipe.denoise`.
    """
    pipe = admit_all(pipe, jobs, memory)
    for job in jobs:
        yield from zip(job.numbers, make(pipe, job, progress=progress, cancel=cancel), strict=True)


def make(
    pipe: Pipe, job: Job, *, handover: Handover | None = None, progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> Iterator[Video]:  # fmt: skip
    """The videos of one job as they are finished. The handover forgets it when the last one was taken care of, which
    is when another one is asked for.
    """
    for one in denoise(pipe, job, handover=handover, progress=progress, cancel=cancel):
        check_cancel(cancel, "before decoding")
        yield pipe.decode(one)
    if handover is not None:
        handover.forget()


def denoise(
    pipe: Pipe, job: Job, *, handover: Handover | None = None, progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> Sequence[Denoised]:  # fmt: skip
    """The first half of `make`, for whoever decodes elsewhere, such as in another thread (`pipe.decode`)."""
    there = None if handover is None else handover.take()
    if there is not None:
        return there
    step = None if progress is None else partial(progress, job)
    if step is not None:
        step(0, job.requests[0].steps)
    made = pipe.denoise(job.requests, step, job.layout, cancel)
    if handover is not None:
        handover.keep(made)
    return made
