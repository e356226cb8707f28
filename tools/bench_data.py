"""How fast data comes: `python tools/bench_data.py [clips=../shared/clips] [count=10000] [rounds=3]
[part=cached,raw,resident] [clock=wall]`.

    cached     latents a second at random from `count` of toy size in shards as training writes them, page cache warm,
               one process: ours, safetensors' own reading, and decoding as many clips of 17 frames of 64x64
    raw        ours beside plain PyAV and plain decord on every file of `clips`, one thread each, taking turns: all its
               frames one by one, and clips of 17 frames at random
    resident   memory of the process after reading more and more clips, from the cache and from 64x64 mp4s

Times are the best of the rounds, since other processes only ever add to them; clock=cpu counts the processor time of
all threads instead, for a machine that is busy. Ratios are theirs by ours: above 1, ours is faster; "-", a reader
refuses the file. Plain PyAV and decord give frames as they are stored; ours bring them upright, to square pixels and
from HDR (files marked * need it).
"""

from __future__ import annotations

import math
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from os import sysconf
from pathlib import Path
from statistics import geometric_mean

import av
import decord
import torch
from safetensors import safe_open
from torch import Tensor

from videodit.checkpoint.latents import LatentCache, fill, latent_key
from videodit.data import video
from videodit.data.sample import to_frames
from videodit.errors import InputError
from videodit.shapes import VideoShape
from videodit.toy.world import ToyWorld
from videodit.train.encode import SHARD

Clock = Callable[[], float]
DEFAULTS = {"clips": "../shared/clips", "count": "10000", "rounds": "3", "part": "cached,raw,resident", "clock": "wall"}
FRAMES, DRAWN = 17, 6  # frames of a clip; clips drawn from a file in a round
LATENT = (16, 5, 8, 8)
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
TOY, FILES, DECODED = VideoShape(65, 64, 64), 8, 400  # the mp4s to decode, how many, clips decoded to time it
SHARES = (0.1, 0.25, 0.5, 1)  # of `count`, when memory is told


def main(arguments: list[str]) -> None:
    """Print the tables."""
    given = DEFAULTS | dict(argument.split("=", 1) for argument in arguments)
    if given.keys() != DEFAULTS.keys():
        sys.exit(f"it knows {', '.join(DEFAULTS)}")
    warnings.simplefilter("ignore", video.CorruptPackets)
    count, rounds, clock = int(given["count"]), int(given["rounds"]), CLOCKS[given["clock"]]
    with tempfile.TemporaryDirectory() as folder:
        small = toy_files(Path(folder) / "mp4")
        cache = LatentCache(latents(Path(folder) / "latents", count))
        files = sorted(path for path in Path(given["clips"]).rglob("*") if path.suffix in (".mp4", ".mpg", ".ogv"))
        parts: dict[str, Callable[[], None]] = {
            "cached": lambda: cached(cache, small, rounds, clock),
            "raw": lambda: raw(files, rounds, clock),
            "resident": lambda: resident(cache, small, count),
        }
        for part in given["part"].split(","):
            parts[part]()


def latents(folder: Path, count: int) -> Path:
    """A cache of made-up latents."""

    def encode(indices: list[int]) -> Iterator[tuple[int, Tensor, str]]:
        for index in indices:
            yield index, torch.randn(LATENT), f"a large red ball rolls right on a gray ground, {index}"

    fill(folder, [(latent_key(str(index), "vae"), index) for index in range(count)], encode, shard=SHARD)
    return folder


def toy_files(folder: Path) -> list[Path]:
    """Videos of the toy world."""
    world = ToyWorld(seed=0, size=FILES, frames=TOY.frames, height=TOY.height, width=TOY.width, fps=8)
    paths = [folder / f"{index}.mp4" for index in range(FILES)]
    for index, path in enumerate(paths):
        video.write(path, to_frames(world[index].clip), 8)
    return paths


def taking_turns(kinds: dict[str, Callable[[], int]], rounds: int, clock: Clock) -> dict[str, float]:
    """Seconds a frame or clip of each of `kinds`, which say how many they read; NaN of those that fail."""
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, kind in kinds.items():
            start = clock()
            try:
                done = kind()
                seconds[name].append((clock() - start) / done)
            except (InputError, av.FFmpegError, decord.DECORDError, ZeroDivisionError):
                seconds[name].append(math.nan)
    return {name: min(each) for name, each in seconds.items()}


def cached(cache: LatentCache, files: list[Path], rounds: int, clock: Clock) -> None:
    """Latents a second."""
    order = torch.randint(len(cache), (len(cache),), generator=torch.Generator().manual_seed(0)).tolist()
    theirs = [safe_open(shard, framework="pt") for shard in cache.shards]
    places = [(cache.entries[index].shard, cache.entries[index].name) for index in order]
    drawn = random.Random(0)
    clips = [(drawn.choice(files), drawn.randrange(TOY.frames - FRAMES) / 8) for _ in range(DECODED)]
    kinds = {
        "ours": lambda: len([cache[index][1] for index in order]),
        "ours, made float32": lambda: len([cache[index][0].float().numel() for index in order]),
        "safetensors, made float32": lambda: len([theirs[s].get_tensor(name).float().numel() for s, name in places]),
        "decoded by PyAV": lambda: len([video.read(path, start=at, frames=FRAMES)[1] for path, at in clips]),
        "decoded by decord": lambda: len(
            [video.read(path, start=at, frames=FRAMES, reader="decord")[1] for path, at in clips]
        ),
    }
    taken = taking_turns(kinds, rounds + 1, clock)
    size = 2 * math.prod(LATENT) / 2**20
    print(f"cached: {len(cache)} latents of {LATENT} in {len(cache.shards)} shards, one process, page cache")
    for name, each in taken.items():
        rate = f"{size / each:>9.0f} MB/s" if "decoded" not in name else " " * 14
        print(f"{name:<28}{1 / each:>10.0f} a second{rate}{each / taken['ours']:>10.1f} x the time of ours")
    print(flush=True)


def raw(files: list[Path], rounds: int, clock: Clock) -> None:
    """Ours beside theirs, file by file."""
    heads = ("ours", "PyAV", "decord", ":PyAV", ":decord", "decord:d.")
    print("raw: frames a second, one thread; ours (reader=av) to plain PyAV, to plain decord, reader=decord to decord")
    print(f"{'':<36}{'all frames':^54}{'clips of 17 at random':^54}")
    print(f"{'':<36}" + "".join(f"{head:>9}" for head in heads * 2))
    columns: dict[str, list[list[float]]] = {"all": [[] for _ in range(6)], "without *": [[] for _ in range(6)]}
    for path in files:
        info, line = video.probe(path), ""
        more = "*" if info.rotation or info.pixel_aspect != 1 or info.hdr else " "
        drawn = random.Random(path.name)
        starts = [drawn.randrange(max(1, info.frames - FRAMES)) / info.fps for _ in range(DRAWN)]
        for place, kinds in enumerate((whole(path), at_random(path, starts, info.fps))):
            taken = taking_turns(kinds, rounds, clock)
            ratios = [
                taken["PyAV"] / taken["ours"],
                taken["decord"] / taken["ours"],
                taken["decord"] / taken["ours, decord"],
            ]
            line += "".join(f"{told(1 / taken[name], 0):>9}" for name in ("ours", "PyAV", "decord"))
            line += "".join(f"{told(ratio, 2):>9}" for ratio in ratios)
            for kept in list(columns.values())[: 1 if more == "*" else 2]:
                for column, ratio in zip(kept[3 * place : 3 * place + 3], ratios, strict=True):
                    column += [] if math.isnan(ratio) else [ratio]
        print(f"{path.name[:34]:<34}{more} {line}", flush=True)
    for name, kept in columns.items():
        means = [f"{told(geometric_mean(column) if column else math.nan, 2):>9}" for column in kept]
        print(f"{'geometric mean, ' + name:<36}{'':<27}{''.join(means[:3])}{'':<27}{''.join(means[3:])}", flush=True)
    print()


def told(number: float, digits: int) -> str:
    """A number, or a dash."""
    return "-" if math.isnan(number) else f"{number:.{digits}f}"


def whole(path: Path) -> dict[str, Callable[[], int]]:
    """Reading all frames of a file."""

    def theirs_av() -> int:
        with av.open(str(path)) as container:
            container.streams.video[0].thread_count = 1
            return sum(1 for frame in container.decode(video=0) if frame.to_ndarray(format="rgb24").size)

    def theirs_decord() -> int:
        reader = decord.VideoReader(str(path), num_threads=1)
        return sum(1 for index in range(len(reader)) if reader[index].asnumpy().size)

    return {
        "ours": lambda: sum(1 for _ in video.stream(path)),
        "PyAV": theirs_av,
        "decord": theirs_decord,
        "ours, decord": lambda: sum(1 for _ in video.stream(path, reader="decord")),
    }


def at_random(path: Path, starts: list[float], fps: float) -> dict[str, Callable[[], int]]:
    """Reading clips from `starts`, seconds, on; the file is opened for each."""

    def clip_av(start: float) -> int:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_count = 1
            begin = (stream.start_time or 0) + start / stream.time_base
            container.seek(int(begin), stream=stream)
            frames = (frame for frame in container.decode(stream) if (frame.pts + 1) >= begin)
            return sum(1 for frame in islice(frames, FRAMES) if frame.to_ndarray(format="rgb24").size)

    def clip_decord(start: float) -> int:
        reader, first = decord.VideoReader(str(path), num_threads=1), round(start * fps)
        return len(reader.get_batch(range(first, min(first + FRAMES, len(reader)))).asnumpy())

    def ours(start: float, reader: video.Reader) -> int:
        return sum(1 for _ in video.stream(path, start=start, frames=FRAMES, reader=reader))

    return {
        "ours": lambda: sum(ours(start, "av") for start in starts),
        "PyAV": lambda: sum(map(clip_av, starts)),
        "decord": lambda: sum(map(clip_decord, starts)),
        "ours, decord": lambda: sum(ours(start, "decord") for start in starts),
    }


def resident(cache: LatentCache, files: list[Path], count: int) -> None:
    """Memory of this process as clips are read."""
    drawn = random.Random(1)

    def latents() -> None:
        cache[drawn.randrange(len(cache))][0].float()

    def clip(reader: video.Reader) -> None:
        start = drawn.randrange(TOY.frames - FRAMES) / 8
        video.read(drawn.choice(files), start=start, frames=FRAMES, reader=reader)

    marks = [int(share * count) for share in SHARES]
    print(f"{'resident, MB, after clips:':<28}" + "".join(f"{mark:>9}" for mark in marks))
    for name, step in (("cached", latents), ("raw, PyAV", lambda: clip("av")), ("raw, decord", lambda: clip("decord"))):
        print(f"{name:<28}", end="")
        for done in range(1, count + 1):
            step()
            if done in marks:
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                print(f"{pages * sysconf('SC_PAGE_SIZE') / 2**20:>9.1f}", end="", flush=True)
        print()


if __name__ == "__main__":
    main(sys.argv[1:])
