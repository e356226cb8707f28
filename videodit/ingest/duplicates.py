"""Find the clips that show the same thing: groups whose fingerprints agree, or whose embeddings do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from videodit.errors import InputError
from videodit.features.fingerprint import BAND_BITS, BANDS

FEW = 3  # so many frames agree at least in near-duplicates, unless both clips are shorter
PAIRS_AT_ONCE = 1 << 21  # 16 bytes each, and some more while they are compared
# A pair met through the bands costs about as much as a dozen when all are compared with all.
BAND_COST = 12
Name = TypeVar("Name", int, str)


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
    return groups(links)


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
        joined = np.arange(len(vectors))
        for one, least in components(ends.tolist()).items():
            joined[one] = least
        root = joined[root]
    return groups((one, least) for one, least in enumerate(root.tolist()) if one != least)


def groups(related: Iterable[Sequence[int]]) -> list[list[int]]:
    """The groups that indices form of which those in one list belong together; all ascend."""
    members: dict[int, list[int]] = {}
    for index, least in sorted(components(related).items()):
        members.setdefault(least, []).append(index)
    return list(members.values())


def components(related: Iterable[Sequence[Name]]) -> dict[Name, Name]:
    """For each thing the least of its group: those in one list are of one group (union-find, with path halving)."""
    parent: dict[Name, Name] = {}

    def find(name: Name) -> Name:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for names in related:
        for name in names:
            low, high = sorted((find(names[0]), find(name)))
            parent[high] = low
    return {name: find(name) for name in parent}


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
