"""Writing video files: H.264 in an mp4, by PyAV.

Letters: T frames, H height, W width.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np

from videodit.data.video.files import named, replacing
from videodit.errors import InputError

CRF = 14  # x264's constant rate factor: visually lossless, a few kB for a toy clip
# Equal frames are one file, on any machine: what x264 makes depends on how many threads it has, and its macroblock tree
# on memory that nobody set (with it 266 writings of the same frames gave 101 files).
THREADS = 4
X264 = "mbtree=0"
LARGEST = 16384  # pixels along an edge, x264's limit


def write(path: str | Path, frames: np.ndarray, fps: float, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write frames, uint8 (T,H,W,3), as an H.264 mp4 of exactly that size, count and rate; `metadata` any length.

    Pixels are yuv420p, which everything plays. That format has no odd sizes, so a clip of odd height or width becomes
    yuv444p: exact to the pixel, though some browsers will not play it. Equal arguments give equal bytes. The file
    appears whole or not at all. Raises InputError where it cannot be written (a folder, a full disk) or the arguments
    are no video.
    """
    import av

    path = Path(path)
    if path.suffix.lower() != ".mp4" and not os.path.isdir(path):
        raise InputError(f"{named(path)}: videos are written as .mp4, so the name must end in .mp4")
    rate = _exact_rate(fps)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not 0 < frames.size:
        raise InputError(
            f"{named(path)}: frames must be uint8 (T,H,W,3) and not empty, got {frames.dtype} {frames.shape}"
        )
    height, width = frames.shape[1:3]
    if max(height, width) > LARGEST:
        raise InputError(f"{named(path)}: H.264 takes at most {LARGEST} pixels along an edge, got {width}x{height}")

    # faststart lets a browser play before the end has arrived; the other flag keeps tags beyond the format's few.
    flags = {"movflags": "faststart+use_metadata_tags"}
    with replacing(path) as temporary, av.open(f"file:{temporary}", "w", format="mp4", container_options=flags) as file:
        file.metadata.update(metadata or {})
        track = file.add_stream("libx264", rate=rate, options={"crf": str(CRF), "x264-params": X264})
        track.width, track.height = width, height
        track.pix_fmt = "yuv420p" if height % 2 == width % 2 == 0 else "yuv444p"
        # Say which YUV this is (BT.709, limited range): players guess an unlabelled file's colours by its size.
        context = track.codec_context
        context.thread_count = THREADS
        context.colorspace = context.color_primaries = context.color_trc = av.video.reformatter.Colorspace.ITU709
        context.color_range = av.video.reformatter.ColorRange.MPEG
        for index, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(
                format=track.pix_fmt, dst_colorspace="ITU709", dst_color_range="MPEG", interpolation="AREA"
            )
            frame.pts, frame.time_base = index, 1 / rate
            file.mux(track.encode(frame))
        file.mux(track.encode())


def _exact_rate(fps: float) -> Fraction:
    if not (math.isfinite(fps) and 0.01 <= fps <= 1000):
        raise InputError(f"fps must be between 0.01 and 1000, got {fps}")
    return Fraction(fps).limit_denominator(1001)  # 1001 keeps television's 24000/1001 and its kin exact
