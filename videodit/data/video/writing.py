"""Writing videos: H.264 in mp4, VP9 in WebM, GIF, WebP, pictures, and folders of frames. By PyAV and Pillow.

Letters: T frames, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from videodit.data.video.aperture import crop
from videodit.data.video.files import named, replacing, replacing_folder
from videodit.data.video.outputs import FRAME, RECORD, check_free, check_kind, target
from videodit.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

CRF = {"libx264": 14, "libvpx-vp9": 18}  # visually lossless, a few kB for a toy clip
# Equal frames are one file, on any machine: what an encoder makes depends on how many threads it has, and x264's
# macroblock tree on memory that nobody set (with it 266 writings of the same frames gave 101 files).
THREADS = 4
X264 = "mbtree=0"
QUALITY = 92  # of WebP and JPEG
IMAGE_DESCRIPTION = 0x010E  # where EXIF, and so a WebP, keeps text
COMMENT = 65533  # bytes that a JPEG's comment holds


def write(path: str | Path, frames: np.ndarray, fps: float, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write frames, uint8 (T,H,W,3), as the kind that `path` ends in; `/` at its end makes a folder of PNGs.

    Size, count and rate are exactly those (a GIF's and a WebP's equal frames become one that is shown longer; a GIF's
    frames begin at hundredths of a second, a WebP's and WebM's at thousandths). `metadata` is text of any length;
    pictures keep its `comment` alone, as far as they have room, and a folder as a file. Equal arguments give equal
    bytes. What is written appears whole or not at all. InputError where it cannot be written (another file in its
    place, a full disk) or the arguments are no video of this kind.
    """
    path = target(path)
    rate = _exact_rate(fps)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not 0 < frames.size:
        raise InputError(
            f"{named(path)}: frames must be uint8 (T,H,W,3) and not empty, got {frames.dtype} {frames.shape}"
        )
    check_kind(path, *frames.shape[:3], fps)
    metadata = metadata or {}
    if not path.suffix:
        check_free(path)
        with replacing_folder(path) as folder:
            for number, image in enumerate(frames):
                _picture(image).save(folder / FRAME.format(number))
            (folder / RECORD).write_text(metadata.get("comment", "{}") + "\n", encoding="utf-8")
        return
    with replacing(path) as temporary:
        if path.suffix.lower() in (".mp4", ".webm"):
            _write_video(temporary, path.suffix.lower(), frames, rate, metadata)
        else:
            _write_picture(temporary, path.suffix.lower(), frames, rate, metadata.get("comment", ""))


def _write_video(path: Path, ending: str, frames: np.ndarray, rate: Fraction, metadata: Mapping[str, str]) -> None:
    """H.264 in mp4 or VP9 in WebM.

    Pixels are yuv420p, which everything plays. H.264 has no odd sizes in it: a last row or column is stored twice, and
    the file says that it is not seen (`aperture`).
    """
    import av

    # faststart lets a browser play before the end has arrived; the other flag keeps tags beyond the format's few.
    # bitexact: Matroska's identifiers would be random.
    if ending == ".mp4":
        codec, container = "libx264", {"movflags": "faststart+use_metadata_tags"}
        options = {"x264-params": X264}
    else:
        codec, container = "libvpx-vp9", {"fflags": "+bitexact"}
        options = {"b": "0", "deadline": "good", "cpu-used": "2", "row-mt": "0"}
    height, width = (size + size % 2 if ending == ".mp4" else size for size in frames.shape[1:3])
    with av.open(f"file:{path}", "w", format=ending[1:], container_options=container) as file:
        file.metadata.update(metadata)
        track = file.add_stream(codec, rate=rate, options={"crf": str(CRF[codec]), **options})
        track.width, track.height, track.pix_fmt = width, height, "yuv420p"
        # Say which YUV this is (BT.709, limited range): players guess an unlabelled file's colours by its size.
        context = track.codec_context
        context.thread_count = THREADS
        context.colorspace = context.color_primaries = context.color_trc = av.video.reformatter.Colorspace.ITU709
        context.color_range = av.video.reformatter.ColorRange.MPEG
        for index, image in enumerate(frames):
            whole = np.pad(image, [(0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)], mode="edge")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(whole), format="rgb24").reformat(
                format=track.pix_fmt, dst_colorspace="ITU709", dst_color_range="MPEG", interpolation="AREA"
            )
            frame.pts, frame.time_base = index, 1 / rate
            file.mux(track.encode(frame))
        file.mux(track.encode())
    if (height, width) != frames.shape[1:3]:
        crop(path, *frames.shape[1:3])


def _write_picture(path: Path, ending: str, frames: np.ndarray, rate: Fraction, comment: str) -> None:
    """A picture, or a moving one, with a comment."""
    first, *others = [_picture(image) for image in frames]
    text = comment.encode("utf-8")
    if ending == ".gif":
        first, *others = [_in_palette(image) for image in (first, *others)]
        shown = [10 * ticks for ticks in _ticks(len(frames), rate, 100)]
        moving = {"save_all": True, "append_images": others, "duration": shown, "loop": 0} if others else {}
        first.save(path, format="GIF", optimize=False, comment=text, **moving)
    elif ending == ".webp":
        shown = _ticks(len(frames), rate, 1000)
        moving = {"save_all": True, "append_images": others, "duration": shown, "loop": 0} if others else {}
        first.save(path, format="WEBP", quality=QUALITY, method=4, exif=_exif(comment), **moving)
    elif ending == ".png":
        first.save(path, format="PNG", pnginfo=commented(comment))
    else:
        kept = {"comment": text} if len(text) <= COMMENT else {}
        first.save(path, format="JPEG", quality=QUALITY, subsampling=0, **kept)


def _picture(image: np.ndarray) -> Image.Image:
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(image))


def _in_palette(image: Image.Image) -> Image.Image:
    """In the 256 colours that suit it best."""
    from PIL import Image

    palette = image.quantize(256, method=Image.Quantize.MEDIANCUT)
    return image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)


def _exif(comment: str) -> Any:
    from PIL import Image

    exif = Image.Exif()
    if comment:
        exif[IMAGE_DESCRIPTION] = comment.encode("utf-8")  # as text it would lose what is not ASCII
    return exif


def commented(comment: str) -> Any:
    """A PNG's text, for `Image.save(pnginfo=)`."""
    from PIL.PngImagePlugin import PngInfo

    chunk = PngInfo()
    if comment:
        chunk.add_itxt("comment", comment)
    return chunk


def _ticks(count: int, rate: Fraction, clock: int) -> Sequence[int]:
    """For how many ticks of a clock each frame is shown, so that every one begins at the tick nearest to its time."""
    begin = [round(number * clock / rate) for number in range(count + 1)]
    return [after - before for before, after in zip(begin, begin[1:], strict=False)]


def _exact_rate(fps: float) -> Fraction:
    if not (math.isfinite(fps) and 0.01 <= fps <= 1000):
        raise InputError(f"fps must be between 0.01 and 1000, got {fps}")
    return Fraction(fps).limit_denominator(1001)  # 1001 keeps television's 24000/1001 and its kin exact
