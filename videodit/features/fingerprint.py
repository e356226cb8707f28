"""Fingerprints of a clip's pictures, by which copies of it are known.

A fingerprint is uint64 (n,): one hash for each of the frames that a clip shows at fixed times. Two hashes differ by
their Hamming distance, 0 to 64 bits; pictures of different scenes by some 20.
"""

from __future__ import annotations

import numpy as np

from videodit.features.frames import opencv, shrink
from videodit.features.measures import Clip, Measure, View

PER_SECOND = 4.0  # hashes; a copy that begins between two of them is at most an eighth of a second away from one
SIDE = 32  # pixels of the square picture that is hashed, as in pHash
LUMA, CHROMA = 40, 12  # how many of the lowest frequencies give a bit, the second number for each of two colours
COLOURED = 8.0  # coefficients of colour below this, a quarter of a level of the mean, are grey's noise
BLANK = 4.0  # levels: where neither brightness nor colours deviate more from their means, there is no picture
BAR = 24  # levels: the black of bars around a picture is darker everywhere
BAR_FRAMES = 16  # frames that tell where bars are
BANDS, BAND_BITS = 4, 16  # parts of a hash, by which others near it are found


class Fingerprint:
    """The hashes of a clip's frames, which are seen one by one.

    The hash is pHash (Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010) with colour:
    signs of the lowest frequencies of a cosine transform, of brightness and of two colour differences. Black bars are
    cut off first, where they are the same in the first four seconds. Hardly anything changes with resolution,
    proportions, rate, compression and brightness; a few bits with a slight crop; mirrored pictures are others. Scenes
    alike in layout and colours have hashes that are alike: of the pairs of clips of the toy world, which share grounds
    and skies, about one in a thousand counts as near-duplicates.
    """

    def __init__(self, clip: Clip) -> None:
        self.fps, self.due = clip.fps, 0
        self.found: list[int] = []
        self.held: list[np.ndarray] = []  # pictures made small, until there are enough to tell bars
        self.bars: tuple[slice, slice] | None = None

    def see(self, view: View) -> None:
        """Hash the frames nearest to the multiples of 1 / PER_SECOND seconds, each at most once."""
        if view.index == round(self.due * self.fps / PER_SECOND):
            self.held.append(shrink(view.frame, 2 * SIDE))
            while round(self.due * self.fps / PER_SECOND) <= view.index:
                self.due += 1
            if self.bars is None and len(self.held) == BAR_FRAMES:
                self.bars = _inside(self.held)
            if self.bars is not None:
                self.found += _hashes(self.held, self.bars)
                self.held = []

    def number(self) -> list[int]:
        """The hashes, 64 bits each, of what was seen; blank frames (black, white, one colour) have none."""
        return self.found + _hashes(self.held, self.bars or _inside(self.held))


def _inside(small: list[np.ndarray]) -> tuple[slice, slice]:
    """Rows and columns within black bars of pictures uint8 (h,w,3); all of them where hardly a picture is left."""
    if not small:
        return np.s_[:, :]
    brightest = np.max([each.max(axis=2) for each in small], axis=0)
    inside = []
    for axis, size in enumerate(brightest.shape):
        bright = np.flatnonzero(np.percentile(brightest, 95, axis=1 - axis) > BAR)
        wide = len(bright) > 0 and bright[-1] + 1 - bright[0] >= size / 3
        inside.append(slice(bright[0], bright[-1] + 1) if wide else slice(None))
    return inside[0], inside[1]


def _hashes(small: list[np.ndarray], bars: tuple[slice, slice]) -> list[int]:
    """One hash for each picture uint8 (h,w,3) that is not blank."""
    cv2 = opencv()
    waves = [(i, j) for total in range(SIDE) for i in range(total + 1) for j in [total - i]]  # low frequencies first
    rows, columns = np.array(waves[: LUMA + 1]).T
    found = []
    for each in small:
        square = cv2.resize(np.ascontiguousarray(each[bars]), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        planes = cv2.split(cv2.cvtColor(square, cv2.COLOR_RGB2YCrCb).astype(np.float32) - 128)
        if max(float(plane.std()) for plane in planes) < BLANK:
            continue
        luma, *colours = (cv2.dct(plane)[rows, columns] for plane in planes)
        bits = [luma[1:] > 0, *(colour[:CHROMA] > COLOURED for colour in colours)]
        # Dealt out to the bands in turn: each gets its part of colour, which in grey clips distinguishes nothing.
        dealt = np.concatenate(bits).reshape(BAND_BITS, BANDS).T
        found.append(int.from_bytes(np.packbits(dealt).tobytes(), "big"))
    return found


HASHES = Measure("hashes", "64-bit hashes of the pictures, four a second; those of copies differ little", Fingerprint)
