"""The null tracker, which every tracker derives from, and the composite that feeds several.

with Composite(trackers=[Jsonl(path=...), TensorBoard(folder=...)]) as tracker:
    tracker.start(config, step=0)
    tracker.scalars(1, {"loss": 0.5})
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from videodit.errors import InputError
from videodit.printable import warn


class Tracker:
    """Takes the numbers, pictures and samples of one run. This one takes them nowhere.

    `start` comes first and `finish` last; used as a context manager, a tracker always finishes. `step` is the number of
    finished training steps, so step 0 is before the first. Names may group with a slash: "loss/train". Media are files
    that are already encoded; a tracker copies them and never encodes.
    """

    def start(self, config: Mapping[str, Any], step: int) -> None:
        """Begin a run (step 0, dropping what an earlier one left here) or resume after `step` (later records drop)."""

    def forget(self, step: int, beginnings: Sequence[str]) -> None:
        """Drop what was recorded of this step under names that begin so: it comes again. Not every tracker can."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers; they may be infinite or nan."""

    def image(self, step: int, name: str, path: str | Path) -> None:
        """Record a PNG file."""

    def video(self, step: int, name: str, path: str | Path, caption: str, sheet: str | Path | None = None) -> None:
        """Record an mp4 file and its caption; `sheet`, a contact sheet (PNG), is for trackers that show no video."""

    def table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Record a table of text and numbers: as many values in a row as there are columns."""

    def finish(self, failed: bool = False) -> None:
        """Write out and close; harmless before `start` and when repeated. `failed`: the run ended by an exception."""

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.finish(failed=kind is not None)


class Composite(Tracker):
    """Feeds several trackers, and keeps a broken one from ending a run.

    A tracker that raises is reported once, and gets nothing more, except that it is still finished. Not so
    with InputError, which is for the user to put right (a package to install, a full disk: see Jsonl): it goes on to
    the caller after every tracker had its turn.
    """

    def __init__(self, *, trackers: Sequence[Tracker]) -> None:
        self._trackers = list(trackers)
        self._broken: set[int] = set()  # indices into the trackers

    def start(self, config: Mapping[str, Any], step: int) -> None:
        self._each(lambda tracker: tracker.start(config, step))

    def forget(self, step: int, beginnings: Sequence[str]) -> None:
        self._each(lambda tracker: tracker.forget(step, beginnings))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._each(lambda tracker: tracker.scalars(step, values))

    def image(self, step: int, name: str, path: str | Path) -> None:
        self._each(lambda tracker: tracker.image(step, name, path))

    def video(self, step: int, name: str, path: str | Path, caption: str, sheet: str | Path | None = None) -> None:
        self._each(lambda tracker: tracker.video(step, name, path, caption, sheet))

    def table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self._each(lambda tracker: tracker.table(step, name, columns, rows))

    def finish(self, failed: bool = False) -> None:
        self._each(lambda tracker: tracker.finish(failed), broken_too=True)

    def _each(self, call: Callable[[Tracker], None], broken_too: bool = False) -> None:
        """Call every tracker; report and set aside those that raise, then raise the first InputError among them."""
        wrong: InputError | None = None
        for index, tracker in enumerate(self._trackers):
            if index in self._broken and not broken_too:
                continue
            try:
                call(tracker)
            except InputError as error:
                wrong = wrong or error
            except Exception as error:  # whatever a third party raises: a training must outlive it
                if index not in self._broken:
                    _report(tracker, error)
                self._broken.add(index)
        if wrong:
            raise wrong


def _report(tracker: Tracker, error: Exception) -> None:
    reason = " ".join(f"{type(error).__name__}: {error}".split())  # one line
    warn(__name__, f"warning: the {type(tracker).__name__} tracker is off, the run goes on ({reason})")


def plain(value: Any) -> Any:
    """Copy of nested values that any JSON reader takes.

    A float that is not finite becomes "nan", "inf" or "-inf", the single number of an array or a tensor a Python one, a
    tuple a list, and whatever else JSON cannot hold (a path) its str. Half a surrogate pair is escaped.
    """
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if value is None or isinstance(value, (int, float)):
        return value
    return plain(value.item()) if hasattr(value, "item") else str(value)
