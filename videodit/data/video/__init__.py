"""Video files and pictures: probe, read and write. The only home of PyAV and decord.

Times are seconds after the first frame. Frames are uint8 (T,H,W,3) RGB, 8-bit SDR (BT.709), as they are meant to be
seen: upright, with square pixels, HDR tone-mapped (see `data/colour`), transparent parts white,
interlaced ones whole.

`by_av`, `by_decord`, `by_folder` and `by_pillow` are the readers, `reading` what they have in common.
"""

from __future__ import annotations

from videodit.data.video.by_folder import digest, in_order
from videodit.data.video.files import named, replacing
from videodit.data.video.frame import TIE, CorruptPackets, VideoInfo
from videodit.data.video.outputs import KINDS, RECORD, beside, check_kind, check_place, kept_as, target
from videodit.data.video.reading import Reader, numbered, probe, read, stream, timeline, times
from videodit.data.video.writing import commented, write
from videodit.errors import InputError

VERSION = 3  # of the pixels that reading gives: raise it when they change, so that no cached latents outlive that

__all__ = [
    "KINDS",
    "RECORD",
    "TIE",
    "CorruptPackets",
    "InputError",
    "Reader",
    "VideoInfo",
    "beside",
    "check_kind",
    "check_place",
    "commented",
    "digest",
    "in_order",
    "kept_as",
    "named",
    "numbered",
    "probe",
    "read",
    "replacing",
    "stream",
    "target",
    "timeline",
    "times",
    "write",
]
