"""The findings as one HTML page, with what was learnt and what came of it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from torch import Tensor

from videodit.data.sample import to_frames
from videodit.data.sheet import sheet
from videodit.doctor.finding import Finding
from videodit.printable import markup
from videodit.track.charts import Line, chart
from videodit.track.style import STYLE

MARKS = {"ok": "good", "FAULT": "bad", "unknown": "soft"}  # and the style's names for their colours
HUE = 250
COLUMNS = 9
OWN = """
table.found { border-collapse: collapse; width: 100%; }
.found td { padding: 0.45rem 0.9rem 0.45rem 0; vertical-align: top;
  border-bottom: 1px solid var(--rule); } .found td:first-child { font-weight: 600; } .good { color: var(--good); }
.bad { color: var(--bad); } .found td:nth-child(2) { white-space: nowrap; } img { max-width: 100%; }
"""


@dataclass
class Pictures:
    """The losses on one clip, and clips with their labels."""

    losses: list[float] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    clips: list[np.ndarray] = field(default_factory=list)

    def add(self, label: str, clip: Tensor) -> None:
        """A clip (3,T,H,W)."""
        self.labels.append(label)
        self.clips.append(to_frames(clip.float().cpu().clamp(-1, 1)))


def page(title: str, findings: Sequence[Finding], told: str, pictures: Pictures) -> str:
    """The page, complete in itself."""
    rows = "".join(
        f'<tr><td class="{MARKS[f.verdict]}">{f.verdict}</td><td>{markup(f.name)}</td><td>{markup(f.told)}</td></tr>'
        for f in findings
    )
    parts = [f'<h1>{markup(title)}</h1><p>{markup(told)}</p><h2>Findings</h2><table class="found">{rows}</table>']
    if pictures.losses:
        steps = np.arange(1, len(pictures.losses) + 1)
        curve = chart([Line("loss", steps, np.array(pictures.losses), HUE)], title="loss on one clip", log=True)
        parts.append(f'<h2>One clip, learnt</h2><figure class="card" style="max-width: 40rem">{curve}'
                     "<figcaption>Loss over steps, all on one clip.</figcaption></figure>")  # fmt: skip
    if pictures.clips:
        parts.append(f'<p><img alt="the clip and what came back" src="{_sheet(pictures)}"></p>')
    head = f"<meta charset=utf-8><title>{markup(title)}</title><style>{STYLE}{OWN}</style>"
    return f"<!doctype html>\n<html lang=en><head>{head}</head><body><main>{''.join(parts)}</main></body></html>\n"


def _sheet(pictures: Pictures) -> str:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "sheet.png"
        sheet(path, pictures.clips, pictures.labels, COLUMNS)
        return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
