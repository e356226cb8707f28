"""Clips that show the same thing: fingerprints of their pictures, and the groups of clips whose fingerprints agree.

A fingerprint is uint64 (n,): one hash for each of the frames that a clip shows at fixed times. Two hashes differ by
their Hamming distance, 0 to 64 bits; pictures of different scenes by some 20.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from videodit.errors import InputError
from videodit.ingest.images import checked, opencv, shrink

PER_SECOND = 4.0  # hashes; a copy that begins between two of them is at most an eighth of a second away from one
SIDE = 32  # pixels of the square picture that is hashed, as in pHash
LUMA, CHROMA = 40, 12  # how many of the lowest frequencies give a bit, the second number for each of two colours
COLOURED = 8.0  # coefficients of colour below this, a quarter of a level of the mean, are grey's noise
BLANK = 4.0  # levels: where neither brightness nor colours deviate more from their means, there is no picture
BAR = 24  # levels: the black of bars around a picture is darker everywhere
BAR_FRAMES = 16  # frames that tell where bars are
FEW = 3  # so many frames agree at least in near-duplicates, unless both clips are shorter

BANDS, BAND_BITS = 4, 16
PAIRS_AT_ONCE = 1 << 21  # 16 bytes each, and some more while they are compared
# A pair met through the bands costs about as much as a dozen when all are compared with all.
BAND_COST = 12


class Fingerprint:
    """The hashes of frames uint8 (H,W,3) at `fps` a second, which are seen one by one.

    The hash is pHash (Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010) with colour:
    signs of the lowest frequencies of a cosine transform, of brightness and of two colour differences. Black bars are
    cut off first, where they are the same in the first four seconds. Hardly anything changes with resolution,
    proportions, rate, compression and brightness; a few bits with a slight crop; mirrored pictures are others. Scenes
    alike in layout and colours have hashes that are alike: of the pairs of clips of the toy world, which share grounds
    and skies, about one in a thousand counts as near-duplicates. Raises InputError for a bad rate and for what is no
    frame.
    """

    def __init__(self, fps: float) -> None:
        if not 0 < fps < math.inf:
            raise InputError(f"fps must be above 0, got {fps}")
        self.fps, self.index, self.due = fps, 0, 0
        self.found: list[int] = []
        self.held: list[np.ndarray] = []  # pictures made small, until there are enough to tell bars
        self.bars: tuple[slice, slice] | None = None

    def see(self, frame: np.ndarray) -> None:
        """The next frame. Those nearest to the multiples of 1 / PER_SECOND seconds are hashed, each at most once."""
        if self.index == round(self.due * self.fps / PER_SECOND):
            self.held.append(shrink(checked(frame), 2 * SIDE))
            while round(self.due * self.fps / PER_SECOND) <= self.index:
                self.due += 1
            if self.bars is None and len(self.held) == BAR_FRAMES:
                self.bars = _inside(self.held)
            if self.bars is not None:
                self.found += _hashes(self.held, self.bars)
                self.held = []
        self.index += 1

    def hashes(self) -> np.ndarray:
        """uint64 (n,) of what was seen; blank frames (black, white, one colour) have none."""
        return np.array(self.found + _hashes(self.held, self.bars or _inside(self.held)), np.uint64)


def fingerprint(frames: Iterable[np.ndarray], fps: float) -> np.ndarray:
    """The hashes uint64 (n,) of a clip's frames: see Fingerprint."""
    seen = Fingerprint(fps)
    for frame in frames:
        seen.see(frame)
    return seen.hashes()


def near_duplicates(fingerprints: Sequence[np.ndarray], *, distance: int, share: float) -> list[list[int]]:
    """The groups, of two or more clips each, that near-duplicates and those of near-duplicates form; indices ascend.

    Two clips are near-duplicates where each has frames with a counterpart in the other, at most `distance` bits away:
    at least `share` (in 0…1) of the number of frames of the shorter one. So a part is found in the whole, but not
    a still in a clip that passes such a picture once; for the same reason at least three frames must agree, fewer
    only for two clips of about so few. A clip without hashes is in no group.

    Hashes are found in 16-bit bands (Norouzi et al., "Fast search in Hamming space with multi-index hashing", CVPR
    2012), or all compared with all where that is cheaper; either way exactly. Raises InputError for bad arguments.
    """
    if not (0 <= distance < 64 and 0 < share <= 1):
        raise InputError(f"distance must be in 0…63 and share above 0 and at most 1, got {distance} and {share}")
    for index, each in enumerate(fingerprints):
        if each.dtype != np.uint64 or each.ndim != 1:
            raise InputError(f"fingerprint {index} must be uint64 (n,), got {each.dtype} {each.shape}")
    first: dict[bytes, int] = {}  # equal fingerprints are searched once
    same = [first.setdefault(each.tobytes(), index) for index, each in enumerate(fingerprints)]
    links = [(index, other) for index, other in enumerate(same) if index != other and len(fingerprints[index])]
    searched = [index for index in first.values() if len(fingerprints[index])]
    lengths = np.array([len(fingerprints[index]) for index in searched], np.int64)
    if len(searched) > 1:
        hashes = np.concatenate([fingerprints[index] for index in searched])
        for a, b in _alike(hashes, lengths, distance, share):
            links.append((searched[a], searched[b]))
    return _groups(len(fingerprints), links)


def near_by_embedding(vectors: np.ndarray, *, cosine: float) -> list[list[int]]:
    """The groups, of two or more rows each, that rows of `vectors` (n,d) with a cosine of at least `cosine` form.

    Compared blockwise, in float32. A row of zeros is in no group. Raises InputError for bad arguments.
    """
    if vectors.ndim != 2 or not np.isfinite(vectors).all() or not -1 <= cosine <= 1:
        raise InputError(f"vectors must be finite (n,d) and cosine in -1…1, got {vectors.shape} and {cosine}")
    rows = vectors.astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1)
    used = np.flatnonzero(lengths > 0)
    rows = rows[used] / lengths[used, None]
    step = max(8 * PAIRS_AT_ONCE // max(len(rows), 1), 1)
    root = np.arange(len(vectors))
    for start in range(0, len(rows), step):
        close = rows[start : start + step] @ rows[start:].T >= cosine - 1e-6  # float32 rounds
        i, j = np.nonzero(close)
        ends = np.stack([root[used[i + start]], root[used[j + start]]], axis=1)
        ends = np.unique(ends[ends[:, 0] != ends[:, 1]], axis=0)  # what is joined already is most of a large group
        if len(ends):
            known, places = np.unique(ends, return_inverse=True)
            joined = np.arange(len(vectors))
            joined[known] = known[_roots(len(known), places.reshape(-1, 2).tolist())]
            root = joined[root]
    order = np.argsort(root, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(root[order])) + 1)
    return sorted(group.tolist() for group in groups if len(group) > 1)


def together(count: int, *findings: Sequence[Sequence[int]]) -> list[list[int]]:
    """The groups of `count` clips that several ways found, as one list: groups that share a clip are one."""
    links = [(group[0], other) for groups in findings for group in groups for other in group[1:]]
    return _groups(count, links)


# -------------------------------------------------------------------------------------------------------------- hashes


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


# -------------------------------------------------------------------------------------------------------------- search


def _alike(hashes: np.ndarray, lengths: np.ndarray, distance: int, share: float) -> list[tuple[int, int]]:
    """The pairs (a,b), a < b, of near-duplicates, of clips of `lengths` hashes each that stand one after another."""
    clips = len(lengths)
    owner = np.repeat(np.arange(clips), lengths)
    met: list[np.ndarray] = [np.empty(0, np.int64)]  # frame · clips + clip in which it has a counterpart
    most = 2 * PAIRS_AT_ONCE
    for i, j in _close_pairs(hashes, owner, distance):
        met.append(np.unique(np.concatenate([i * clips + owner[j], j * clips + owner[i]])))
        if sum(map(len, met)) > most:  # they repeat one another
            met = [np.unique(np.concatenate(met))]
            most = max(most, 2 * len(met[0]))
    frames = np.unique(np.concatenate(met))
    pairs, counts = np.unique(owner[frames // clips] * clips + frames % clips, return_counts=True)
    a, b = pairs // clips, pairs % clips
    # Where a has a counterpart in b, b has one in a: both orders are in the table.
    back = counts[np.searchsorted(pairs, b * clips + a)]
    shorter, longer = np.minimum(lengths[a], lengths[b]), np.maximum(lengths[a], lengths[b])
    needed = np.maximum(np.ceil(share * shorter - 1e-9), np.minimum(FEW, longer - 1))
    alike = (a < b) & (np.minimum(counts, back) >= needed)
    return list(zip(a[alike].tolist(), b[alike].tolist(), strict=True))


def _close_pairs(hashes: np.ndarray, owner: np.ndarray, distance: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks (i,j) of indices of hashes of different owners at most `distance` bits apart; some come more than once."""
    # At most `distance` bits differ: in one of the bands, then, at most a quarter of that.
    words = np.arange(1 << BAND_BITS, dtype=np.uint16)
    masks = words[np.bitwise_count(words) <= distance // BANDS]
    keys = [(hashes >> np.uint64(BAND_BITS * band)).astype(np.uint16) for band in range(BANDS)]
    sizes = [np.bincount(key, minlength=len(words)) for key in keys]
    everything = len(hashes) ** 2 / 2
    cost = len(masks) * len(hashes)
    for size in sizes:
        for mask in masks:
            cost += BAND_COST * int(size @ size[words ^ mask]) / 2
            if cost > everything:
                yield from _all_pairs(hashes, owner, distance)
                return
    for key, size in zip(keys, sizes, strict=True):
        for i, j in _band_pairs(key, size, masks):
            close = np.bitwise_count(hashes[i] ^ hashes[j]) <= distance
            close &= owner[i] != owner[j]
            if close.any():
                yield i[close], j[close]


def _all_pairs(hashes: np.ndarray, owner: np.ndarray, distance: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    step = max(PAIRS_AT_ONCE // len(hashes), 1)
    for start in range(0, len(hashes), step):
        rows = slice(start, start + step)
        close = np.bitwise_count(hashes[rows, None] ^ hashes[None, start:]) <= distance
        close &= owner[rows, None] != owner[None, start:]
        i, j = np.nonzero(close)
        if len(i):
            yield i + start, j + start


def _band_pairs(key: np.ndarray, size: np.ndarray, masks: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks (i,j) of indices whose keys, uint16 (n,), differ by one of the masks; every such pair once."""
    order = np.argsort(key, kind="stable")
    ordered, ends = key[order], np.cumsum(size)
    for mask in masks:
        wanted = ordered ^ mask
        stops = ends[wanted]
        starts = stops - size[wanted] if mask else np.arange(1, len(key) + 1)
        counts = np.where((ordered < wanted) | (mask == 0), stops - starts, 0)
        busy = np.flatnonzero(counts)
        until = np.cumsum(counts[busy])
        first = 0
        while first < len(busy):
            before = until[first - 1] if first else 0
            last = max(int(np.searchsorted(until, before + PAIRS_AT_ONCE, "right")), first + 1)
            rows = busy[first:last]
            many = counts[rows]
            place = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
            yield np.repeat(order[rows], many), order[np.repeat(starts[rows], many) + place]
            first = last


# -------------------------------------------------------------------------------------------------------------- groups


def _roots(count: int, links: Iterable[Sequence[int]]) -> np.ndarray:
    """For each of `count` things the least of those that links, pairs of indices, join it to: int64 (count,)."""
    parent = list(range(count))

    def find(one: int) -> int:
        while parent[one] != one:
            parent[one] = parent[parent[one]]
            one = parent[one]
        return one

    for a, b in links:
        low, high = sorted((find(a), find(b)))
        parent[high] = low
    return np.array([find(one) for one in range(count)], np.int64)


def _groups(count: int, links: Iterable[Sequence[int]]) -> list[list[int]]:
    members: dict[int, list[int]] = {}
    for index, root in enumerate(_roots(count, links).tolist()):
        members.setdefault(root, []).append(index)
    return [group for group in members.values() if len(group) > 1]
