"""Files changed by chance, through every reader: each try is a process of its own, judged by what it prints.

A reader is a folder of sound files, the one that is changed, and what reads it. Hypothesis draws the changes, so that a
failure shrinks to the smallest change that shows it. `tools/fuzz.py` runs this for long.
"""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import unicodedata
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from tests.parity.pipelines import pipeline
from tests.tiny import CAPTIONS, DIT, tiny_pipeline
from videodit.checkpoint.adapters import save_adapter
from videodit.checkpoint.latents import LatentCache, fill
from videodit.checkpoint.store import write_json
from videodit.cli.main import main, user_message

SECONDS, BYTES = 30, 2 * 2**30  # that a try may take
WEIRD = (
    *(None, True, False, 0, -1, 1, 2, 7, 2**31, 2**63, -(2**63), 10**30, 10**400, 1e308, -1e308, 0.5, 1e-320),
    *(float("nan"), float("inf"), "", "x", "\x1b[31mred\x07", "a\nb", "\ud800", "\u202e", "${oc.env:HOME}", "../../x"),
    *("/etc/passwd", "http://127.0.0.1:9/x", "nan", [], [0], [[]], [-1, -1], ["x"], {}, {"x": 1}, "9" * 5000, [1] * 50),
)
BROKEN = (
    *(b"", b"null", b"[]", b"3", b'"x"', b"NaN", b"\0" * 100, b"1" * 100_000, b"[" * 200_000, b"\xff\xfe", b"{"),
    *(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b'{"a": 1, "a": 2}', b"\xef\xbb\xbf{}"),
)
DTYPES = ("F16", "BF16", "F64", "I64", "I32", "U32", "I8", "BOOL", "F8_E4M3", "F8_E8M0", "F4", "C64", "X9", 5, None)
SHAPES = ([], [-1], [2**63], [2**62, 4], [0], [1] * 70, "x", None, [1.5])
OFFSETS = ([-1, 4], [0, 2**63], [4, 0], [0, 0], [0], "x", None, [2**64 - 1, 3])


@dataclass(frozen=True)
class Reader:
    """`make` fills a folder; `file` in it is changed by `change`; `read` is called in that folder and may raise.

    `refuses`: some changes are refused; else whatever is damaged is left out.
    """

    make: Callable[[Path], None]
    file: str
    change: Callable[[st.DataObject, bytes], bytes]
    read: Callable[[], Any]
    refuses: bool = True


# ------------------------------------------------------------------------------------------------------------- changes


def changed_bytes(data: st.DataObject, raw: bytes) -> bytes:
    """The bytes with a part cut off, flipped, put in or taken out."""
    place = data.draw(st.integers(0, max(0, len(raw) - 1)))
    how = data.draw(st.sampled_from(("cut", "flip", "put", "take")))
    if how == "cut":
        return raw[:place]
    if how == "flip":
        return raw[:place] + bytes([raw[place] ^ data.draw(st.integers(1, 255))]) + raw[place + 1 :] if raw else raw
    if how == "put":
        new = data.draw(st.sampled_from((b"\xff" * 8, b"\0" * 4, b"\x7f\xff\xff\xff", b"\x80")))
        return raw[:place] + new + raw[place:]
    return raw[:place] + raw[place + data.draw(st.integers(1, 1000)) :]


def changed_value(data: st.DataObject, value: Any) -> Any:
    """A JSON value with one of its parts exchanged, left out or added."""
    value = json.loads(json.dumps(value))
    places = list(_places(value))
    path = data.draw(st.sampled_from(places))
    if not path:
        return data.draw(st.sampled_from(WEIRD))
    inside = value
    for key in path[:-1]:
        inside = inside[key]
    how = data.draw(st.sampled_from(("exchange", "exchange", "exchange", "leave out", "add")))
    if how == "leave out":
        del inside[path[-1]]
    elif how == "add" and isinstance(inside, dict):
        inside[data.draw(st.sampled_from(("x", "base", "_target_", "\x1b[2J")))] = data.draw(st.sampled_from(WEIRD))
    else:
        inside[path[-1]] = data.draw(st.sampled_from(WEIRD))
    return value


def changed_json(data: st.DataObject, raw: bytes) -> bytes:
    """JSON changed as a value, or as text."""
    how = data.draw(st.integers(0, 9))
    if how == 0:
        return data.draw(st.sampled_from(BROKEN))
    if how == 1:
        return changed_bytes(data, raw)
    value = json.loads(raw)
    for _ in range(data.draw(st.sampled_from((1, 1, 1, 3)))):
        value = changed_value(data, value)
    return json.dumps(value).encode()


def changed_line(data: st.DataObject, raw: bytes) -> bytes:
    """JSON lines, of which one is changed."""
    lines = raw.splitlines()
    place = data.draw(st.integers(0, len(lines) - 1))
    lines[place] = changed_json(data, lines[place])
    return b"\n".join(lines) + b"\n"


def changed_safetensors(data: st.DataObject, raw: bytes) -> bytes:
    """A safetensors file, changed in its header, in our JSON within it, or in its bytes."""
    length = struct.unpack("<Q", raw[:8])[0]
    head, body = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    how = data.draw(st.sampled_from(("bytes", "length", "row", "row", "names", "ours", "ours", "metadata")))
    if how == "bytes":
        return changed_bytes(data, raw)
    if how == "length":
        lengths = (0, 1, length - 1, length + 1, length + len(body) + 1, 100_000_001, 2**31, 2**63, 2**64 - 1)
        return struct.pack("<Q", data.draw(st.sampled_from(lengths))) + raw[8:]
    names = sorted(name for name in head if name != "__metadata__")
    row = data.draw(st.sampled_from(names))
    if how == "row":
        key, values = data.draw(st.sampled_from((("dtype", DTYPES), ("shape", SHAPES), ("data_offsets", OFFSETS))))
        head[row][key] = data.draw(st.sampled_from(values))
    elif how == "names":
        other = data.draw(st.sampled_from(("x\ny", "\x1b[31mx", "a" * 5000, "", "blocks. .x", "../x")))
        head[other] = head.pop(row) if data.draw(st.booleans()) else data.draw(st.sampled_from(WEIRD))
    elif how == "ours" and "videodit" in head.get("__metadata__", {}):
        ours = changed_json(data, head["__metadata__"]["videodit"].encode())
        head["__metadata__"]["videodit"] = ours.decode("utf-8", "replace")
    else:
        head["__metadata__"] = data.draw(st.sampled_from((*WEIRD, {"videodit": "null"}, {"videodit": "[" * 10_000})))
    packed = json.dumps(head).encode()
    return struct.pack("<Q", len(packed)) + packed + body


def _places(value: Any, path: tuple[Any, ...] = ()) -> Any:
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from _places(value[key], (*path, key))
    elif isinstance(value, list):
        for place in range(min(len(value), 8)):
            yield from _places(value[place], (*path, place))


# ------------------------------------------------------------------------------------------------------------- readers


@cache
def _base() -> Path:
    """Sound files that are made once: a tiny model, an adapter, latents, and a tiny pipeline of diffusers."""
    base = Path(tempfile.mkdtemp(prefix="videodit-fuzz-"))
    if not os.fork():  # in a child: the parent of many forks starts no thread
        _make_base(base)
        os._exit(0)
    assert os.wait()[1] == 0
    return base


def _make_base(base: Path) -> None:
    tiny_pipeline(base / "tiny")
    torch.manual_seed(0)
    matrices = [f"blocks.{block}.{name}" for block in range(2) for name in ("attention.q", "cross.q")]
    save_adapter(
        base / "adapter.safetensors",
        {name: {"down": torch.randn(2, 24), "up": torch.randn(24, 2)} for name in matrices},
        DIT,
        {"adapter": {"dora": False}},
    )
    fill(base / "cache", [("a", 0), ("b", 1)], lambda some: [(i, torch.randn(4, 2, 4, 4), "c") for i in some], shard=8)
    pipeline("2.1", base / "wan")


def _tiny(folder: Path) -> None:
    shutil.copytree(_base() / "tiny", folder / "m")


def _with_adapter(folder: Path) -> None:
    _tiny(folder)
    shutil.copy(_base() / "adapter.safetensors", folder)


def _requests(folder: Path) -> None:
    _tiny(folder)
    one = {"prompt": "a ball", "negative": "", "size": "32x32", "seconds": 1.0, "fps": 8.0, "fit": "crop", "seed": 1}
    two = {"prompt": "a", "width": 32, "height": 32, "frames": 5, "steps": 2, "guidance": 2.0, "sampler": "euler"}
    (folder / "many.jsonl").write_text(json.dumps(one) + "\n" + json.dumps(two) + "\n")


def _run(folder: Path) -> None:
    (folder / "samples").mkdir()
    (folder / "samples" / "step-1-0.mp4").write_bytes(b"x")
    table = {"columns": ["prompt", "file"], "rows": [["a", "samples/step-1-0.mp4"]]}
    record = {"step": 1, "time": 1.0, "loss": 1.0, "clips seen": 3, "samples/prompts": table}
    (folder / "metrics.jsonl").write_text("".join(json.dumps({**record, "step": step}) + "\n" for step in (1, 2)))
    (folder / "skipped.jsonl").write_text(json.dumps({"path": "x", "reason": "y"}) + "\n")
    origin = {"git": {"commit": "abc", "dirty": False}, "versions": {"torch": "2"}}
    data = {"train": [{"_target_": "os.system", "x": 1}], "heldout": []}
    write_json(folder / "config.json", {"name": "r", "loop": {"steps": 10}, "data": data, "origin": origin})


def _cache(folder: Path) -> None:
    shutil.copy(next((_base() / "cache").glob("*.safetensors")), folder / "shard-0.safetensors")


def _diffusers(folder: Path) -> None:
    shutil.copytree(_base() / "wan", folder / "m")


def _generate(*more: str) -> Callable[[], Any]:
    return lambda: main(["generate", CAPTIONS[0], "model=m", "out=o.mp4", "frames=1", "size=32x32", "steps=1", *more])


def _read_cache() -> None:
    cache = LatentCache(".")
    for index in range(len(cache)):
        assert cache[index][0].shape[1:] == tuple(vars(cache.shape(index)).values())


def _read_requests() -> None:
    """As `generate prompts=` does, which then makes what is small."""
    import videodit
    from videodit.cli.generate import read_requests, tell
    from videodit.cli.memory import check_memory

    pipe = videodit.load("m", device="cpu")
    requests = [pipe.request(**asked) for asked in read_requests(Path("many.jsonl"))]
    tell(pipe, requests)
    for one in requests:
        check_memory(pipe, [one], "check")
        if one.steps <= 20 and one.frames * one.height * one.width < 10**6:
            pipe.run([one])[0].save("o.mp4")


OWN = ("dit.safetensors", "text.safetensors", "vae.safetensors")
READERS = {
    **{f"own/{file}": Reader(_tiny, f"m/{file}", changed_safetensors, _generate()) for file in OWN},
    "own/pipeline.json": Reader(_tiny, "m/pipeline.json", changed_json, _generate()),
    "own/tokenizer.json": Reader(_tiny, "m/tokenizer.json", changed_json, _generate()),
    "adapter": Reader(_with_adapter, "adapter.safetensors", changed_safetensors, _generate("lora=adapter.safetensors")),
    "info": Reader(_tiny, "m/text.safetensors", changed_safetensors, lambda: main(["info", "m"])),
    "requests": Reader(_requests, "many.jsonl", changed_line, _read_requests),
    "report/config": Reader(_run, "config.json", changed_json, lambda: main(["report", "."])),
    "report/metrics": Reader(_run, "metrics.jsonl", changed_line, lambda: main(["report", "."])),
    "report/skipped": Reader(_run, "skipped.jsonl", changed_line, lambda: main(["report", "."]), refuses=False),
    "latents' shard": Reader(_cache, "shard-0.safetensors", changed_safetensors, _read_cache),
    **{
        f"diffusers/{file}": Reader(_diffusers, f"m/{file}", changed_json, _generate())
        for file in ("model_index.json", "transformer/config.json", "vae/config.json", "text_encoder/config.json")
    },
}  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- a try


def outcome(name: str, data: st.DataObject) -> str:
    """What became of one changed file: "clean", "accepted", or what is wrong."""
    reader = READERS[name]
    with tempfile.TemporaryDirectory(prefix="videodit-fuzz-") as scratch:
        folder = Path(scratch) / "files"
        folder.mkdir()
        reader.make(folder)
        path = folder / reader.file
        path.write_bytes(reader.change(data, path.read_bytes()))
        return in_a_process(reader.read, folder, Path(scratch) / "told")


def in_a_process(read: Callable[[], Any], folder: Path, told: Path) -> str:
    """Call `read` in a fork, in this folder, and judge it; `told` is a file for what it says."""
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")  # a fork begins with it
    pid = os.fork()
    if not pid:
        _read_and_tell(read, folder, told)
    _, status, usage = os.wait4(pid, 0)
    if os.WIFSIGNALED(status):
        return f"hangs for {SECONDS} s" if os.WTERMSIG(status) == signal.SIGALRM else f"dies of {os.WTERMSIG(status)}"
    if (grown := usage.ru_maxrss * 1024 - before) > BYTES:
        return f"takes {grown / 2**30:.1f} GiB"
    return told.read_text("utf-8") if told.exists() else "ends without a word"


def judged(code: Any, text: str) -> str:
    """What a command's exit code and its output amount to."""
    if "Traceback" in text:
        return f"traceback: {text.strip().splitlines()[-1]}"
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in text.replace("\n", "")):
        return f"control characters: {text!r}"
    if code == 2:
        errors = [line for line in text.splitlines() if line.startswith("videodit: error: ")]
        return "clean" if len(errors) == 1 and text.endswith(errors[0] + "\n") else f"more than a line: {text!r}"
    return "accepted" if not code else f"exit code {code}: {text[-200:]!r}"


def _read_and_tell(read: Callable[[], Any], folder: Path, told: Path) -> None:
    """In the child: never returns."""
    said, code = io.StringIO(), None
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(BaseException), redirect_stdout(said), redirect_stderr(said):
        os.chdir(folder)
        try:
            code = read()
        except Exception as error:  # a function of Python's own interface
            message = user_message(error)
            code = 2 if message else 1
            said.write(f"videodit: error: {message}\n" if message else f"Traceback {type(error).__name__}: {error}\n")
    told.write_text(judged(code, said.getvalue()), "utf-8", errors="backslashreplace")
    sys.stdout.flush()
    os._exit(0)


def prepare() -> None:
    """What must be so before the first try: one thread, so that a fork has no locks that nobody opens."""
    torch.set_num_threads(1)
    _base()
    np.zeros(1)
