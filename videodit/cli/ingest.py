"""`videodit ingest`: from a folder of raw videos to a training set."""

from __future__ import annotations

from videodit.errors import InputError
from videodit.ingest.build import make_set
from videodit.ingest.settings import Ingest
from videodit.ingest.verdict import verdict
from videodit.printable import answer


def run(asked: Ingest) -> None:
    """Make a set, or say what one would be."""
    found, page = make_set(asked)
    answer(*verdict(found))
    if page is not None:
        answer(page)
    if not found.clips:
        raise InputError(f"videos={asked.videos}: no clip is left of it; the lines above say where they went")
