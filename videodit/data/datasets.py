"""Data sets of real clips: a folder of videos with their captions."""

from __future__ import annotations

import math
import os
import posixpath
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch.utils.data import Dataset

from videodit.data import video
from videodit.data.captions import DIFFER, LOST, MISSING, TABLES, Captions, is_beside, is_table, pairs
from videodit.data.files import Root
from videodit.data.resize import Fit, resize
from videodit.data.sample import ENLARGED, INTERLACED, REPEATED, BadSample, Sample, faster, to_clip
from videodit.data.split import held_out
from videodit.errors import InputError
from videodit.printable import note
from videodit.shapes import Sizes, Triple, VideoShape, longest
from videodit.untrusted import opened

Part = Literal["train", "heldout", "all"]
WANTED = "it has a line of file_name and caption for each clip; without it, a clip needs a .txt or .json beside it"
GONE, CHANGED = "lines name no file", "captions are changed: half a character could not be kept"


class Entry(NamedTuple):
    """A clip of a folder. source: what it was cut from; the file's own name if nothing says so."""

    file_name: str
    caption: str
    source: str


class VideoFolder(Dataset[Sample]):
    """A folder of videos or pictures with captions: those that its tables list, or that have captions beside them.

    `part` of them: all, or what trains or is held out where `share`, in (0,1), of the sources are (see `split`). A
    table may name a clip's `source`; else each file is one. A single source serves both parts, and stderr says so.

    Clips come at `fps` (None: each at its own), `frames` long; a video too short for that gives the longest legal
    clip it has. Their size is either exactly `height` x `width`, or, with `area` pixels a frame instead, the legal size
    nearest to the video's own proportions, enlarged only to the smallest there is. Legal is what `stride` (the VAE's)
    and `patch` (the DiT's) divide. `fit` says what gives way where the proportions differ: see `resize`.

    Every mistake in the folder's description is an InputError at construction. A video that cannot be read is a
    BadSample when it is asked for.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        part: Part,
        share: float | None,
        frames: int,
        height: int | None,
        width: int | None,
        area: int | None,
        fps: float | None,
        fit: Fit,
        stride: Triple,
        patch: Triple,
        reader: video.Reader = "av",
    ) -> None:
        if (height is None, width is None) != (area is not None, area is not None):
            raise InputError("give either height and width, or area")
        if fps is not None and not fps > 0:
            raise InputError(f"data.fps={fps}: above 0, or null for each video's own")
        if fit not in get_args(Fit) or reader not in get_args(video.Reader):
            raise InputError(f"fit is one of {get_args(Fit)}, reader one of {get_args(video.Reader)}: {fit}, {reader}")
        self.stride, self.patch = tuple(stride), tuple(patch)
        sizes = Sizes(self.stride, self.patch)
        least = sizes.least
        sizes.check(VideoShape(frames, least.height, least.width), f"data.frames={frames}")
        if area is None:
            sizes.check(VideoShape(frames, height, width), f"data: height={height}, width={width}")
        elif area < least.height * least.width:
            told = f"{least.width}x{least.height} is the least, {least.height * least.width} pixels"
            raise InputError(f"data.area={area}: too few pixels for a size that fits; {told}")
        self.root = Path(root)
        self.entries = _only(part, share, self.root, read_entries(self.root, tell=part != "heldout"))
        self.frames, self.height, self.width, self.area = frames, height, width, area
        self.fps, self.fit, self.reader = fps, fit, reader

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        """The beginning of video `index`."""
        return self.at(index, 0.0)

    def fingerprint(self, index: int) -> str:
        """A hash of the video's bytes, with everything that turns them into the clip."""
        entry = self.entries[index]
        try:
            content = video.digest(self.root / entry.file_name)
        except InputError as error:
            content = f"unreadable: {error}"
        shape = f"{self.frames}x{self.height}x{self.width}/{self.area}@{self.fps}"
        return f"v{video.VERSION}-{content}-{entry.caption}-{shape}-{self.fit}-{self.stride}-{self.patch}"

    def at(self, index: int, draw: float) -> Sample:
        """A clip of video `index` that begins at the share `draw`, in [0,1), of the room there is for it.

        Raises BadSample where the video cannot be read or is too short for a single legal clip.
        """
        entry = self.entries[index]
        path = self.root / entry.file_name
        try:
            return self._cut(path, entry, draw)
        except InputError as error:
            raise BadSample(path, str(error).removeprefix(f"{video.named(path)}: ")) from error

    def _cut(self, path: Path, entry: Entry, draw: float) -> Sample:
        info = video.probe(path)
        fps, shape = self._of(info)
        start = draw * max(0.0, info.seconds - shape.frames / fps)
        # Resized one by one: a long interval of a large video never stands in memory at its own size.
        images = [
            resize(to_clip(image[None]), shape.height, shape.width, fit=self.fit)
            for image in video.stream(path, start=start, frames=shape.frames, fps=fps, reader=self.reader)
        ]
        clip = torch.cat(images[: self._legal_frames(len(images))], dim=1)  # a damaged file holds less than it says
        key = f"{entry.file_name}@{start:.3f}"
        return Sample(clip, entry.caption, fps, key=key, made_up=_made_up(info, fps, shape))

    def made_up(self, index: int) -> tuple[str, ...]:
        """What clip `index` will show that its file does not have, as in a Sample; of one that cannot be read nothing.

        One frame is decoded.
        """
        try:
            info = video.probe(self.root / self.entries[index].file_name)
            return _made_up(info, *self._of(info))
        except InputError:
            return ()

    def _of(self, info: video.VideoInfo) -> tuple[float, VideoShape]:
        """The rate and the shape of the clip that a video gives."""
        fps = self.fps or info.fps
        frames = self._legal_frames(math.ceil((info.seconds - video.TIE) * fps))
        return fps, self._shape(frames, info.height, info.width)

    def _legal_frames(self, available: int) -> int:
        """The largest legal number of frames among those available and those wanted."""
        frames = longest(min(available, self.frames), self.stride, self.patch)
        if not frames:
            raise InputError(f"{available} frames are too few for a clip")
        return frames

    def _shape(self, frames: int, height: int, width: int) -> VideoShape:
        if self.area is None:
            return VideoShape(frames, self.height, self.width)
        return VideoShape(frames, height, width).within(self.area).legal(self.stride, self.patch)


def _made_up(info: video.VideoInfo, fps: float, shape: VideoShape) -> tuple[str, ...]:
    """What a clip of this rate and shape shows that its video does not have."""
    repeated = shape.frames > 1 and faster(fps, info.fps)
    enlarged = shape.height > info.height or shape.width > info.width
    return (*[REPEATED] * repeated, *[ENLARGED] * enlarged, *[INTERLACED] * info.interlaced)


def folder_part(
    *,
    part: Part,
    root: str | Path,
    heldout_root: str | Path | None,
    share: float | None,
    stride: Triple,
    patch: Triple,
    **clips: Any,
) -> VideoFolder:
    """What trains or is held out: all of `root` or of `heldout_root`, or without the latter parts of `root`.

    `clips` are VideoFolder's other arguments.
    """
    clips |= {"stride": stride, "patch": patch}
    if heldout_root is None:
        return VideoFolder(root=root, part=part, share=share, **clips)
    return VideoFolder(root=heldout_root if part == "heldout" else root, part="all", share=None, **clips)


def read_entries(root: Path, *, tell: bool = False) -> list[Entry]:
    """The clips of a folder: the lines of its tables, in their order, or without one the files with captions beside.

    The first mistake, by file and line, is an InputError. `tell`: stderr says how many captions are absent or changed.
    A name may not lead out of the folder. Links inside it may (caches link to their files), names may not.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    try:
        tables = sorted(name for name in os.listdir(root) if is_table(name))
    except OSError as error:
        raise InputError(f"{root}: cannot be listed: {error.strerror}") from None
    entries, notes = _listed(root, tables) if tables else _captioned(root)
    if not entries:
        wanted = f"{TABLES[0]}: no such file; {WANTED}"
        raise InputError(f"{root / tables[0]}: lists no clip" if tables else f"{root}/{wanted}")
    absent = [entry.file_name for entry in entries if not entry.caption]
    for told, names in {"clips have no caption": absent, **notes}.items():
        if tell and names:
            note(__name__, f"{root}: {len(names)} {told}, such as {names[0]}")
    return entries


def _listed(root: Path, tables: Iterable[str]) -> tuple[list[Entry], dict[str, list[str]]]:
    """The clips that tables list."""
    captions = Captions(lambda path: open(opened(root / path), "rb"))
    for name in tables:
        captions.read_table(name)
    _refuse(root, captions.faults)
    for name, path in captions.lines:
        if posixpath.isabs(path) or path.split("/")[0] in ("..", "."):
            where = root / captions.tables[path][0].where
            raise InputError(f"{where}: file_name {name!r} should name a file inside the folder")
    there: set[str] = set()
    for folder in {posixpath.dirname(path) for path in captions.tables}:
        with suppress(OSError, ValueError):  # a clip in a folder that is not there is one that cannot be read
            there |= {posixpath.join(folder, name) for name in os.listdir(root / folder)}
    beside = pairs(filter(is_beside, sorted(there)), captions.tables, samples=False)
    told = {path: captions.of(path, beside.get(path, ())) for path in captions.tables}
    _refuse(root, captions.faults)
    entries = [Entry(name, told[path].caption, told[path].source or path) for name, path in captions.lines]
    gone = [places[0].where for path, places in captions.tables.items() if path not in there]
    return entries, {GONE: gone, CHANGED: captions.changed}


def _captioned(root: Path) -> tuple[list[Entry], dict[str, list[str]]]:
    """The clips that have captions beside them."""
    listing = Root(str(root)).list(without=root / ".none")
    _refuse(root, listing.faults)
    files = [file for file in listing.files if os.path.lexists(root / file.path)]  # no member of a tar
    entries = [Entry(file.path, file.caption, file.origin or file.path) for file in files if file.caption]
    bare = [file.path for file in files if not file.caption]
    gone = [why.removeprefix(f"{MISSING}: ") for _, why in listing.faults if why.startswith(MISSING)]
    return entries, {"files without a caption are left out": bare, GONE: gone, CHANGED: listing.changed}


def _refuse(root: Path, faults: Iterable[tuple[str, str]]) -> None:
    """InputError for the first fault of a caption."""
    for path, why in faults:
        if why.startswith((LOST, DIFFER)):
            raise InputError(f"{root / path}: {why.removeprefix(f'{LOST}: ')}")


def _only(part: Part, share: float | None, root: Path, entries: list[Entry]) -> list[Entry]:
    """The entries of a part."""
    if part not in get_args(Part):
        raise InputError(f"part is one of {get_args(Part)}, got {part!r}")
    if part == "all":
        return entries
    if not isinstance(share, int | float) or not 0 < share < 1:
        raise InputError(f"data.heldout_share={share}: the share of the sources held out, above 0 and below 1")
    held = held_out((entry.source for entry in entries), share)
    if held:
        return [entry for entry in entries if (entry.source in held) == (part == "heldout")]
    if part == "heldout":  # once for the two parts
        note(__name__, f"{root}: one source, {entries[0].source}: held-out clips are those trained on")
    return entries
