"""Duplicates: copies that were changed are found, clips that only resemble one another are not."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from videodit.data import video
from videodit.errors import InputError
from videodit.features.fingerprint import HASHES
from videodit.features.measures import measure
from videodit.ingest import duplicates
from videodit.ingest.duplicates import near_by_embedding, near_duplicates
from videodit.toy.world import ToyWorld

REAL = Path(__file__).parents[3] / "shared" / "clips"
USUAL = {"distance": 6, "share": 0.7}


def scene(seed: int, frames: int = 60, height: int = 120, width: int = 200, speed: float = 1.0) -> np.ndarray:
    """A slow pan over a picture of soft random colours: uint8 (T,H,W,3), `speed` pixels a frame."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 20, 3), dtype=np.uint8)
    wide = Image.fromarray(noise).resize((width * 20 // 12, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(wide.filter(ImageFilter.GaussianBlur(2)))
    return np.stack([pixels[:, int(speed * t) : int(speed * t) + width] for t in range(frames)])


def resized(frames: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(f).resize((width, height), Image.Resampling.BILINEAR)) for f in frames])


def encoded(frames: np.ndarray, path: Path, fps: float, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.setitem(video.writing.CRF, "libx264", 36)
    video.write(path, frames, fps)
    return video.read(path)[0]


def fingerprint(frames: Iterable[np.ndarray], fps: float) -> np.ndarray:
    return np.array(measure(frames, fps, edge=64, measures=[HASHES])["hashes"], np.uint64)


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    return near_duplicates([one, other], **USUAL) == [[0, 1]]


def test_a_fingerprint_has_four_hashes_a_second_at_any_rate() -> None:
    frames = scene(0, 60)
    assert fingerprint(frames, 30.0).dtype == np.uint64
    assert len(fingerprint(frames, 30.0)) == 8 and len(fingerprint(frames[::2], 15.0)) == 8
    assert len(fingerprint(frames[:5], 2.0)) == 5 and len(fingerprint(frames[:1], 30.0)) == 1
    assert np.array_equal(fingerprint(iter(frames), 30.0)[:4], fingerprint(frames[:30], 30.0))


CHANGES = {
    "smaller": lambda frames: resized(frames, 100, 60),
    "stretched": lambda frames: resized(frames, 160, 120),
    "larger": lambda frames: resized(frames, 500, 300),
    "cropped": lambda frames: frames[:, 2:-2, 3:-3],
    "brighter": lambda frames: np.clip(frames * 1.15 + 10, 0, 255).astype(np.uint8),
    "noisy": lambda frames: np.clip(frames + np.random.default_rng(0).normal(0, 8, frames.shape), 0, 255).astype("u1"),
    "barred": lambda frames: np.pad(frames, ((0, 0), (25, 25), (0, 0), (0, 0))),
    "trimmed": lambda frames: frames[8:50],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found(change: str) -> None:
    clips = [scene(seed) for seed in range(4)]
    prints = [fingerprint(clip, 30.0) for clip in [*clips, CHANGES[change](clips[2])]]
    assert near_duplicates(prints, **USUAL) == [[2, 4]]


def test_a_copy_compressed_again_at_another_rate_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [scene(seed) for seed in range(4)]
    copy = encoded(resized(clips[1][::2], 128, 72), tmp_path / "copy.mp4", 15.0, monkeypatch)
    prints = [fingerprint(clip, 30.0) for clip in clips] + [fingerprint(copy, 15.0)]
    assert near_duplicates(prints, **USUAL) == [[1, 4]]


def test_a_part_is_found_in_the_whole_but_not_what_they_hardly_share() -> None:
    first, second, third = (fingerprint(scene(seed), 30.0) for seed in range(3))
    whole = np.concatenate([first, second])
    assert alike(second, whole)
    assert not alike(whole, np.concatenate([second[:3], third]))  # 3 of 11 hashes


def test_toy_clips_of_other_scenes_are_not_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = ToyWorld(seed=1, size=16, frames=17, height=64, width=96, fps=8.0)
    clips = [
        ((each.clip.numpy().transpose(1, 2, 3, 0) + 1) * 127.5).round().astype(np.uint8)
        for each in toy.__getitems__(range(16))
    ]
    copy = encoded(clips[5], tmp_path / "copy.mp4", 8.0, monkeypatch)
    assert near_duplicates([fingerprint(clip, 8.0) for clip in [*clips, copy]], **USUAL) == [[5, 16]]


def test_blank_frames_have_no_hash_and_do_not_join_clips() -> None:
    black = np.zeros((60, 120, 200, 3), np.uint8)
    fades = [np.concatenate([black, scene(seed, 30), black + 255]) for seed in range(3)]
    prints = [fingerprint(clip, 30.0) for clip in [*fades, black, black]]
    assert [len(each) for each in prints] == [4, 4, 4, 0, 0]
    assert near_duplicates(prints, **USUAL) == []


def test_a_still_does_not_join_clips_that_pass_by_its_picture() -> None:
    rng = np.random.default_rng(0)
    clips = [rng.integers(0, 1 << 63, 20).astype(np.uint64) for _ in range(4)]
    title = clips[0][7]
    for each in clips[1:]:
        each[3] = title
    still = np.full(20, title, np.uint64)
    assert near_duplicates([*clips, still], **USUAL) == []
    assert near_duplicates([*clips, still, still[:9] ^ np.uint64(5)], **USUAL) == [[4, 5]]
    assert near_duplicates([*clips, still[:1]], **USUAL) == []
    assert near_duplicates([still[:1], still[:1] ^ np.uint64(1)], **USUAL) == [[0, 1]]


def reference(prints: list[np.ndarray], distance: int, share: float) -> list[list[int]]:
    """The groups by the rule's own words, pair by pair."""
    group = list(range(len(prints)))
    for a, b in combinations(range(len(prints)), 2):
        if len(prints[a]) and len(prints[b]):
            close = np.bitwise_count(prints[a][:, None] ^ prints[b]) <= distance
            agree = min(close.any(axis=1).sum(), close.any(axis=0).sum())
            if agree >= max(share * min(close.shape), min(3, max(close.shape) - 1)):
                group = [group[a] if each == group[b] else each for each in group]
    found = [[i for i, each in enumerate(group) if each == one] for one in dict.fromkeys(group)]
    return sorted(each for each in found if len(each) > 1)


def crowd(seed: int, clips: int, bits: int) -> list[np.ndarray]:
    """Clips of 0 to 7 hashes, many of them a few bits from another's; only `bits` of the 64 are ever set."""
    rng = np.random.default_rng(seed)
    seeds = rng.integers(0, 1 << 63, 12).astype(np.uint64)
    mask = np.uint64(sum(1 << int(place) for place in rng.choice(64, bits, replace=False)))
    prints = []
    for _ in range(clips):
        near = rng.choice(seeds, rng.integers(0, 8))
        for _ in range(rng.integers(0, 6)):
            near = near ^ (np.uint64(1) << rng.integers(0, 64, len(near)).astype(np.uint64))
        far = rng.integers(0, 1 << 63, len(near)).astype(np.uint64)
        prints.append(np.where(rng.random(len(near)) < 0.7, near, far) & mask)
    return [*prints, *prints[:3]]


@pytest.mark.parametrize("search", ["bands", "all", "cheaper"])
@pytest.mark.parametrize(("distance", "share"), [(0, 1.0), (3, 0.5), (6, 0.7), (9, 0.9), (13, 0.3)])
def test_groups_are_those_of_a_reference(
    search: str, distance: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "PAIRS_AT_ONCE", 50)  # many blocks
    if search != "cheaper":
        monkeypatch.setattr(duplicates, "_close_pairs", by_bands if search == "bands" else duplicates._all_pairs)
    crowds = [crowd(seed, 60, 64 if seed % 2 else 24) for seed in range(4)]
    expected = [reference(prints, distance, share) for prints in crowds]
    assert any(expected)
    assert [near_duplicates(prints, distance=distance, share=share) for prints in crowds] == expected


def by_bands(hashes: np.ndarray, owner: np.ndarray, distance: int):  # noqa: ANN201
    """The bands alone, whatever they cost."""
    words = np.arange(1 << 16, dtype=np.uint16)
    masks = words[np.bitwise_count(words) <= distance // 4]
    for band in range(4):
        key = (hashes >> np.uint64(16 * band)).astype(np.uint16)
        for i, j in duplicates._band_pairs(key, np.bincount(key, minlength=1 << 16), masks):
            close = (np.bitwise_count(hashes[i] ^ hashes[j]) <= distance) & (owner[i] != owner[j])
            yield i[close], j[close]


def test_many_hashes_are_searched_by_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_all_pairs", None)
    prints = list(np.random.default_rng(0).integers(0, 1 << 63, (1000, 20)).astype(np.uint64))
    prints[700] = prints[3] ^ np.uint64(0b111 << 30)
    assert near_duplicates(prints, **USUAL) == [[3, 700]]


def test_embeddings_are_grouped_by_their_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "PAIRS_AT_ONCE", 30)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 8))
    vectors[30:40] = 3 * vectors[7] + 0.05 * rng.normal(size=(10, 8))
    vectors[50] = 0
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    for cosine in (0.99, 0.8, 0.6):
        group = list(range(60))
        for a, b in zip(*np.nonzero(np.triu(unit @ unit.T >= cosine, 1)), strict=True):
            group = [group[a] if each == group[b] else each for each in group]
        found = [[i for i, each in enumerate(group) if each == one] for one in dict.fromkeys(group)]
        assert near_by_embedding(vectors, cosine=cosine) == sorted(each for each in found if len(each) > 1)
    assert near_by_embedding(np.empty((0, 4)), cosine=0.9) == []


def test_bad_arguments_are_named() -> None:
    with pytest.raises(InputError, match="distance must be in"):
        near_duplicates([], distance=64, share=0.5)
    with pytest.raises(InputError, match="fingerprint 1 must be uint64"):
        near_duplicates([np.zeros(2, np.uint64), np.zeros(2)], **USUAL)
    with pytest.raises(InputError, match="vectors must be finite"):
        near_by_embedding(np.zeros(3), cosine=0.5)


@pytest.mark.skipif(not REAL.is_dir(), reason="the shared clips are not beside this checkout")
def test_of_the_real_clips_those_that_are_the_same_are_found() -> None:
    paths = sorted(each for each in REAL.glob("c*/*") if each.suffix != ".jsonl")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", video.CorruptPackets)
        prints = [fingerprint(video.stream(path), video.probe(path).fps) for path in paths]
    found = [[paths[index].name for index in group] for group in near_duplicates(prints, **USUAL)]
    # ocean.ogv is ocean.mp4 in other proportions, with black bars.
    assert found == [["carphone_distorted.mp4", "carphone_pristine.mp4"], ["ocean.mp4", "ocean.ogv"]]
