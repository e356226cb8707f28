"""The report of a run as one HTML page: it needs no server, no script and no network, and can be sent as one file."""

from __future__ import annotations

import json
import os
import re
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from videodit.printable import markup
from videodit.track.charts import Line, chart, latest, short
from videodit.track.compare import Beside, Section, compared, table
from videodit.track.curves import Curve
from videodit.track.names import GROUPS, METRICS, Metric, find, is_family
from videodit.track.progress import duration
from videodit.track.story import Story
from videodit.track.style import STYLE

EMBED = 2_000_000  # bytes of a video or picture that goes into the page; a larger one is linked
EMBED_ALL = 24_000_000  # bytes of all together
SAMPLED = 8  # steps whose samples are shown, spread over the run
PATHS = 5  # of skipped clips for each reason
OTHER = "Other numbers"
BEFORE_SAMPLES = GROUPS[:2]  # what tells how good the model is; how it got there comes after what it makes
HUES = (250, 45, 150, 320, 100)  # of the run itself and of those beside it, where a chart has one line of each
MEDIA = {".mp4": "video/mp4", ".png": "image/png"}


class Shelf:
    """Where a page's media are: inside it while there is room, else linked relative to `folder`, where it lies."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.room = folder, EMBED_ALL

    def url(self, path: Path) -> str:
        """What an HTML attribute takes to show the file."""
        size = path.stat().st_size
        if size > min(EMBED, self.room):
            return markup(quote(os.path.relpath(path.resolve(), self.folder.resolve())))
        self.room -= size
        return f"data:{MEDIA[path.suffix]};base64,{b64encode(path.read_bytes()).decode()}"


def page(story: Story, beside: Sequence[Beside], folder: Path, *, log: bool) -> str:
    """The page as HTML, for a file in `folder`. `log`: logarithmic axes where a metric's table entry asks for one."""
    curves = list(_curves(story, beside, log=log))
    first = sum(title in BEFORE_SAMPLES for title, _ in curves)
    shelf = Shelf(folder)
    sections = [*compared(story, beside, shelf.url), *curves[:first], *_samples(story, shelf), *curves[first:]]
    sections += _facts(story)
    links = " · ".join(f'<a href="#{_anchor(title)}">{markup(title)}</a>' for title, _ in sections)
    return "\n".join([
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{markup(story.name)} at step {story.step}</title>",
        f"<style>{STYLE}</style></head><body><main>",
        *_head(story, beside),
        f"<nav>{links}</nav>",
        *(f'<h2 id="{_anchor(title)}">{markup(title)}</h2>{content}' for title, content in sections),
        f"<footer>Written by videodit report on {_date(time.time())}.</footer>",
        "</main></body></html>",
        "",
    ])  # fmt: skip


def _head(story: Story, beside: Sequence[Beside]) -> Iterator[str]:
    steps = story.config.get("loop", {}).get("steps")
    done = steps is not None and story.step >= steps
    state = "complete" if done else f"at step {story.step}" + (f" of {steps}" if steps else "")
    yield f'<h1>{markup(story.name)}<span class="state{" done" * done}">{state}</span></h1>'
    about = [markup(str(story.folder))]
    if story.ended:
        about.append(f"last record {_date(story.ended)}")
    about += [f"{what} {markup(str(story.config[key]))}" for key, what in (("stage", "stage"), ("precision", "in"))
              if key in story.config]  # fmt: skip
    yield f'<p class="soft">{" · ".join(about)}</p>'
    tiles = [("Steps", short(story.step), f"of {short(steps)}" if steps else ""), ("Time", duration(story.seconds), "")]
    for name in ("clips seen", "tokens seen", "loss", "heldout/loss", "heldout/psnr", "tokens/s", "memory GiB"):
        if name in story.curves and (metric := find(name)):
            unit = metric.unit if metric.unit in ("dB", "GiB") else ""
            tiles.append((metric.title, short(latest(story.curves[name][1])), unit))
    yield '<dl class="tiles">'
    yield from (
        f'<div class="tile"><dt>{title}</dt><dd>{value} <small>{more}</small></dd></div>'
        for title, value, more in tiles
    )
    yield "</dl>"
    if beside:
        keys = [_key(HUES[0], 0, story.name), *(_key(_hue(i), i, one.label) for i, one in enumerate(beside, 1))]
        yield f'<ul class="keys" style="margin-top:1rem">{"".join(keys)}</ul>'


def _curves(story: Story, beside: Sequence[Beside], *, log: bool) -> Iterator[Section]:
    """A grid of charts for each group of metrics, in the order of the table; what it does not know comes last."""
    shown: dict[str, list[str]] = {}
    for metric, names in _by_metric(story.curves):
        shown.setdefault(metric.group, []).append(_card(metric, names, story, beside, log=log and metric.wide))
    if not shown:
        yield GROUPS[0], '<p class="soft">No numbers have been recorded yet.</p>'
    for group in (*GROUPS, OTHER):
        if group in shown:
            yield group, f'<div class="grid-of">{"".join(shown[group])}</div>'


def _by_metric(curves: Mapping[str, Curve]) -> Iterator[tuple[Metric, list[str]]]:
    """Metrics that there are, each with the names of its numbers in their natural order."""
    names: dict[str, list[str]] = {}
    unknown = []
    for name in curves:
        if metric := find(name):
            names.setdefault(metric.name, []).append(name)
        else:
            unknown.append(Metric(name, name, OTHER, "", ""))
    yield from ((metric, sorted(names[metric.name], key=_natural)) for metric in METRICS if metric.name in names)
    yield from ((metric, [metric.name]) for metric in unknown)


def _card(metric: Metric, names: Sequence[str], story: Story, beside: Sequence[Beside], *, log: bool) -> str:
    lines, keys = [], []
    family = is_family(metric)
    for place, name in enumerate(names):
        # From blue to red in the order of the names, or a hue a run.
        hue = round(255 - 230 * place / max(len(names) - 1, 1))
        label = name.removeprefix(metric.name.rstrip("t")) if family else story.name
        for run, one in enumerate([Beside(label, story.curves), *beside]):
            if name in one.curves:
                own = label if family and run == 0 else f"{label}, {one.label}" if family else one.label
                lines.append(Line(own, *one.curves[name], hue if family else _hue(run), run))
        keys += [_key(hue, 0, label, short(latest(story.curves[name][1])))] * family
    if not family and len(lines) > 1:
        keys = [_key(line.hue, line.run, line.label, short(latest(line.values))) for line in lines]
    last = "" if keys else short(latest(lines[0].values))
    unit = f' <span class="soft">{markup(metric.unit)}</span>' if metric.unit else ""
    return (
        f'<figure class="card" data-metric="{markup(metric.name)}"><header><h3>{markup(metric.title)}{unit}</h3>'
        f"<span>{last}</span></header>{chart(lines, title=metric.title, log=log)}"
        f"{'<ul class=keys>' + ''.join(keys) + '</ul>' if keys else ''}"
        f"<figcaption>{markup(metric.meaning)}</figcaption></figure>"
    )


def _key(hue: int, run: int, label: str, value: str = "") -> str:
    """An entry of a legend."""
    line = f'<svg viewBox="0 0 26 8"><path class="line run{min(run, 4)}" style="--hue:{hue}" d="M1 4H25"/></svg>'
    return f"<li>{line}{markup(label)} <b>{value}</b></li>"


def _hue(run: int) -> int:
    return HUES[run % len(HUES)]


def _anchor(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def _natural(name: str) -> list[tuple[bool, float, str]]:
    """A key that sorts the numbers in a name as numbers."""
    parts = re.split(r"(\d+(?:\.\d+)?)", name)
    return [(False, float(part), "") if part[:1].isdecimal() else (True, 0.0, part) for part in parts if part]


def _samples(story: Story, shelf: Shelf) -> Iterator[Section]:
    """A strip of videos for each prompt, from early to late; the contact sheets below."""
    if not story.sheets and not story.videos:
        return
    rows = []
    for prompt, files in story.videos.items():
        steps = _spread(sorted(files))
        urls = {step: shelf.url(files[step]) for step in reversed(steps)}  # the newest go into the page first
        strip = "".join(
            f'<figure><video src="{urls[step]}" autoplay muted loop playsinline></video>'
            f"<figcaption>step {step}</figcaption></figure>"
            for step in steps
        )
        rows.append(f'<div class="row"><p>{markup(prompt)}</p><div class="strip">{strip}</div></div>')
    steps = _spread(sorted(story.sheets))
    for step in reversed(steps):
        opened = " open" * (not story.videos and step == steps[-1])
        image = f'<img class="sheet" alt="contact sheet of step {step}" src="{shelf.url(story.sheets[step])}">'
        rows.append(f"<details{opened}><summary>Contact sheet of step {step}</summary>{image}</details>")
    yield "Samples over time", "".join(rows)


def _spread(steps: Sequence[int]) -> list[int]:
    """At most SAMPLED of the steps, the first and the last among them."""
    places = np.linspace(0, len(steps) - 1, min(SAMPLED, len(steps))).round().astype(int)
    return [steps[place] for place in places]


def _facts(story: Story) -> Iterator[Section]:
    """Skipped clips, data sets, code and config."""
    if story.skipped:
        count = sum(map(len, story.skipped.values()))
        rows = []
        for reason, paths in story.skipped.items():
            more = [f"and {len(paths) - PATHS} more"] if len(paths) > PATHS else []
            rows.append((reason, str(len(paths)), "\n".join([*paths[:PATHS], *more])))
        yield f"Skipped clips ({count})", table(("reason", "clips", "files"), rows)
    if data := story.config.get("data"):
        rows = [(split, *_dataset(one)) for split in ("train", "heldout") for one in data.get(split) or []]
        yield "Data sets", table(("part", "kind", "of"), rows)
    if made := story.config.get("origin"):
        git = made.get("git")
        code = f"{git['commit']}{', with local changes' * bool(git['dirty'])}" if git else "not from a git checkout"
        versions = " · ".join(f"{name} {found}" for name, found in made.get("versions", {}).items())
        rows = [("commit", code), ("versions", versions)]
        yield "Code", table(("", ""), rows)
    if story.config:
        text = json.dumps({k: v for k, v in story.config.items() if k != "origin"}, indent=2, ensure_ascii=False)
        yield "Config", f"<details><summary>All keys</summary><pre>{markup(text)}</pre></details>"


def _dataset(node: Any) -> tuple[str, str]:
    """What a data set is, and its arguments in one line."""
    if not isinstance(node, dict):
        return str(node), ""
    kind = str(node.get("_target_", "")).rpartition(".")[2]
    return kind, ", ".join(f"{key} {value}" for key, value in node.items() if key != "_target_" and value is not None)


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
