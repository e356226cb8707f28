"""From a folder of videos to a set, stage after stage: what `videodit ingest` runs.

Every record that a stage sees goes on, or is dropped under that stage with a reason: see `Outcome.balance`. Stages that
read are remembered (`journal`), so that a run takes up where an earlier one was cut off, and does only what is new.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from videodit.alive import doing
from videodit.data.captions import DIFFER, LOST, MISSING, is_beside
from videodit.data.files import Listing, Root
from videodit.data.sample import INTERLACED, faster
from videodit.data.split import held_out
from videodit.errors import InputError
from videodit.ingest.duplicates import components, groups, near_by_embedding, near_duplicates
from videodit.ingest.encode import Encode
from videodit.ingest.engine import Engine
from videodit.ingest.guard import Result, dropped
from videodit.ingest.journal import Journal
from videodit.ingest.record import Dropped, Record, Stage, digest
from videodit.ingest.scan import Scan
from videodit.ingest.select import Bounds, fault
from videodit.ingest.settings import Duplicates
from videodit.ingest.shape import Shape
from videodit.ingest.stages import Caption, Cut, Measure, Thumbnail
from videodit.printable import one_line
from videodit.track.progress import Progress

PICTURE = 192  # pixels of a thumbnail's long side
MINUTE = 1500  # frames
OTHER = "the same bytes as another file, which has another caption"
BARE = "a near-duplicate of a better one, which has no caption"
VERSION = 5  # of what the stages remember: a change of what they give makes it useless


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a set is made.

    Args:
        root: the folder or URL of the videos.
        out: of the set.
        engine: where stages run.
        limit: seconds that a stage may take for a file or clip, and again so many for each 1500 frames.
        cut, measure, caption, shape: the stages' own.
        select: bounds of what is measured.
        duplicates: when two shots are near-duplicates.
        heldout: the share that is held out.
    """

    root: str
    out: Path
    engine: Engine
    limit: float
    cut: Cut
    measure: Measure
    select: Bounds
    duplicates: Duplicates
    caption: Caption
    shape: Shape
    heldout: float


@dataclass
class Outcome:
    """What became of everything.

    seen: records that each stage began with. dropped: those that went no further, with stage, reason and detail.
    clips: what is left. groups: near-duplicates, the one that was kept first. used: what captioners used in this run.
    captioned: files that are videos and came with a caption.
    """

    listing: Listing = field(default_factory=Listing)
    seen: dict[str, int] = field(default_factory=dict)
    went_on: dict[str, int] = field(default_factory=dict)
    dropped: list[Record] = field(default_factory=list)
    groups: list[list[Record]] = field(default_factory=list)
    clips: list[Record] = field(default_factory=list)
    used: Counter[str] = field(default_factory=Counter)
    captioned: int = 0

    def drop(self, stage: str, record: Record, reason: str, detail: str = "") -> None:
        """Count a record out. Of names and messages, what is no text or steers a terminal is escaped."""
        told = {"source": record["source"], "stage": stage, "reason": reason, "detail": detail}
        self.dropped.append(record | {key: one_line(text) for key, text in told.items()})

    def damaged(self) -> dict[str, int]:
        """Files of which some frames cannot be decoded, and how many."""
        seen = [*self.clips, *self.dropped]
        return dict(sorted({one["source"]: one["corrupt"] for one in seen if one.get("corrupt")}.items()))

    def made_up(self) -> list[str]:
        """In lines how many clips show what their files do not have: frames twice, lines between those of a field."""
        repeated = sum(one["frames"] > 1 and faster(one["fps"], one["source_fps"]) for one in self.clips)
        counts = {
            "have a rate above their file's own, so frames are repeated (shape.fps=null keeps each its own)": repeated,
            INTERLACED: sum(one["interlaced"] for one in self.clips),
        }
        return [f"{count} of {len(self.clips)} clips {told}" for told, count in counts.items() if count]

    def captions(self) -> tuple[str, list[str]]:
        """How many captions came whole, were changed, lost or are absent, in a line; and where, of the lost ones."""
        there = self.went_on.get("scan", 0)
        lost = [one for one in self.dropped if one["reason"] in (MISSING, DIFFER, LOST, OTHER, BARE)]
        lost += [one for one in self.dropped if one["stage"] == "scan" and is_beside(one["source"])]
        counts = f"{there - self.captioned} absent, {len(lost)} lost, {len(self.listing.changed)} changed"
        places = [f"{one['source']}: {one['reason']}: {one['detail']}" for one in lost]
        return f"{self.captioned} of {there} files came with one; {counts}", places + [
            f"{where}: half a character could not be kept" for where in self.listing.changed
        ]

    def balance(self) -> bool:
        """Whether nothing was lost in silence: at each stage, what was seen went on or was dropped."""
        gone = {stage: sum(one["stage"] == stage for one in self.dropped) for stage in self.seen}
        return all(self.seen[stage] == self.went_on[stage] + gone[stage] for stage in self.seen)


class Run:
    """One run of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.found = plan, Outcome()

    def clips(self, *, captions: bool, encode: Encode | None) -> Outcome:
        """All stages, up to the clips that the set will have. captions: whether they are written; encode: latents."""
        plan = self.plan
        files = self.files()
        sources = self.each("scan", Scan(root=plan.root), files, key=lambda file: (file["source"], file["stamp"]))
        self.found.captioned = sum(bool(source["caption"]) for source in sources)
        sources = self.exact(sources)
        shots = self.each("cut", plan.cut, sources, key=lambda source: (source["sha256"],))
        shots = self.each("measure", plan.measure, shots, key=lambda shot: (shot["shot"],))
        shots = self.those("select", shots, lambda shot: fault(shot, plan.select))
        shots = self.unique(shots)
        shots = self.captions(shots) if captions else shots
        clips = [clip for shot in shots for clip in self.pieces(shot)]
        self.found.seen["shape"], self.found.went_on["shape"] = len(shots), len({clip["shot"] for clip in clips})
        held = held_out((clip["group"] for clip in clips), plan.heldout) if clips else set()
        clips = [{**clip, "split": "heldout" if clip["group"] in held else "train", "shards": []} for clip in clips]
        clips = sorted(clips, key=lambda clip: clip["id"])
        self.found.clips = self.encoded(encode, clips) if encode else clips
        return self.found

    def files(self) -> list[Record]:
        """What may be videos. The rest of a listing is dropped here."""
        with doing(f"list {self.plan.root}"):
            listing = self.found.listing = Root(self.plan.root).list(without=self.plan.out)
        self.found.seen["list"] = len(listing.files) + len(listing.faults)
        self.found.went_on["list"] = len(listing.files)
        for path, why in listing.faults:
            of_captions = why.startswith((MISSING, DIFFER, LOST))
            reason, _, detail = why.partition(": ") if of_captions else ("cannot be looked into", "", why)
            self.found.drop("list", {"source": path}, reason, detail)
        return [{"source": f.path, "stamp": f.stamp, "caption": f.caption, "origin": f.origin} for f in listing.files]

    def each(
        self,
        name: str,
        stage: Stage,
        records: list[Record],
        *,
        key: Callable[[Record], tuple],
        bundle: int | None = None,
    ) -> list[Record]:
        """Records through a stage, in their order, each with what the stage adds to it; new ones through the engine.

        Raises InputError for a stage that prints where it lies in memory: what it did could not be found again.
        """
        if " at 0x" in repr(stage):
            raise InputError(f"{name}: {stage} must print its settings, as a dataclass does: its results go by them")
        keys = [digest(VERSION, name, stage, *key(record)) for record in records]
        with closing(Journal(self.plan.out / ".ingest" / f"{name}.jsonl")) as journal:
            known = [k in journal.known and journal.known[k].get("limit", math.inf) >= self.limit(record)
                     for k, record in zip(keys, records, strict=True)]  # fmt: skip
            new = {k: i for i, k in reversed(list(enumerate(keys))) if not known[i]}
            todo = sorted(new.values())
            once: dict[str, Result] = {}
            with Progress(total=len(records), start=len(records) - len(todo), label=name) as progress:
                for place, result in self.work(stage, [records[i] for i in todo], bundle):
                    if result.get("again"):
                        once[keys[todo[place]]] = result
                    else:
                        journal.add(keys[todo[place]], result)
                    progress.update(progress.step + 1)
            results = [once.get(k) or journal.known[k] for k in keys]
        self.found.seen[name] = len(records)
        return self.sorted_out(name, records, results)

    def limit(self, record: Record) -> float:
        """Seconds that a stage may take for it."""
        return self.plan.limit * (1 + record.get("stored", 0) / MINUTE)

    def work(self, stage: Stage, records: list[Record], bundle: int | None) -> Iterator[tuple[int, Result]]:
        """(place, result) of records, as they are done."""
        if not records:
            return
        parts = [range(len(records))[i : i + (bundle or 1)] for i in range(0, len(records), bundle or 1)]
        given = [{"bundle": [records[i] for i in part]} for part in parts] if bundle else records
        limits = [sum(self.limit(records[i]) for i in part) for part in parts]
        for place, result in self.plan.engine.run(stage, given, limits, getattr(stage, "workers", None)):
            if "stop" in result:
                raise InputError(result["stop"])
            whole = "records" in result and bundle
            results = result["records"] if whole else [result] * len(parts[place])
            for one in results:
                self.found.used.update(one.pop("used", {}))
            yield from zip(parts[place], results, strict=True)

    def sorted_out(self, name: str, records: Sequence[Record], results: Sequence[Result]) -> list[Record]:
        """What goes on; the rest is counted out."""
        kept = []
        for record, result in zip(records, results, strict=True):
            if "dropped" in result:
                self.found.drop(name, record, result["dropped"], result["detail"])
            else:
                kept.append([{**record, **new} for new in result["records"]])
        self.found.went_on[name] = len(kept)
        return [one for several in kept for one in several]

    def those(
        self, name: str, records: list[Record], fault: Callable[[Record], tuple[str, str] | None]
    ) -> list[Record]:
        """Records without a fault."""
        faults = [fault(record) for record in records]
        self.found.seen[name] = len(records)
        return self.sorted_out(name, records, [dropped(*one) if one else {"records": [{}]} for one in faults])

    def exact(self, sources: list[Record]) -> list[Record]:
        """Files without those that are others' bytes once more: of these the one with a caption, or the first."""
        best: dict[str, Record] = {}
        for source in sources:
            kept = best.setdefault(source["sha256"], source)
            if source["caption"] and not kept["caption"]:
                best[source["sha256"]] = source

        def copy(source: Record) -> tuple[str, str] | None:
            kept = best[source["sha256"]]
            told = source["caption"].split()
            reason = OTHER if told and told != kept["caption"].split() else "the same bytes as another file"
            return None if kept is source else (reason, kept["source"])

        return self.those("copies", sources, copy)

    def unique(self, shots: list[Record]) -> list[Record]:
        """Shots without near-duplicates of better ones; each gets its group."""
        with doing("find near-duplicates"):
            alike = self.alike(shots)
        better: dict[int, Record] = {}
        for group in alike:
            ordered = sorted(group, key=lambda i: (*quality(shots[i]), shots[i]["shot"]))
            self.found.groups.append([shots[i] for i in ordered])
            better |= {i: shots[ordered[0]] for i in ordered[1:]}
        related = [[s["sha256"], s["origin"] or s["sha256"]] for s in shots]
        related += [[shots[i]["sha256"] for i in group] for group in alike]
        names = components(related)
        shots = [{**shot, "group": names[shot["sha256"]]} for shot in shots]
        places = {shot["shot"]: i for i, shot in enumerate(shots)}

        def worse(shot: Record) -> tuple[str, str] | None:
            kept = better.get(places[shot["shot"]])
            if kept is None:
                return None
            reason = BARE if shot["caption"] and not kept["caption"] else "a near-duplicate of a better one"
            return reason, f"{kept['source']}, frame {kept['first']}"

        return self.those("deduplicate", shots, worse)

    def alike(self, shots: list[Record]) -> list[list[int]]:
        """Groups of near-duplicates, by hashes and by embeddings."""
        how = self.plan.duplicates
        hashes = [np.array(shot["hashes"], dtype=np.uint64) for shot in shots]
        by_hash = near_duplicates(hashes, distance=how.distance, share=how.share)
        directions = np.array([shot["embedding"] for shot in shots]).reshape(len(shots), -1 if shots else 0)
        by_embedding = near_by_embedding(directions, cosine=how.cosine)
        return groups([*by_hash, *by_embedding])

    def captions(self, shots: list[Record]) -> list[Record]:
        """Shots with their captions; the one that came with a clip is kept as it is."""
        caption = self.plan.caption
        return self.each("caption", caption, shots, key=lambda s: (s["shot"], s["caption"]), bundle=caption.bundle)

    def encoded(self, encode: Encode, clips: list[Record]) -> list[Record]:
        """Clips with the shards of their latents.

        In order of their ids and from the first that lacks them, so that a run which was cut off makes the same shards.
        """
        told = encode.there(clips)
        todo = [place for place, result in enumerate(told) if "have" in result]
        given = [clips[i] | told[i] for i in todo]
        with Progress(total=len(clips), start=len(clips) - len(todo), label="encode") as progress:
            for place, result in self.work(encode, given, encode.bundle):
                told[todo[place]] = result
                progress.update(progress.step + 1)
        self.found.seen["encode"] = len(clips)
        return self.sorted_out("encode", clips, told)

    def pictures(self, shots: list[Record]) -> dict[str, str]:
        """For each shot a URL of what it looks like, less those that cannot be read."""
        shots = list({shot["shot"]: shot for shot in shots}.values())
        results: list[tuple[int, Result]] = []
        with doing(lambda: f"pictures of the page, {len(results)} of {len(shots)}"):
            results += self.work(Thumbnail(root=self.plan.root, edge=PICTURE), shots, None)
        return {shots[i]["shot"]: result["records"][0]["picture"] for i, result in results if "records" in result}

    def pieces(self, shot: Record) -> list[Record]:
        """The clips of a shot."""
        try:
            return self.plan.shape(shot)
        except Dropped as drop:
            self.found.drop("shape", shot, drop.reason, drop.detail)
            return []


def quality(shot: Record) -> tuple[float, ...]:
    """What makes a shot the better of two, smaller is better: size, compression, a caption, length."""
    return (-shot["height"] * shot["width"], shot["compression"], not shot["caption"], -shot["seconds"])
