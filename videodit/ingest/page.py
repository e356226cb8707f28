"""What became of a folder of videos, as one HTML page: the doctor's look at a set before anybody trains on it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from videodit.ingest.bars import STYLE as BARS
from videodit.ingest.bars import histogram
from videodit.ingest.record import Record
from videodit.ingest.run import Outcome
from videodit.printable import markup
from videodit.shapes import Sizes, VideoShape
from videodit.track.progress import duration
from videodit.track.style import STYLE

SHOWN = 48  # thumbnails of a sheet
PAIRS = 24  # groups of near-duplicates
EXAMPLES = 5  # of files for each reason
DAMAGED = 30  # files, the worst
TEXTS = 12  # captions that are shown whole
OF_FILES = {
    "seconds": "how long a shot is",
    "height": "pixels of a frame",
    "width": "pixels of a frame",
    "source_fps": "frames a second of the file",
}
OWN = """
.funnel { display: grid; grid-template-columns: 7rem 1fr 11rem; gap: 0.35rem 0.9rem; align-items: center;
  font-size: 0.88rem; }
.funnel div.bar { display: flex; height: 1.1rem; border-radius: 0.3rem; overflow: hidden; background: var(--rule); }
.funnel span.on { background: var(--good); } .funnel span.off { background: var(--bad); }
.thumbs { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: 0.7rem; }
.thumbs figure { margin: 0; }
.thumbs img { width: 100%; border-radius: 0.3rem; display: block; background: var(--rule); }
.thumbs figcaption { color: var(--soft); font-size: 0.74rem; line-height: 1.3; overflow-wrap: anywhere; }
.pair { display: flex; gap: 0.7rem; margin: 0 0 0.9rem; flex-wrap: wrap; } .pair figure { width: 10rem; margin: 0; }
.pair img { width: 100%; border-radius: 0.3rem; }
.pair figcaption { font-size: 0.76rem; color: var(--soft); overflow-wrap: anywhere; }
.good { color: var(--good); } .bad-text { color: var(--bad); } td.texts { max-width: 46rem; }
"""


class Facts(NamedTuple):
    """What a page tells beside the outcome: bounds, the meaning of measures, pictures (shot -> an image's URL) …"""

    title: str
    bounds: Mapping[str, Sequence[float | None]]
    measures: Mapping[str, str]
    pictures: Mapping[str, str]
    sizes: Sizes
    settings: Mapping[str, Any]
    dry: bool


def pictured(found: Outcome) -> list[Record]:
    """The shots whose pictures the page shows."""
    kept = list({clip["shot"]: clip for clip in found.clips}.values())
    gone = [record for record in found.dropped if "shot" in record]
    pairs = [shot for group in found.groups[:PAIRS] for shot in group[:4]]
    return [*spread(kept, SHOWN), *spread(gone, SHOWN), *pairs]


def page(found: Outcome, facts: Facts) -> str:
    """The page, complete in itself."""
    sections = [
        ("From files to clips", _funnel(found)),
        ("Leakage", _leakage(found)),
        ("Shapes and what they cost", _shapes(found, facts)),
        ("What was measured", _measures(found, facts)),
        ("Kept", _thumbnails(spread(list({c["shot"]: c for c in found.clips}.values()), SHOWN), facts)),
        ("Dropped", _thumbnails(spread([r for r in found.dropped if "shot" in r], SHOWN), facts)),
        ("Near-duplicates, the one that was kept first", _pairs(found, facts)),
        ("Captions", _captions(found)),
        ("Every reason", _reasons(found, facts)),
        ("Damaged files", _damaged(found)),
        ("Settings", _settings(facts)),
    ]
    body = "".join(f"<h2>{title}</h2>{content}" for title, content in sections if content)
    head = f"<meta charset=utf-8><meta name=viewport content='width=device-width'><title>{markup(facts.title)}</title>"
    style = f"<style>{STYLE}{BARS}{OWN}</style>"
    body = f"<body><main>{_head(found, facts)}{body}</main></body>"
    return f"<!doctype html>\n<html lang=en><head>{head}{style}</head>{body}</html>\n"


def spread(records: Sequence[Record], most: int) -> list[Record]:
    """At most so many, evenly over all."""
    return [records[i * len(records) // most] for i in range(most)] if len(records) > most else list(records)


def _head(found: Outcome, facts: Facts) -> str:
    seconds = sum(clip["frames"] / clip["fps"] for clip in found.clips)
    held = sum(clip["split"] == "heldout" for clip in found.clips)
    shots = found.seen.get("measure", 0)
    tiles = [("Files", found.seen["list"], ""), ("Shots", shots, ""), ("Clips", len(found.clips), f"{held} held out"),
             ("Time", duration(seconds), "of clips"), ("Dropped", len(found.dropped), "files and shots")]  # fmt: skip
    cells = "".join(
        f'<div class="tile"><dt>{name}</dt><dd>{value} <small>{more}</small></dd></div>' for name, value, more in tiles
    )
    dry = '<span class="state">dry run</span>' if facts.dry else ""
    balance = (
        '<p class="good">Nothing was lost in silence: at every stage, kept and dropped add up to what was seen.</p>'
        if found.balance()
        else '<p class="bad-text">The counts do not add up: this is a bug of videodit.</p>'
    )
    made_up = "".join(f"<p>{markup(line)}</p>" for line in found.made_up())
    return f'<h1>{markup(facts.title)}{dry}</h1><dl class="tiles">{cells}</dl>{balance}{made_up}'


def _funnel(found: Outcome) -> str:
    rows = []
    for stage, seen in found.seen.items():
        reasons = Counter(record["reason"] for record in found.dropped if record["stage"] == stage)
        kept, wide = found.went_on[stage], 100 / max(1, seen)
        told = markup(", ".join(f"{count} {reason}" for reason, count in reasons.most_common()))
        rows.append(
            f'<b>{stage}</b><div><div class="bar"><span class="on" style="width:{kept * wide:.2f}%"></span>'
            f'<span class="off" style="width:{(seen - kept) * wide:.2f}%"></span></div>'
            f'<span class="soft">{told}</span></div><span>{seen} seen, {kept} kept</span>'
        )
    beside = len(found.listing.beside)
    more = f'<p class="soft">Beside these, files that describe others (captions): {beside}.</p>' if beside else ""
    return f'<div class="funnel">{"".join(rows)}</div>{more}'


def _leakage(found: Outcome) -> str:
    sides: dict[str, dict[str, set[str]]] = {"group": {}, "sha256": {}}
    for clip in found.clips:
        for key, seen in sides.items():
            seen.setdefault(clip[key], set()).add(clip["split"])
    both = {key: sum(len(splits) > 1 for splits in seen.values()) for key, seen in sides.items()}
    told_leaks = f"On both sides: {both['sha256']} files, {both['group']} groups of files with their near-duplicates."
    counts = Counter(clip["split"] for clip in found.clips)
    told = ", ".join(f"{counts[split]} clips {split}" for split in ("train", "heldout"))
    return f'<p>{told}. <span class="{"bad-text" if any(both.values()) else "good"}">{told_leaks}</span></p>'


def _shapes(found: Outcome, facts: Facts) -> str:
    counts: Counter[tuple[int, int, int]] = Counter()
    for clip in found.clips:
        if clip["split"] == "train":
            counts.update((clip["frames"], *size) for size in clip["sizes"])
    if not counts:
        return ""
    rows, total = [], 0
    for shape, count in sorted(counts.items(), key=lambda pair: -pair[1]):
        tokens = VideoShape(*shape).latent(facts.sizes.stride).grid(facts.sizes.patch).count
        total += tokens * count
        rows.append((f"{shape[2]}x{shape[1]}", str(shape[0]), str(count), str(tokens), f"{tokens * count:,}"))
    table = _table(("size", "frames", "clips", "tokens a clip", "tokens of an epoch"), rows)
    return f"<p>{total:,} tokens an epoch of what trains, in {len(rows)} shapes.</p>{table}"


def _measures(found: Outcome, facts: Facts) -> str:
    kept = list({clip["shot"]: clip for clip in found.clips}.values())
    gone = [record for record in found.dropped if "shot" in record]
    cards = []
    for name, meaning in (OF_FILES | dict(facts.measures)).items():
        both = [[r[name] for r in part if r.get(name) is not None] for part in (kept, gone)]
        if any(both):
            bounds = facts.bounds.get(name, ())
            told = " to ".join("any" if x is None else f"{x:g}" for x in bounds)
            cards.append(f'<figure class="card"><header><h3>{markup(name)}</h3><span>{told}</span></header>'
                         f"{histogram(*both, bounds)}<figcaption>{markup(meaning)}</figcaption></figure>")  # fmt: skip
    squares = '<span class="good">■</span> kept <span class="bad-text">■</span> dropped'
    legend = f'<p class="soft">{squares}, a dashed line at each bound</p>'
    return f'{legend}<div class="grid-of">{"".join(cards)}</div>' if cards else ""


def _thumbnails(records: Sequence[Record], facts: Facts) -> str:
    cells = [_figure(record, facts) for record in records if record["shot"] in facts.pictures]
    return f'<div class="thumbs">{"".join(cells)}</div>' if cells else ""


def _figure(record: Record, facts: Facts) -> str:
    told = [f"{record['source']}, frames {record['first']} to {record['last']}"]
    if "reason" in record:
        told.append(f"{record['reason']} ({record['detail']})")
    picture = facts.pictures.get(record["shot"], "")
    return f'<figure><img src="{picture}" alt=""><figcaption>{"<br>".join(map(markup, told))}</figcaption></figure>'


def _pairs(found: Outcome, facts: Facts) -> str:
    groups = ["".join(_figure(shot, facts) for shot in group[:4]) for group in found.groups[:PAIRS]]
    more = f'<p class="soft">and {len(found.groups) - PAIRS} more groups</p>' if len(found.groups) > PAIRS else ""
    return "".join(f'<div class="pair">{group}</div>' for group in groups) + more


def _captions(found: Outcome) -> str:
    shots = list({clip["shot"]: clip for clip in found.clips}.values())
    cards, rows = [], []
    for name in ("caption", "caption_short", "caption_long"):
        lengths = [len(shot[name].split()) for shot in shots if shot.get(name)]
        if lengths:
            title = {"caption": "that came with it", "caption_short": "short", "caption_long": "long"}[name]
            top = f"<header><h3>{title}</h3><span>{len(lengths)} of {len(shots)}</span></header>"
            foot = "<figcaption>words of a caption</figcaption>"
            cards.append(f'<figure class="card">{top}{histogram(lengths, [], ())}{foot}</figure>')
    for shot in spread([shot for shot in shots if shot.get("caption_long") or shot["caption"]], TEXTS):
        texts = [shot["caption"], shot.get("caption_short"), shot.get("caption_long")]
        rows.append((shot["source"], *(text or "" for text in texts)))
    none = sum(not (shot.get("caption_long") or shot["caption"]) for shot in shots)
    came, lost = found.captions()
    where = "<br>".join(map(markup, lost[:TEXTS]))
    head = f"<p>{markup(came)}.</p>" + (f'<p class="bad-text">{where}</p>' if lost else "")
    told = f'<p class="bad-text">{none} of {len(shots)} shots have no caption.</p>' if none else ""
    table = _table(("file", "came with it", "short", "long"), rows) if rows else ""
    return head + (f'{told}<div class="grid-of">{"".join(cards)}</div>{table}' if shots else "")


def _reasons(found: Outcome, facts: Facts) -> str:
    by_reason: dict[tuple[str, str], list[Record]] = {}
    for record in found.dropped:
        by_reason.setdefault((record["stage"], record["reason"]), []).append(record)
    rows = []
    for (stage, reason), records in sorted(by_reason.items(), key=lambda pair: -len(pair[1])):
        examples = [f"{record['source']}: {record['detail']}" for record in records[:EXAMPLES]]
        where = "" if facts.dry else ", in dropped.parquet"
        examples += [f"and {len(records) - EXAMPLES} more{where}"] * (len(records) > EXAMPLES)
        rows.append((stage, reason, str(len(records)), "\n".join(examples)))
    return _table(("stage", "reason", "count", "of"), rows) if rows else ""


def _damaged(found: Outcome) -> str:
    files = sorted(found.damaged().items(), key=lambda pair: -pair[1])
    rows = [(source, str(frames)) for source, frames in files[:DAMAGED]]
    more = f'<p class="soft">and {len(files) - DAMAGED} more, in column corrupt</p>' if len(files) > DAMAGED else ""
    return _table(("file", "frames that cannot be decoded"), rows) + more if rows else ""


def _settings(facts: Facts) -> str:
    text = json.dumps(facts.settings, indent=2, ensure_ascii=False)
    return f"<details><summary>All keys</summary><pre>{markup(text)}</pre></details>"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{markup(column)}</th>" for column in columns)
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(_cells(rows))}</table></div>'


def _cells(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in rows:
        cells = "".join(f'<td class="texts">{markup(str(cell)).replace(chr(10), "<br>")}</td>' for cell in row)
        yield f"<tr>{cells}</tr>"
