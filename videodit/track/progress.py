"""How a long run shows that it lives: a bar on a terminal, else a message now and then."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from videodit.alive import doing
from videodit.printable import note, one_line

WINDOW = 30  # the rate is that of the last WINDOW notes of the time, taken at least a second apart


class Progress:
    """Shows "train  step 1200/60000  loss 0.123  clips/s 18.2  1h 23m left" while the `with` block runs.

    On a terminal this is the text beside a bar, below whatever else is printed. Elsewhere (a log file, CI) it is a
    message at most every `every` seconds, and one at the end; where a step takes longer, `alive` says so. The rate
    counts from the first step that is done here: neither what starting takes nor the steps of earlier sessions
    (`start`, the step resumed from) distort it. It is left out where a field is one already.
    """

    def __init__(
        self,
        *,
        total: int,
        start: int = 0,
        label: str,
        every: float = 7.0,  # steps of a second are told before `alive` finds it silent
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.step, self.label, self.every = total, start, one_line(label), every
        self._console = console or Console(stderr=True)
        self._clock = clock
        self._fields: dict[str, float | str] = {}
        self._notes: deque[tuple[float, int]] = deque(maxlen=WINDOW)  # (seconds, step)
        self._bar: Bar | None = None
        self._task = TaskID(0)
        self._began = self._shown = 0.0
        self._pending = False  # an update that no line has shown yet
        self._inside = ExitStack()

    def __enter__(self) -> Progress:
        self._inside.enter_context(doing(lambda: f"{self.label}  {self._text()}"))
        self._began = self._clock()
        self._shown = self._began - self.every  # so the first update is shown at once
        if self._console.is_interactive:
            text = TextColumn("{task.fields[text]}", markup=False)
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), text)
            self._bar = Bar(*columns, console=self._console, refresh_per_second=4)
            self._task = self._bar.add_task(self.label, total=self.total, completed=self.step, text="")
            self._bar.start()
        return self

    def update(self, step: int, **fields: float | str) -> None:
        """Show that `step` steps are done. Fields keep their order and, until given again, their value."""
        now = self._clock()
        self.step = step
        self._fields.update(fields)
        if not self._notes or now - self._notes[-1][0] >= 1.0:
            self._notes.append((now, step))
        self._pending = True
        if self._bar:
            self._bar.update(self._task, completed=step, text=self._text())
        elif now - self._shown >= self.every:
            self._line()

    def __exit__(self, *_: object) -> None:
        self._inside.close()
        if self._bar:
            self._bar.stop()
        elif self._pending:
            self._line()

    def _line(self) -> None:
        note(__name__, f"{self.label}  {self._text()}")
        self._shown = self._clock()
        self._pending = False

    def _text(self) -> str:
        shown = (f"{name} {number(value)}" for name, value in self._fields.items())
        return "  ".join([f"step {self.step}/{self.total}", *shown, *self._time()])

    def _time(self) -> list[str]:
        now = self._clock()
        if self.step >= self.total:
            return [f"took {duration(now - self._began)}"]
        since, step = self._notes[0] if self._notes else (now, self.step)
        if self.step <= step or now - since < 1.0:
            return []  # no rate yet
        rate = (self.step - step) / (now - since)
        told = any(name.endswith("/s") for name in self._fields)
        return [*([] if told else [f"{number(rate)}/s"]), f"{duration((self.total - self.step) / rate)} left"]


def number(value: float | str) -> str:
    """Three digits of a small number, all of a large or whole one: 0.123, 18.2, 1460, 3e-05."""
    if isinstance(value, float):
        return f"{value:.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"
    return str(value)


def duration(seconds: float) -> str:
    """Seconds in their two largest units: "45s", "2m 05s", "1h 23m", "3d 04h"."""
    whole = max(0, round(seconds))
    for unit, size, minor, minor_size in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // minor_size:02}{minor}"
    return f"{whole}s"
