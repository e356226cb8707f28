"""`videodit report`: a run as one HTML page."""

from __future__ import annotations

from pathlib import Path

from videodit.atomic import check_output
from videodit.cli.settings import Report
from videodit.config import assets_dir
from videodit.data.video import replacing
from videodit.errors import InputError
from videodit.printable import answer
from videodit.track.compare import Beside
from videodit.track.curves import read, unpack
from videodit.track.page import page
from videodit.track.story import tell
from videodit.untrusted import read_json


def run(asked: Report) -> None:
    """Write the page of the run in `asked.path`, and print where it is."""
    if not asked.path:
        raise InputError("path: which run? videodit report runs/NAME")
    folder = Path(asked.path)
    out = Path(asked.out) if asked.out else folder / "report.html"
    if folder.is_file():
        raise InputError(f"{folder}: it is a file; name a run's folder")
    story = tell(folder)
    check_output(out)
    others = [Path(name.strip()) for name in asked.compare.split(",") if name.strip()]
    short = len({path.resolve().name for path in (folder, *others)}) > len(others)
    beside = [read_other(path, path.resolve().name if short else str(path)) for path in others]
    beside += references(asked.reference, story.name)
    with replacing(out) as temporary:
        # Half a surrogate pair, which JSON may hold, becomes a reference that shows as a question mark.
        text = page(story, beside, out.parent, log=asked.log)
        temporary.write_text(text, encoding="utf-8", errors="xmlcharrefreplace")
    answer(out)


def read_other(path: Path, label: str) -> Beside:
    """Another run: all that its folder tells, or the curves alone of a metrics file."""
    if not path.is_dir():
        return Beside(label, read(path))
    story = tell(path)
    return Beside(label, story.curves, story)


def references(name: str, run: str) -> list[Beside]:
    """The shipped curve of this name, else the one of the run's own name if there is one."""
    files = {path.stem: path for path in (assets_dir() / "curves").glob("*.json")}
    if name and name not in files:
        raise InputError(f"reference={name}: not among {', '.join(sorted(files))}")
    if (chosen := name or run) not in files:
        return []
    return [Beside(f"reference ({chosen})", unpack(read_json(files[chosen])["curves"]))]
