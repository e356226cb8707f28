"""Runs beside one another on a page: their final numbers, the keys of their configs that differ, their last samples."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from videodit.printable import markup
from videodit.track.charts import latest, short
from videodit.track.curves import Curve
from videodit.track.names import METRICS, is_family
from videodit.track.progress import duration
from videodit.track.story import Story

OWN = ("origin", "name", "run_dir", "tracked", "tracker")  # keys that differ from run to run whatever is trained
LONG = 160  # letters of a value
NOTHING = "–"

Section = tuple[str, str]  # a title and HTML


class Beside(NamedTuple):
    """What is shown beside a run: the curves of another one, or a reference; `story`: the rest, where it is a run."""

    label: str
    curves: Mapping[str, Curve]
    story: Story | None = None


def compared(story: Story, beside: Sequence[Beside], url: Callable[[Path], str]) -> Iterator[Section]:
    """The sections. `url`: what an HTML attribute takes to show a file."""
    if not beside:
        return
    runs = [Beside(story.name, story.curves, story), *beside]
    labels = [one.label for one in runs]
    yield "Final numbers", table(("", *labels), list(_numbers(runs)))
    told = [one for one in runs if one.story is not None and one.story.config]
    if len(told) > 1:
        rows = list(_differences([one.story.config for one in told]))
        same = '<p class="soft">None: the configs are the same.</p>'
        yield "Config keys that differ", table(("key", *(one.label for one in told)), rows) if rows else same
    if rows := list(_samples(runs, url)):
        yield "Last samples side by side", "".join(rows)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table of texts, with line breaks as they are."""
    head = "".join(f"<th>{markup(column)}</th>" for column in columns) if any(columns) else ""
    body = "".join(
        "<tr>" + "".join(f"<td>{markup(cell).replace(chr(10), '<br>')}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table>{f"<tr>{head}</tr>" if head else ""}{body}</table></div>'


def _numbers(runs: Sequence[Beside]) -> Iterator[tuple[str, ...]]:
    """The last value of every number that stands alone, in the order of the table of numbers."""
    steps = [max((int(steps[-1]) for steps, _ in one.curves.values() if len(steps)), default=0) for one in runs]
    yield "Steps", *map(short, steps)
    if any(one.story for one in runs):
        yield "Time", *(duration(one.story.seconds) if one.story else NOTHING for one in runs)
    for metric in METRICS:
        if is_family(metric) or metric.name == "seconds" or not any(metric.name in one.curves for one in runs):
            continue
        values = (short(latest(one.curves[metric.name][1])) if metric.name in one.curves else NOTHING for one in runs)
        yield f"{metric.title}{f' ({metric.unit})' * bool(metric.unit)}", *values


def _differences(configs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """Each key that not all configs have with the same value, and its values."""
    flat = [dict(_flat({key: value for key, value in one.items() if key not in OWN}, "")) for one in configs]
    for key in dict.fromkeys(key for one in flat for key in one):
        values = [one.get(key, NOTHING) for one in flat]
        if len(set(values)) > 1:
            yield key, *(value if len(value) <= LONG else f"{value[:LONG]}…" for value in values)


def _flat(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Dotted keys and what they hold, as text."""
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from _flat(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, node if isinstance(node, str) else json.dumps(node, ensure_ascii=False)


def _samples(runs: Sequence[Beside], url: Callable[[Path], str]) -> Iterator[str]:
    """For each prompt the last sample of every run that has one; where runs share none, their last contact sheets."""
    told = [(one.label, one.story) for one in runs if one.story is not None]
    shared = [prompt for prompt in told[0][1].videos if any(prompt in story.videos for _, story in told[1:])]
    for prompt in shared:
        files = [(label, story.videos[prompt]) for label, story in told if prompt in story.videos]
        strip = "".join(
            f'<figure><video src="{url(steps[max(steps)])}" autoplay muted loop playsinline></video>'
            f"<figcaption>{markup(label)}, step {max(steps)}</figcaption></figure>"
            for label, steps in files
        )
        yield f'<div class="row"><p>{markup(prompt)}</p><div class="strip">{strip}</div></div>'
    if not shared and len(told) > 1:
        for label, story in told:
            if story.sheets:
                step = max(story.sheets)
                image = f'<img class="sheet" alt="samples of {markup(label)}" src="{url(story.sheets[step])}">'
                yield f'<div class="row"><p>{markup(label)}, step {step}</p>{image}</div>'
