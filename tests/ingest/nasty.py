"""A folder of everything that a collection of videos may hold and should not."""

from __future__ import annotations

import io
import json
import os
import tarfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from tests.data.clips import encode, numbered, smooth

NAMES = ("two\nlines.mp4", "grüße 影片 🎬.mp4", "-o.mp4", "a!b.tar!c.mp4", "  .mp4", "<b>&amp;.mp4", "t\t\x1b[31m.mp4")
GOOD = 6  # plain clips, with captions
SLOW = "slow.gif"  # takes minutes to decode, though it is small


def picture(number: int, frames: int = 18, height: int = 64, width: int = 96) -> np.ndarray:
    """Frames of a moving texture, another one for each number: no two are near-duplicates."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8))
    large = np.asarray(coarse.resize((2 * width, height), Image.Resampling.BICUBIC))
    return np.stack([large[:, i : i + width] for i in range(0, 2 * frames, 2)])


def good(path: Path, number: int, frames: int = 18, **options: object) -> None:
    """A plain mp4 at 8 frames a second."""
    encode(path, picture(number, frames), 8, "libx264", {"preset": "ultrafast"}, "mp4", **options)  # type: ignore[arg-type]


def sound(path: Path) -> None:
    """An mp4 without pictures."""
    with av.open(str(path), "w", format="mp4") as file:
        track = file.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, 0, Fraction(1, 16000)
        file.mux(track.encode(frame))
        file.mux(track.encode())


def slow(path: Path, side: int = 8000, frames: int = 4000) -> None:
    """A GIF of a huge canvas of which every frame changes one pixel."""
    size = side.to_bytes(2, "little") * 2
    one = b"\x21\xf9\x04\x00\x05\x00\x00\x00\x2c" + bytes(4) + b"\x01\x00\x01\x00\x00\x02\x02\x44\x01\x00"
    path.write_bytes(b"GIF89a" + size + b"\x80\x00\x00" + bytes(3) + b"\xff\xff\xff" + one * frames + b"\x3b")


def moving(path: Path, number: int, format: str) -> None:
    """A moving picture, half transparent."""
    frames = picture(number, 12)
    alpha = np.full((*frames.shape[:3], 1), 255, np.uint8)
    alpha[:, :, :40] = 0
    images = [Image.fromarray(image) for image in np.concatenate([frames, alpha], axis=3)]
    images[0].save(path, format, save_all=True, append_images=images[1:], duration=125)


def tarred(path: Path, clip: bytes) -> None:
    """A WebDataset tar of one clip, and one that breaks off."""
    with tarfile.open(path, "w") as tar:
        for name, content in (("k/1.mp4", clip), ("k/1.txt", b"in a tar \xff")):
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    path.with_name("broken.tar").write_bytes(path.read_bytes()[:700])


def clips(root: Path) -> None:
    """What FFmpeg and Pillow get to see."""
    for number in range(GOOD):
        good(root / f"good-{number}.mp4", number)
    whole = (root / "good-0.mp4").read_bytes()
    (root / "truncated.mp4").write_bytes(whole[: len(whole) // 2])  # its index, at the end, is lost
    encode(root / "cut-off.mkv", picture(20, 40), 8, "libx264", {}, "matroska")
    (root / "cut-off.mkv").write_bytes((root / "cut-off.mkv").read_bytes()[:-3000])
    (root / "zero.mp4").write_bytes(b"")
    good(root / "video.jpg", 21)
    (root / "text.mp4").write_text("no video at all\n" * 100)
    (root / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (root / "zeros.mp4").write_bytes(whole[:64] + bytes(len(whole) - 64))
    (root / "copy.mp4").write_bytes(whole)
    sound(root / "sound.mp4")
    good(root / "one.mp4", 22, frames=1)
    Image.fromarray(picture(23, 1)[0]).save(root / "still.png")
    encode(root / "many.avi", numbered(8000, 16, 16), 250, "mpeg4", {}, "avi")
    times = np.cumsum([1 + i % 3 * 7 for i in range(30)]).tolist()
    good(root / "variable.mp4", 24, frames=30, stamps=times)
    encode(root / "odd.mkv", picture(26, 18, 67, 91), 8, "ffv1", {}, "matroska", pixels="yuv444p")
    good(root / "deep.mp4", 27, pixels="yuv420p10le")
    stamps = [*range(20), *range(80_000_000, 80_000_010)]
    encode(root / "clock.mkv", picture(28, 30), 8, "libx264", {}, "matroska", stamps=stamps)
    encode(root / "thin.mkv", smooth(18, 2, 400), 8, "ffv1", {}, "matroska")
    for number, format in enumerate(("GIF", "WEBP", "PNG")):
        moving(root / f"alpha.{format.lower()}", 30 + number, format)
    turned = Image.fromarray(picture(33, 1)[0])
    turned.save(root / "turned.jpg", exif=_exif(6))
    slow(root / SLOW)
    tarred(root / "shard.tar", whole[:-1] + b"\x01")


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def names(root: Path) -> None:
    """What the file system gets to see."""
    content = iter(range(50, 99))
    for name in NAMES:
        good(root / name, next(content))
    raw = os.fsencode(root) + b"/not-\xff\xfe-utf8.mp4"
    good(root / "plain.mp4", next(content))
    os.rename(root / "plain.mp4", raw)
    os.mkfifo(os.fsencode(root) + b"/fifo-\xff.mp4")
    os.mkfifo(root / "fifo.mp4")
    (root / "loop").symlink_to(root / "loop")
    (root / "up").symlink_to(root)
    (root / "dangling.mp4").symlink_to(root / "nowhere.mp4")
    (root / "device.mp4").symlink_to("/dev/zero")
    (root / "locked").mkdir()
    good(root / "locked" / "in.mp4", next(content))
    (root / "locked").chmod(0)
    good(root / "forbidden.mp4", next(content))
    good(root / "secret.mp4", next(content))
    (root / "secret.txt").write_text("nobody may read this")
    for name in ("forbidden.mp4", "secret.txt"):
        (root / name).chmod(0)


def captions(root: Path) -> None:
    """What the tables and texts say."""
    for number in range(GOOD):
        (root / f"good-{number}.txt").write_bytes([b"a caf\xe9", "ein Hügel".encode(), b"", b"\0\0", "\u2028x".encode(),
                                                   "a hill".encode("utf-16")][number])  # fmt: skip
    (root / "deep.json").write_text("[" * 200_000)
    (root / "odd.json").write_text('{"caption": "half a pair \\ud83d"}')
    told = [("video.jpg", "no \ud83d pair"), ("missing.mp4", "is not there"), ("../outside.mp4", "leads outside"),
            ("\ud83d.mp4", "no text"),
            ("/etc/passwd", "so does this"), ("", "nothing"), ("a\0b.mp4", "a zero byte"), ("one.mp4", 7)]  # fmt: skip
    lines = [json.dumps({"file_name": name, "caption": text}) for name, text in told]
    (root / "metadata.jsonl").write_bytes("\n".join(lines).encode() + b'\n{"file_name": "good-9.mp4", "text": "\xff"}')
    (root / "folder").mkdir()
    good(root / "folder" / "tabled.mp4", 90)
    (root / "folder" / "metadata.csv").write_bytes(
        b"\xef\xbb\xbffile_name,caption\ntabled.mp4,caf\xe9\n../../x.mp4,outside\n"
    )


def fill(root: Path) -> None:
    """All of it."""
    clips(root)
    captions(root)
    names(root)
