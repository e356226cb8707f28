"""Scan: what a file is. One that is no video that can be read goes no further."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from videodit.data import video
from videodit.ingest.record import Dropped, Record
from videodit.ingest.stages import reading

ABOUT = ("height", "width", "codec", "pixel_format", "hdr", "variable", "interlaced")  # kept under the same names


@dataclass(frozen=True, kw_only=True)
class Scan:
    """A file's record -> its hash and what it says about itself.

    Args:
        root: where paths begin.
    """

    root: str = field(repr=False)

    def __call__(self, record: Record) -> list[Record]:
        """See the class."""
        source = record["source"]
        try:
            source.encode()
        except UnicodeEncodeError:
            raise Dropped("its name is not UTF-8", ascii(source)) from None
        with reading(self.root, record) as path:
            info = asdict(video.probe(path, exact=True))
            sha256 = video.digest(path)
        if not info["frames"]:
            raise Dropped("cannot be read", "it holds no frame")
        about = {key: info[key] for key in ABOUT}
        return [{"sha256": sha256, **about, "source_fps": info["fps"], "length": info["seconds"],
                 "stored": info["frames"]}]  # fmt: skip
