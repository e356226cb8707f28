"""Jobs: how requests are grouped, admitted, cancelled and handed over; and two pipes of the same networks at once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import FrozenInstanceError
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
import torch

import videodit
from tests.tiny import CAPTIONS, tiny_pipeline
from videodit.decode import Way
from videodit.errors import Cancelled, InputError
from videodit.generate import Denoised, Pipe, admission, jobs
from videodit.generate.waiting import OnDisk
from videodit.plan.machine import Limit

SMALL = {"frames": 5, "size": "32x32", "steps": 4}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("jobs") / "model")


@pytest.fixture(scope="module")
def pipe(model: Path) -> Pipe:
    return videodit.load(str(model), device="cpu")


def test_what_goes_the_same_way_is_made_together(pipe: Pipe) -> None:
    ways = [{}, {}, {}, {"sampler": "heun"}, {}, {"step_cache": 0.1}, {"step_cache": 0.1}]
    requests = [pipe.request("a", **{**SMALL, **way}) for way in ways]
    made = jobs.grouped(requests, 2)
    assert [list(job.numbers) for job in made] == [[0, 1], [2], [3], [4], [5], [6]]
    assert [one for job in made for one in job.requests] == requests
    assert jobs.grouped([], 2) == []


def test_results_come_as_they_are_finished(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [pipe.request(CAPTIONS[seed % 2], **SMALL, seed=seed) for seed in range(3)]
    expected = pipe.run(requests[:2]) + pipe.run(requests[2:])
    events: list[Any] = []
    denoise = Pipe.denoise
    monkeypatch.setattr(Pipe, "denoise", lambda *given: events.append("denoise") or denoise(*given))
    for number, video in jobs.run(pipe, jobs.grouped(requests, 2), progress=lambda job, *now: events.append(now)):
        events.append(number)
        assert torch.equal(video.clip, expected[number].clip) and video.record == expected[number].record
    steps = [(step, 4) for step in range(1, 5)]
    assert events == [(0, 4), "denoise", *steps, 0, 1, (0, 4), "denoise", *steps, 2]


def test_what_does_not_fit_is_refused_before_anything_is_denoised(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pipe, "denoise", lambda *_: pytest.fail("it was begun"))
    small, large = pipe.request("a", **SMALL), pipe.request("a", frames=16384, size="16384x16384", steps=1)
    with pytest.raises(InputError, match="fewer frames or pixels would fit"):
        next(jobs.run(pipe, jobs.grouped([small, large])))
    monkeypatch.setattr(admission, "limits", lambda device: [Limit("this test", 2**18)])
    with pytest.raises(InputError, match="this test leaves"):
        next(jobs.run(pipe, jobs.grouped([small])))


@pytest.mark.parametrize("at", [0, 1, 3])
@pytest.mark.parametrize("kind", ["event", "function"])
def test_cancelled_between_steps(pipe: Pipe, tmp_path: Path, at: int, kind: str) -> None:
    """Nothing is left of it, and the next one is as if it had not been."""
    request, event, seen = pipe.request(CAPTIONS[0], **SMALL), threading.Event(), []
    [job] = jobs.grouped([request])

    def progress(_: jobs.Job, step: int, __: int) -> None:
        seen.append(step)
        if step == at:
            event.set()

    shelf = OnDisk(pipe, job.requests, [tmp_path / "a.mp4"])
    cancel = event if kind == "event" else event.is_set
    with pytest.raises(Cancelled, match=f"after step {at} of 4" if at else "before the first step"):
        list(jobs.make(pipe, job, handover=shelf, progress=progress, cancel=cancel))
    assert seen == list(range(at + 1)) and shelf.path is None and not list(tmp_path.iterdir())
    [video] = jobs.make(pipe, job, cancel=threading.Event())
    assert torch.equal(video.clip, pipe.run([request])[0].clip)


def test_cancelled_before_decoding_the_latents_wait(pipe: Pipe, tmp_path: Path) -> None:
    [job] = jobs.grouped([pipe.request(CAPTIONS[0], **SMALL)])
    event, shelf = threading.Event(), OnDisk(pipe, job.requests, [tmp_path / "a.mp4"])
    with pytest.raises(Cancelled, match="before decoding"):
        list(jobs.make(pipe, job, handover=shelf, progress=lambda _, step, steps: step == steps and event.set(),
                       cancel=event))  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["a.latents.safetensors"]
    again = OnDisk(pipe, job.requests, [tmp_path / "a.mp4"])
    assert len(list(jobs.make(pipe, job, handover=again, progress=lambda *_: pytest.fail("it is denoised")))) == 1
    assert not list(tmp_path.iterdir())


def test_a_handover_is_told_all(pipe: Pipe) -> None:
    told: list[Any] = []

    class Told:
        def take(self) -> None:
            told.append("take")

        def keep(self, denoised: Sequence[Denoised]) -> None:
            told.append([one.request.seed for one in denoised])

        def forget(self) -> None:
            told.append("forget")

    [job] = jobs.grouped([pipe.request("a", **SMALL, seed=seed) for seed in (3, 5)])
    for _ in jobs.make(pipe, job, handover=Told()):
        told.append("video")
    assert told == ["take", [3, 5], "video", "video", "forget"]


def test_another_thread_decodes(model: Path, pipe: Pipe) -> None:
    """What is handed over is one value, which another pipe of the model finishes."""
    made = jobs.grouped([pipe.request(CAPTIONS[seed % 2], **SMALL, seed=seed) for seed in range(2)], 1)
    queue: Queue[Denoised | None] = Queue()
    videos: list[Any] = []

    def decode() -> None:
        other = videodit.load(str(model), device="cpu")
        while (one := queue.get()) is not None:
            videos.append(other.decode(one))

    thread = threading.Thread(target=decode)
    thread.start()
    for job in made:
        for one in jobs.denoise(pipe, job):
            queue.put(one)
    queue.put(None)
    thread.join()
    for video, (_, expected) in zip(videos, jobs.run(pipe, made), strict=True):
        assert torch.equal(video.clip, expected.clip) and video.record == expected.record


# -------------------------------------------------------------------------------------------------------- pipes at once


def test_a_pipe_does_not_change(pipe: Pipe) -> None:
    for name, value in (("options", None), ("parts", None), ("passes", 2)):
        with pytest.raises((FrozenInstanceError, AttributeError)):
            setattr(pipe, name, value)
    with pytest.raises(FrozenInstanceError):
        pipe.options.passes = 2  # type: ignore[misc]
    other = pipe.with_options(passes=2, decoding=Way(1), kernel="reference")
    assert other.parts is pipe.parts and pipe.options.passes == 1 and pipe.options.kernel == "auto"
    assert (other.made_with["passes"], other.made_with["kernel"]) == (2, "reference")
    with pytest.raises(InputError, match="passes=3: it is 1 or 2"):
        pipe.with_options(passes=3)
    with pytest.raises(InputError, match="kernel=fast: no such kernel"):
        pipe.with_options(kernel="fast")


def test_a_kernel_is_the_pipes_own(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pipes of the same networks compute attention by kernels of their own."""
    from videodit.nn import kernels

    used, pick = [], kernels.Use.pick
    monkeypatch.setattr(
        kernels.Use, "pick", lambda self, kernel, *more: used.append(kernel) or pick(self, kernel, *more)
    )
    pipe.with_options(kernel="reference")(CAPTIONS[0], **SMALL)
    assert "reference" in used
    used.clear()
    pipe(CAPTIONS[0], **SMALL)
    assert used and "reference" not in used


@pytest.mark.parametrize("offload", ["none", "model", "block"])
def test_two_threads_do_not_disturb_each_other(model: Path, offload: str) -> None:
    """Two pipes of the same networks, in one pass and in two, make at once what each makes alone."""
    one = videodit.load(str(model), device="cpu", offload=offload)
    pipes = {1: one, 2: one.with_options(passes=2, decoding=Way(1))}
    asked = {"steps": 6, "frames": 9, "size": "48x32", "guidance": 3.0}
    alone = {passes: [pipe(CAPTIONS[0], **asked, seed=seed) for seed in (0, 1)] for passes, pipe in pipes.items()}
    together: dict[int, list[Any]] = {1: [], 2: []}
    begin = threading.Barrier(2)

    def make(passes: int) -> None:
        begin.wait()
        for seed in (0, 1):
            together[passes].append(pipes[passes](CAPTIONS[0], **asked, seed=seed))

    threads = [threading.Thread(target=make, args=(passes,)) for passes in pipes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for passes in pipes:
        assert len(together[passes]) == 2
        for video, expected in zip(together[passes], alone[passes], strict=True):
            assert torch.equal(video.clip, expected.clip) and video.record == expected.record
