"""What an ingest is told: every key of `videodit ingest`, with its type, default and limits.

Where it runs, what cuts, embeds and captions are groups; theirs are the files in conf/.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from videodit.factory import Factory
from videodit.features.meanings import MEANINGS
from videodit.ingest.record import COLUMNS
from videodit.settings import Number, group, key

OF_FILES = ("seconds", "height", "width", "source_fps")  # columns that can be selected by, beside what is measured
BOUNDS: dict[str, Any] = {"seconds": [0.5, None], "black": [None, 0.5], "frozen": [None, 0.9]}
TOLD = {column.name: column.meaning for column in COLUMNS if column.name in OF_FILES} | dict(MEANINGS)


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """What is measured of shots."""

    edge: int = key("frames are measured at so many pixels on their short side", 256, ge=32)
    scorers: list[Factory] = key(
        "learned scores by choice, each an object with a _target_ (features.image_models.ImageClassifier)", []
    )


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """When two shots are near-duplicates."""

    cosine: Number = key("of embeddings, at least", 0.95, ge=-1, le=1)
    distance: int = key("bits of 64 in which two frames alike may differ", 8, ge=0, lt=64)
    share: Number = key("of the shorter clip's frames that must have their like in the other", 0.7, gt=0, le=1)


@dataclass(frozen=True, kw_only=True)
class Captioning:
    """How a captioner is called."""

    frames: int = key("of a shot that a captioner sees", 6, ge=1)
    bundle: int = key("shots it is given at once", 32, ge=1)
    workers: int = key("processes that call it", 1, ge=1)
    required: bool = key("drop a shot that has no caption in the end", False)


@dataclass(frozen=True, kw_only=True)
class Shaping:
    """The clips that are cut from shots: see `shape.Shape`, which says what fits."""

    fps: Number | None = key("of what is trained on; null: each file's own", 8.0)
    frames: int = key("of a clip, at most; longer shots give several", 17)
    shortest: int = key("of a clip, at least", 5)
    areas: list[int] = key("pixels a frame, of each size that is made", [4096])
    multiple: int | None = key(
        "of so many pixels height and width are; null: what vae= and its DiT take, 16 without vae=", None
    )


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How latents are made."""

    bundle: int = key("clips of a shard", 256, ge=1)
    workers: int = key("processes that encode", 1, ge=1)
    threads: int = key("of each on a CPU; the last bits of latents depend on it", 2, ge=1)


@dataclass(frozen=True, kw_only=True)
class Ingest:
    """`videodit ingest`."""

    engine: Factory = group("where it runs")
    cutter: Factory = group("finds hard cuts")
    embedder: Factory = group("by which duplicates are known too")
    captioner: Factory = group("writes captions")

    videos: str = key("a folder, or a URL that fsspec opens")
    out: str = key("the set's folder")
    dry_run: bool = key("stop before captions, latents and the set", False)
    report: bool = key("write report.html into out", True)
    limit: Number = key(
        "seconds for a file or clip in any stage, and for each 1500 frames; more is dropped", 300.0, gt=0
    )
    measure: Measuring = key("what is measured of shots")
    select: dict[str, Any] = key(
        "[least, most] of what is known of a shot; null: no bound; +select.NAME=… for a scorer's",
        {name: BOUNDS.get(name) for name in [*OF_FILES, *MEANINGS]},
        entries=TOLD,
    )
    duplicates: Duplicates = key("when two shots are near-duplicates")
    caption: Captioning = key("how a captioner is called")
    shape: Shaping = key("the clips that are cut from shots")
    heldout_share: Number = key("of the groups: files, and near-duplicates with them", 0.05, gt=0, lt=1)
    vae: str = key('whose latents are made: a model, the folder of a VAE run or a file; "" makes none', "toy")
    text: str = key("a model whose text states are made, for a training with init= of it", "")
    encode: Encoding = key("how latents are made")
    device: str = key("or cpu, cuda", "auto")
    precision: str = key("of the text encoder, as in train", "auto")
