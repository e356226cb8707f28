"""Stages that read pixels: the shots of a file, and what there is to measure of each."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from videodit.data import video
from videodit.data.files import Root
from videodit.errors import InputError
from videodit.ingest.caption import Captioner, Captions, Failed, Request
from videodit.ingest.guard import Result, dropped
from videodit.ingest.record import Dropped, Record, digest

Cutter = Callable[[Iterable[np.ndarray], float], Sequence[int]]  # frames and their rate -> the first of each new shot


@contextmanager
def reading(root: str, record: Record) -> Iterator[Path]:
    """A local path to a record's file; what cannot be read is dropped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", video.CorruptPackets)  # Scan has counted them
        try:
            with Root(root).open(record["source"]) as path:
                yield path
        except InputError as error:
            raise Dropped("cannot be read", str(error).removeprefix(f"{path}: ")) from None


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A file's record -> its shots: shot, first, last, shot_start, seconds.

    Args:
        root: where paths begin.
        cutter: finds hard cuts (see `cuts`).
    """

    root: str = field(repr=False)  # what is remembered does not depend on it
    cutter: Cutter

    def __call__(self, record: Record) -> list[Record]:
        """See the class."""
        times: list[float] = []
        with reading(self.root, record) as path:
            starts = self.cutter(_timed(path, times), record["source_fps"])
        bounds = [0, *starts, len(times)]
        ends = [*times[1:], times[-1] + 1 / record["source_fps"]]
        return [
            {
                "shot": digest(record["sha256"], first, following - 1),
                "first": first,
                "last": following - 1,
                "shot_start": times[first],
                "seconds": ends[following - 1] - times[first],
            }
            for first, following in zip(bounds[:-1], bounds[1:], strict=True)
        ]


def _timed(path: Path, times: list[float]) -> Iterator[np.ndarray]:
    """All frames of a file; their times are noted."""
    for time, image in video.timed(path):
        times.append(time)
        yield image


@dataclass(frozen=True, kw_only=True)
class Caption:
    """A bundle of shots' records -> a result for each: caption, caption_short, caption_long, captioned_by.

    Args:
        root: where paths begin.
        captioner: writes them.
        frames: of each shot that it is shown, evenly spread.
        bundle: shots it is given at once.
        workers: processes that call it.
        required: whether a shot without a caption is dropped; else it goes on with an empty one.
    """

    root: str
    captioner: Captioner
    frames: int
    bundle: int
    workers: int
    required: bool

    def __repr__(self) -> str:
        return f"Caption({self.captioner.fingerprint}, {self.frames}, {self.required})"

    def __call__(self, record: Record) -> list[Record]:
        """See the class."""
        results: list[Result] = [{} for _ in record["bundle"]]
        requests = {}
        for place, shot in enumerate(record["bundle"]):
            try:
                requests[place] = Request(self._shown(shot), shot["seconds"], shot["caption"])
            except Dropped as drop:
                results[place] = dropped(drop.reason, drop.detail)
        for place, answer in zip(requests, self.captioner(list(requests.values())), strict=True):
            results[place] = self._result(requests[place], answer)
        return results

    def _shown(self, shot: Record) -> Sequence[np.ndarray]:
        if not self.frames:
            return []
        with reading(self.root, shot) as path:
            interval = {"start": shot["shot_start"], "frames": self.frames, "fps": self.frames / shot["seconds"]}
            return list(video.stream(path, **interval))

    def _result(self, request: Request, answer: Captions | Failed) -> Result:
        if isinstance(answer, Captions):
            told = asdict(answer)
        elif self.required or answer.again:
            return dropped("no caption was written", answer.reason, again=answer.again)
        else:
            told = {"raw": request.given, "short": "", "long": "", "made_by": ""}
        return {
            "records": [
                {
                    "caption": told["raw"],
                    "caption_short": told["short"],
                    "caption_long": told["long"],
                    "captioned_by": told["made_by"],
                }
            ]
        }
