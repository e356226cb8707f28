"""Cached latents: encoded once, found by key alone, whole shards or none."""

from __future__ import annotations

import itertools
import os
import pickle
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader

from tests.compare import noise
from videodit.checkpoint import latents as module
from videodit.checkpoint import store
from videodit.checkpoint.latents import LatentCache, Shard, fill, latent_key
from videodit.errors import InputError
from videodit.shapes import LatentShape
from videodit.signals import end, on_stop

SIZES = [(1, 2, 3), (2, 2, 2), (3, 1, 4), (1, 4, 4), (2, 3, 1)]


class Encoder:
    """Makes up latents for the indices it is asked for, remembers them, and breaks at one of them if told so."""

    def __init__(self, *, breaks_at: int | None = None, unreadable: tuple[int, ...] = ()) -> None:
        self.asked: list[int] = []
        self.breaks_at, self.unreadable = breaks_at, unreadable

    def __call__(self, indices: list[int]) -> Iterator[tuple[int, Tensor, str]]:
        for index in sorted(indices, key=lambda i: i % 3):  # in an order of its own
            if index == self.breaks_at:
                raise RuntimeError("killed")
            self.asked.append(index)
            if index not in self.unreadable:
                yield index, latents(index), f"caption {index}"


def latents(index: int) -> Tensor:
    return noise(4, *SIZES[index % len(SIZES)], seed=index)


def wanted(count: int, *, vae: str = "vae") -> list[tuple[str, int]]:
    return [(latent_key(f"clip {i}", vae), i) for i in range(count)]


def check(cache: LatentCache, indices: list[int]) -> None:
    assert len(cache) == len(indices)
    for place, index in enumerate(indices):
        stored, caption = cache[place]
        assert torch.equal(stored, latents(index).half()) and stored.dtype == torch.float16
        assert caption == f"caption {index}"
        assert cache.shape(place) == LatentShape(*latents(index).shape[1:])


@pytest.mark.parametrize("shard", [1, 3, 100])
def test_all_is_found_in_the_order_of_the_keys(tmp_path: Path, shard: int) -> None:
    pairs = wanted(10)
    fill(tmp_path, pairs, Encoder(), shard=shard)
    assert len(list(tmp_path.iterdir())) == -(-10 // shard)
    keys = [key for key, _ in pairs]
    check(LatentCache(tmp_path, keys=keys), list(range(10)))
    check(LatentCache(tmp_path, keys=keys[::-1]), list(range(10))[::-1])
    check(LatentCache(tmp_path, keys=[keys[3], keys[3], "unheard of", keys[7]]), [3, 3, 7])
    assert len(LatentCache(tmp_path)) == 10


def test_only_what_is_missing_is_encoded(tmp_path: Path) -> None:
    fill(tmp_path, wanted(4), Encoder(), shard=2)
    again = Encoder()
    fill(tmp_path, wanted(4), again, shard=2)
    assert again.asked == []
    fill(tmp_path, wanted(7), again, shard=2)
    assert sorted(again.asked) == [4, 5, 6]
    check(LatentCache(tmp_path, keys=[key for key, _ in wanted(7)]), list(range(7)))


def test_another_vae_or_clip_is_not_found(tmp_path: Path) -> None:
    fill(tmp_path, wanted(3), Encoder(), shard=8)
    assert len(LatentCache(tmp_path, keys=[key for key, _ in wanted(3, vae="trained on")])) == 0
    assert len(LatentCache(tmp_path, keys=[latent_key("clip 0 changed", "vae"), latent_key("clip 0", "vae")])) == 1
    assert len({latent_key(clip, vae) for clip in "abc" for vae in "abc"}) == 9
    fill(tmp_path, wanted(3, vae="trained on"), Encoder(), shard=8)
    assert len(LatentCache(tmp_path)) == 6


def test_a_run_killed_in_the_middle_goes_on(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        fill(tmp_path, wanted(9), Encoder(breaks_at=7), shard=3)
    whole = sorted(path.name for path in tmp_path.iterdir())
    assert len(whole) == 2 and all(name.endswith(".safetensors") for name in whole)
    again = Encoder()
    fill(tmp_path, wanted(9), again, shard=3)
    assert sorted(again.asked) == [6, 7, 8]
    check(LatentCache(tmp_path, keys=[key for key, _ in wanted(9)]), list(range(9)))


def test_a_shard_is_kept_every_minute(tmp_path: Path) -> None:
    """By a clock that a clip moves on by 25 seconds: what a kill can cost is less than a minute and a clip."""
    seconds, kept = itertools.count(0, 25), []

    def encode(indices: list[int]) -> Iterator[tuple[int, Tensor, str]]:
        for one in Encoder()(indices):
            kept.append(len(LatentCache(tmp_path)))
            yield one

    fill(tmp_path, wanted(10), encode, shard=100, clock=lambda: next(seconds))
    assert max(made - there for made, there in enumerate(kept)) <= 3 and kept[-1] >= 6
    check(LatentCache(tmp_path, keys=[key for key, _ in wanted(10)]), list(range(10)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("place", ["encoding", "writing"])
def test_who_asks_to_stop_gets_what_is_there(
    number: int, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two clips, and while a shard is written."""
    original = store.save_file

    def encode(indices: list[int]) -> Iterator[tuple[int, Tensor, str]]:
        for one in Encoder()(indices):
            if place == "encoding" and one[0] == 4:
                signal.raise_signal(number)
            yield one

    def save(*args: object) -> None:
        if place == "writing" and not list(tmp_path.glob("shard-*")):
            signal.raise_signal(number)
        original(*args)

    monkeypatch.setattr(store, "save_file", save)
    with pytest.raises(KeyboardInterrupt), on_stop(end):
        fill(tmp_path, wanted(9), encode, shard=4 if place == "writing" else 3)
    check(LatentCache(tmp_path, keys=[key for key, _ in wanted(9)]), [0, 1, 2, 3])
    assert not list(tmp_path.glob(".*"))
    monkeypatch.undo()
    again = Encoder()
    fill(tmp_path, wanted(9), again, shard=3)
    assert sorted(again.asked) == [4, 5, 6, 7, 8]


def test_a_full_disk_keeps_the_shards_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = store.save_file

    def save(tensors: dict, path: Path, metadata: dict) -> None:
        if list(tmp_path.glob("shard-*")):
            raise OSError("No space left on device")
        original(tensors, path, metadata)

    monkeypatch.setattr(store, "save_file", save)
    with pytest.raises(InputError, match="shard-.*No space left"):
        fill(tmp_path, wanted(6), Encoder(), shard=3)
    assert len(list(tmp_path.iterdir())) == 1
    assert len(LatentCache(tmp_path)) == 3


def test_clips_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    fill(tmp_path, wanted(5), Encoder(unreadable=(1, 4)), shard=2)
    check(LatentCache(tmp_path, keys=[key for key, _ in wanted(5)]), [0, 2, 3])
    again = Encoder()
    fill(tmp_path, wanted(5), again, shard=2)
    assert sorted(again.asked) == [1, 4]


def test_workers_get_it_pickled(tmp_path: Path) -> None:
    fill(tmp_path, wanted(5), Encoder(), shard=2)
    cache = LatentCache(tmp_path, keys=[key for key, _ in wanted(5)])
    check(cache, list(range(5)))  # its files are open now
    check(pickle.loads(pickle.dumps(cache)), list(range(5)))


def test_an_empty_or_absent_folder_holds_nothing(tmp_path: Path) -> None:
    assert len(LatentCache(tmp_path)) == len(LatentCache(tmp_path / "absent", keys=["a"])) == 0


def test_a_broken_shard_is_named(tmp_path: Path) -> None:
    fill(tmp_path, wanted(3), Encoder(), shard=8)
    (shard,) = tmp_path.iterdir()
    content = shard.read_bytes()
    for broken in (content[:-7], content[:5], b"", content.replace(b'\\"clips\\"', b'\\"clops\\"')):
        shard.write_bytes(broken)
        with pytest.raises(InputError, match=f"{shard.name} is not a readable shard of latents.*delete it"):
            LatentCache(tmp_path)


def test_a_shard_whose_clips_are_not_its_tensors_is_named(tmp_path: Path) -> None:
    fill(tmp_path, wanted(3), Encoder(), shard=8)
    (shard,) = tmp_path.iterdir()
    tensors = {name: tensor.clone() for name, tensor in load_file(shard).items()}
    with safe_open(shard, framework="pt") as file:
        metadata = file.metadata()
    first, *rest = tensors
    for other in (
        {name: tensors[name] for name in rest},
        {**tensors, first: tensors[first].float()},
        {**tensors, first: tensors[first][..., :1].contiguous()},
        {**tensors, first: tensors[first][0].contiguous()},
    ):
        save_file(other, shard, metadata)
        with pytest.raises(InputError, match=f"{shard.name} is not a readable shard of latents.*delete it"):
            LatentCache(tmp_path)


def test_reads_what_safetensors_reads(tmp_path: Path) -> None:
    fill(tmp_path, wanted(11), Encoder(), shard=4)
    theirs = {name: tensor for shard in tmp_path.iterdir() for name, tensor in load_file(shard).items()}
    cache = LatentCache(tmp_path)
    for place, entry in enumerate(cache.entries):
        assert torch.equal(cache[place][0], theirs[entry.name])
    cache[0][0].zero_()  # what is read is the reader's own
    assert torch.equal(cache[0][0], theirs[cache.entries[0].name])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_on_their_own(tmp_path: Path, method: str) -> None:
    fill(tmp_path, wanted(40), Encoder(), shard=2)
    cache = LatentCache(tmp_path, keys=[key for key, _ in wanted(40)])
    check(cache, list(range(40)))  # its files are open now
    read = list(DataLoader(cache, batch_size=None, num_workers=2, multiprocessing_context=method))
    assert [caption for _, caption in read] == [f"caption {i}" for i in range(40)]
    assert all(torch.equal(stored, latents(i).half()) for i, (stored, _) in enumerate(read))
    check(cache, list(range(40)))


def test_many_shards_keep_few_files_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OPEN", 7)
    fill(tmp_path, wanted(60), Encoder(), shard=1)
    before = len(os.listdir("/proc/self/fd"))
    cache = LatentCache(tmp_path, keys=[key for key, _ in wanted(60)])
    check(cache, list(range(60)))
    check(cache, list(range(60)))
    assert len(os.listdir("/proc/self/fd")) - before == 7
    del cache
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_shard_that_changes_under_a_run_is_named(tmp_path: Path) -> None:
    fill(tmp_path, wanted(3), Encoder(), shard=8)
    (shard,) = tmp_path.iterdir()
    content = shard.read_bytes()
    unopened, opened = LatentCache(tmp_path), LatentCache(tmp_path)
    assert opened[0]
    os.truncate(shard, 100)
    with pytest.raises(InputError, match=f"{shard.name} was cut off"):
        opened[0]
    with pytest.raises(InputError, match=f"{shard.name} changed"):
        unopened[0]
    shard.unlink()
    with pytest.raises(InputError, match=f"{shard.name} is gone"):
        unopened[0]
    shard.write_bytes(content)
    assert unopened[0]


def test_a_read_that_comes_in_parts_is_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    whole = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, place: whole(file, min(size, 9), place))
    assert Shard(path, 100).read(10, 50) == bytes(range(10, 60))
    with pytest.raises(InputError, match="cut off"):
        Shard(path, 100).read(90, 11)


def test_latents_beyond_two_gigabytes_are_found(tmp_path: Path) -> None:
    path = tmp_path / "shard-large.safetensors"
    offset, size = 5 << 30, (5 << 30) + 6
    with path.open("wb") as file:  # a hole: it takes no room
        file.seek(offset)
        file.write(b"latent")
    assert Shard(path, size).read(offset, 6) == b"latent"


def test_memory_stays_flat_while_latents_are_read_at_random(tmp_path: Path) -> None:
    large = torch.zeros(16, 5, 32, 32)
    fill(tmp_path, wanted(300), lambda few: ((i, large, "") for i in few), shard=20)  # 49 MB
    cache = LatentCache(tmp_path)
    order = torch.randint(len(cache), (10_000,), generator=torch.Generator().manual_seed(0)).tolist()
    resident = []
    for count, index in enumerate(order):
        assert cache[index][0].shape == large.shape
        if count % 1000 == 999:
            resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    assert max(resident) - resident[0] < 8 << 20
