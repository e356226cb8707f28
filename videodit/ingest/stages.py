"""Stages that read pixels: the shots of a file, and what there is to measure of each."""

from __future__ import annotations

import base64
import io
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from videodit.data import video
from videodit.data.files import Root
from videodit.errors import Stop
from videodit.features.fingerprint import HASHES
from videodit.features.measures import MEASURES, Embedder, Scorer, embedding, score, watch
from videodit.features.measures import Measure as MeasureOf
from videodit.ingest.caption import Captioner, Captions, Failed, Request
from videodit.ingest.cuts import CutDetector
from videodit.ingest.guard import Result, dropped
from videodit.ingest.record import Dropped, Record, digest, stopping

GAP = 2.0  # seconds between two frames of a shot, at most


@contextmanager
def reading(root: str, record: Record) -> Iterator[Path]:
    """A local path to a record's file; what cannot be read is dropped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", video.CorruptPackets)  # Cut counts them
        with stopping():
            folder = Root(root)
            folder.system()
        path = ""
        try:
            with folder.open(record["source"]) as path:
                yield path
        except Stop:
            raise
        except video.InputError as error:
            raise Dropped("cannot be read", str(error).removeprefix(f"{video.named(path)}: ")) from error


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A file's record -> its shots: shot, first, last, count (decodable frames), shot_start, seconds, corrupt.

    A shot ends at a hard cut, and where no frame comes for a while: a clock that jumped, or a slide. Where a clock
    jumped back, times that have been name the frames before: the shots of those after it say so, as `behind`.

    Args:
        root: where paths begin.
        cutter: finds hard cuts (see `cuts`).
    """

    root: str = field(repr=False)  # what is remembered does not depend on it
    cutter: CutDetector

    def __call__(self, record: Record) -> list[Record]:
        """See the class."""
        numbers: list[int] = []
        with reading(self.root, record) as path:
            times, end = video.timeline(path)
            ends = [*times[1:].tolist(), end]
            starts = self.cutter(_noted(video.numbered(path, table=times), numbers), record["source_fps"])
        if not numbers:
            raise Dropped("cannot be read", "no frame can be decoded")
        behind = _behind(times[numbers])
        steps, turns = np.diff(times[numbers]), np.diff(behind)
        gaps = (np.flatnonzero((steps > GAP) | (steps < 0) | turns) + 1).tolist()
        places = sorted({0, *starts, *gaps, len(numbers)})
        shots = []
        for place, following in zip(places[:-1], places[1:], strict=True):
            first, last = numbers[place], numbers[following - 1]
            about = {"first": first, "last": last, "count": following - place, "shot_start": float(times[first])}
            lasts = ends[last] - times[last] if following not in gaps else min(1 / record["source_fps"], GAP / 2)
            # Not of frames that all stand at one time either, nor of a last one after others: a shot takes time.
            about["seconds"] = float(times[last] - times[first]) + min(max(float(lasts), video.TIE), GAP)
            about |= {"corrupt": len(times) - len(numbers), "behind": bool(behind[place])}
            shots.append({"shot": digest(record["sha256"], first, last), **about})
        return shots


def _behind(times: np.ndarray) -> np.ndarray:
    """Whether each frame's time, of times (T,), lies before that of one that came earlier, or is not clearly later."""
    found, latest, behind = [], -np.inf, False
    for time in times:
        behind = bool(time < latest + (video.TIE if behind else 0))
        latest = max(latest, time)
        found.append(behind)
    return np.array(found)


def _noted(numbered: Iterable[tuple[int, np.ndarray]], numbers: list[int]) -> Iterator[np.ndarray]:
    """The frames; their numbers are written down."""
    for number, image in numbered:
        numbers.append(number)
        yield image


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A shot's record -> what `measure` tells of it, score_… of each scorer, and what duplicates are known by: hashes
    and an embedding.

    Args:
        root: where paths begin.
        edge: see `measure`.
        scorers: learned opinions, by choice.
        embedder: gives directions.
    """

    root: str = field(repr=False)
    edge: int
    scorers: Sequence[Scorer]
    embedder: Embedder

    @property
    def numbers(self) -> list[MeasureOf]:
        """All measures that give a number, which can be selected by."""
        return [*MEASURES, *map(score, self.scorers)]

    def __call__(self, record: Record) -> list[Record]:
        """See the class."""
        if record["behind"]:
            why = f"frame {record['first']} stands at {record['shot_start']:.3f} seconds, which have been"
            raise Dropped("its clock jumped back", why)
        count, measures = record["count"], [*self.numbers, embedding(self.embedder), HASHES]
        with reading(self.root, record) as path:
            frames = video.stream(path, start=record["shot_start"], frames=count)
            seen = watch(frames, count / record["seconds"], edge=self.edge, measures=measures, count=count)
        return [{name: running.number() for name, running in seen.items()}]


@dataclass(frozen=True, kw_only=True)
class Caption:
    """A bundle of shots' records -> a result for each: caption, caption_short, caption_long, captioned_by.

    The first one also tells what the captioner used for all of them.

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
        requests, before = {}, Counter(self.captioner.usage)
        for place, shot in enumerate(record["bundle"]):
            try:
                requests[place] = Request(self._shown(shot), shot["seconds"], shot["caption"])
            except Dropped as drop:
                results[place] = dropped(drop.reason, drop.detail)
        for place, answer in zip(requests, self.captioner(list(requests.values())), strict=True):
            results[place] = self._result(requests[place], answer)
        results[0]["used"] = dict(Counter(self.captioner.usage) - before)
        return results

    def _shown(self, shot: Record) -> Sequence[np.ndarray]:
        if not self.captioner.looks:
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


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A shot's record -> picture: a small JPEG of the frame in its middle, as a URL.

    Args:
        root: where paths begin.
        edge: pixels of its long side.
    """

    root: str
    edge: int

    def __call__(self, record: Record) -> list[Record]:
        """See the class."""
        with reading(self.root, record) as path:
            frames, _ = video.read(path, start=record["shot_start"] + record["seconds"] / 2, frames=1, fps=1.0)
        image, file = Image.fromarray(frames[0]), io.BytesIO()
        image.thumbnail((self.edge, self.edge))
        image.save(file, "JPEG", quality=80)
        return [{"picture": f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"}]
