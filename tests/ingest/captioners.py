"""Captioners for tests, importable by a worker process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from videodit.errors import Stop
from videodit.ingest.caption import Captions, Failed, Request


@dataclass(kw_only=True)
class Told:
    """Says how many frames it sees, and notes each bundle in a file. It fails as its argument says.

    fail: "", "clip" (those with a caption), "again", or "stop" once it has answered two bundles.
    """

    notes: str
    fail: str

    looks = True
    fingerprint = "told"
    answers = 0

    @property
    def usage(self) -> dict[str, float]:
        """One answer a clip, at half the money that captions are counted in."""
        return {"answers": self.answers, "input_tokens": 10 * self.answers, "cost": 0.5 * self.answers}

    def __call__(self, requests: Sequence[Request]) -> list[Captions | Failed]:
        """See the class."""
        with Path(self.notes).open("a") as file:
            file.write(f"{len(requests)}\n")
        if self.fail == "stop" and len(Path(self.notes).read_text().split()) > 2:
            raise Stop("captioner.key=NAME: it is wrong")
        self.answers += len(requests)
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Captions | Failed:
        if self.fail == "again":
            return Failed("busy", again=True)
        if self.fail == "clip" and request.given:
            return Failed("it refused", again=False)
        told = f"{len(request.frames)} frames of {request.seconds:.1f} seconds"
        return Captions(raw=request.given, long=f"long: {told}", short=told, made_by="told")
