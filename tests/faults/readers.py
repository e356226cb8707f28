"""What reads files of others: for each kind a folder of sound files, the one that is changed, and what reads it."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pyarrow
from hypothesis import strategies as st
from pyarrow import parquet
from safetensors.torch import load_file

import videodit
from tests.faults.changes import changed_bytes, changed_json, changed_line, changed_safetensors
from tests.faults.sound import base
from tests.tiny import CAPTIONS
from tests.train import tiny
from videodit.checkpoint import resolve
from videodit.checkpoint.latents import LatentCache
from videodit.checkpoint.schedulers import FILE
from videodit.checkpoint.store import write_json
from videodit.cli.generate import tell
from videodit.cli.main import main
from videodit.data import video
from videodit.data.datasets import read_entries
from videodit.data.files import Root
from videodit.data.sample import BadSample
from videodit.data.set import training_set
from videodit.errors import InputError
from videodit.generate.admission import admit
from videodit.generate.recipe import Recipe
from videodit.generate.request import read_requests
from videodit.ingest.journal import Journal


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


def _tiny(folder: Path) -> None:
    shutil.copytree(base() / "tiny", folder / "m")


def _with_adapter(folder: Path) -> None:
    _tiny(folder)
    shutil.copy(base() / "adapter.safetensors", folder)


def _with_peft(folder: Path) -> None:
    _tiny(folder)
    shutil.copytree(base() / "peft", folder / "peft")


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
    shutil.copy(next((base() / "cache").glob("*.safetensors")), folder / "shard-0.safetensors")


def _diffusers(folder: Path) -> None:
    shutil.copytree(base() / "wan", folder / "m")


def _generate(*more: str) -> Callable[[], Any]:
    return lambda: main(["generate", CAPTIONS[0], "model=m", "out=o.mp4", "frames=1", "size=32x32", "steps=1", *more])


def _read_cache() -> None:
    cache = LatentCache(".")
    for index in range(len(cache)):
        assert cache[index][0].shape[1:] == tuple(vars(cache.shape(index)).values())


def _read_requests() -> None:
    """As `generate prompts=` does, which then makes what is small."""
    pipe = videodit.load("m", device="cpu")
    requests = [pipe.request(**asked) for asked in read_requests(Path("many.jsonl"))]
    tell(pipe, requests)
    for one in requests:
        admit(pipe, [one])
    for one in _small(requests):
        pipe.run([one])[0].save("o.mp4")


def _small(requests: list[Any]) -> list[Any]:
    """Those that can be made while a try waits."""
    return [one for one in requests if one.steps <= 20 and one.frames * one.height * one.width < 10**6]


def _recipe(folder: Path) -> None:
    _tiny(folder)
    shutil.copy(base() / "record.json", folder)


def _read_recipe() -> None:
    """A video with this record, as `generate recipe=` reads it."""
    text = Path("record.json").read_bytes().decode("utf-8", "replace")
    video.write("v.mp4", np.zeros((2, 16, 16, 3), np.uint8), 8.0, metadata={"comment": text})
    recipe, pipe = Recipe.read(Path("v.mp4")), videodit.load("m", device="cpu")
    asked = recipe.request({}, "m")
    pipe = pipe.with_options(**recipe.options(pipe))
    request = pipe.request(**asked)
    recipe.check_weights(pipe)
    layout = recipe.layout(pipe, request)
    admit(pipe, [request], "check", layout)
    recipe.tell_differences(pipe)
    for one in _small([request]):
        pipe.run([one], layout=layout)[0].save("o.mp4")


def _waiting(folder: Path) -> None:
    _tiny(folder)
    shutil.copy(base() / "a.latents.safetensors", folder)


def _loose(folder: Path) -> None:
    _diffusers(folder)
    shutil.move(next((folder / "m" / "transformer").glob("*.safetensors")), folder / "m" / "dit.safetensors")
    shutil.rmtree(folder / "m" / "transformer")
    (folder / "m" / "model_index.json").unlink()
    write_json(folder / "m" / "config.json", {"_class_name": "WanModel", "dim": 40, "num_heads": 2})


def _read_loose(file: str = "dit.safetensors") -> Any:
    """With a conf/pretrained that knows a VAE so small. For a child process: it stays patched."""
    resolve.conf_dir = lambda: base() / "conf"
    return _generate(f"model=m/{file}")()


def _gguf(folder: Path) -> None:
    """The same with the transformer as GGUF."""
    _loose(folder)
    writer = gguf.GGUFWriter(folder / "m" / "dit.gguf", "wan")
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    for name, x in load_file(folder / "m" / "dit.safetensors").items():
        if x.dim() > 4:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(x.shape))
        writer.add_tensor(name, (x.flatten(1) if x.dim() > 4 else x).numpy())
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file()
    writer.close()
    (folder / "m" / "dit.safetensors").unlink()


def _changed_table(data: st.DataObject, content: bytes) -> bytes:
    """A change of what comes before the tensors."""
    return changed_bytes(data, content[:TABLE]) + content[TABLE:]


def _sharded(folder: Path) -> None:
    shutil.copytree(base() / "sharded", folder / "m")


def _set(folder: Path) -> None:
    shutil.copy(base() / "clip.mp4", folder)
    row = {"id": "a", "source": "clip.mp4", "start": 0.0, "frames": 5, "fps": 8.0, "sizes": [[32, 32]], "caption": "c"}
    more = {"caption_short": "", "caption_long": "", "split": "train", "group": "g", "shards": ["s"], "shot": "s"}
    (folder / "rows.json").write_text(json.dumps({**row, **more}))
    write_json(folder / "set.json", {"sources": str(folder)})
    parquet.write_table(pyarrow.Table.from_pylist([{**row, **more}]), folder / "manifest.parquet")


def _read_set() -> int:
    if code := main(["info", "."]):
        return code
    clips = training_set(root=".", split="train", captions="raw", sources=None, reader="av")
    with suppress(BadSample):
        for number in range(len(clips)):
            clips.caption(number), clips.fingerprint(number), clips[number]
    return 0


def _read_rows() -> int:
    """A manifest of what rows.json says, as far as Arrow has columns for it."""
    with suppress(AttributeError, ValueError, TypeError, OverflowError, RecursionError, pyarrow.ArrowException):
        table = pyarrow.Table.from_pylist([json.loads(Path("rows.json").read_bytes())])
        parquet.write_table(table, "manifest.parquet")
    return _read_set()


def _captions(folder: Path) -> None:
    shutil.copy(base() / "clip.mp4", folder)
    rows = [{"file_name": "clip.mp4", "caption": "a cat"}, {"file_name": "b.mp4", "caption": 'a, "b"'}]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "metadata.csv").write_text('file_name,caption\nclip.mp4,"a, ""cat"""\nb.mp4,"two\nlines"\n')
    (folder / "clip.json").write_text(json.dumps({"caption": "a cat"}))
    (folder / "clip.txt").write_text("a cat\n")


def _read_listing() -> None:
    """As an ingest looks into a folder, and opens what it finds."""
    root = Root(".")
    for file in root.list(without=Path("set")).files:
        with root.open(file.path) as path:
            inside = path.resolve().is_relative_to(Path.cwd()) or path.parent.name.startswith("videodit-")
            assert inside and path.read_bytes() is not None, path
    with suppress(InputError):  # and as a training does
        read_entries(Path("."))


def _tar(folder: Path) -> None:
    (folder / "inside").mkdir()
    _captions(folder / "inside")
    with tarfile.open(folder / "clips.tar", "w") as tar:
        for path in sorted((folder / "inside").iterdir()):
            tar.add(path, path.name)
        for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE)):
            link = tarfile.TarInfo(f"../link{number}.mp4")
            link.type, link.linkname = kind, "/etc/passwd"
            tar.addfile(link)
    shutil.rmtree(folder / "inside")


def _journal(folder: Path) -> None:
    lines = [{"key": f"k{number}", "out": {"records": [{"sha256": "x"}]}} for number in range(3)]
    (folder / "scan.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _read_journal() -> None:
    journal = Journal(Path("scan.jsonl"))
    journal.add("new", {"records": []})
    journal.close()


def _checkpointed(folder: Path) -> None:
    shutil.copytree(base() / "trained", folder, dirs_exist_ok=True)


def _train() -> Any:
    vae = f"vae_from={base() / 'vae-0.safetensors'}"
    return main(["train", *tiny.COMMAND, "loop.steps=1", "run_dir=run", "cache=cache", "workers=0", "memory=off", vae])


def _media(name: str) -> Callable[[Path], None]:
    return lambda folder: shutil.copy(base() / name, folder) and None


def _read_media(name: str) -> Callable[[], None]:
    def read() -> None:
        info = video.probe(name, exact=True)
        video.times(name)
        for _ in video.stream(name, frames=200):
            pass
        for _ in video.stream(name, start=max(0.0, info.seconds / 2), frames=5, fps=8.0):
            pass
        for _ in video.numbered(name, first=0, frames=20):
            pass

    return read


TABLE = 4096  # bytes of a GGUF file that are its table
OWN = ("dit.safetensors", "text.safetensors", "vae.safetensors")
CAPTIONED = ("metadata.jsonl", "metadata.csv", "clip.json", "clip.txt")
MEDIA = ("clip.mp4", "clip.webm", "clip.ts", "clip.avi", "clip.gif", "clip.webp", "clip.png", "clip.jpeg")
INDEX = "diffusion_pytorch_model.safetensors.index.json"
STEP = "run/checkpoints/step-000000001"
READERS = {
    **{f"own/{file}": Reader(_tiny, f"m/{file}", changed_safetensors, _generate()) for file in OWN},
    "own/pipeline.json": Reader(_tiny, "m/pipeline.json", changed_json, _generate()),
    "own/tokenizer.json": Reader(_tiny, "m/tokenizer.json", changed_json, _generate()),
    "adapter": Reader(_with_adapter, "adapter.safetensors", changed_safetensors, _generate("lora=adapter.safetensors")),
    "peft": Reader(_with_peft, "peft/adapter_model.safetensors", changed_safetensors, _generate("lora=peft")),
    "peft/config": Reader(_with_peft, "peft/adapter_config.json", changed_json, _generate("lora=peft")),
    "info": Reader(_tiny, "m/text.safetensors", changed_safetensors, lambda: main(["info", "m"])),
    "requests": Reader(_requests, "many.jsonl", changed_line, _read_requests),
    "report/config": Reader(_run, "config.json", changed_json, lambda: main(["report", "."])),
    "report/metrics": Reader(_run, "metrics.jsonl", changed_line, lambda: main(["report", "."])),
    "report/skipped": Reader(_run, "skipped.jsonl", changed_line, lambda: main(["report", "."]), refuses=False),
    "latents' shard": Reader(_cache, "shard-0.safetensors", changed_safetensors, _read_cache),
    **{
        f"diffusers/{file}": Reader(_diffusers, f"m/{file}", changed_json, _generate())
        for file in ("model_index.json", "transformer/config.json", "vae/config.json", "text_encoder/config.json",
                     FILE.as_posix())
    },
    "diffusers/index": Reader(_sharded, f"m/transformer/{INDEX}", changed_json, _generate()),
    "loose": Reader(_loose, "m/dit.safetensors", changed_safetensors, _read_loose),
    "gguf": Reader(_gguf, "m/dit.gguf", _changed_table, lambda: _read_loose("dit.gguf")),
    "recipe": Reader(_recipe, "record.json", changed_json, _read_recipe),
    "waiting latents": Reader(_waiting, "a.latents.safetensors", changed_safetensors,
                              lambda: main(["decode", "a.latents.safetensors", "model=m"])),
    "set.json": Reader(_set, "set.json", changed_json, _read_set),
    "manifest": Reader(_set, "manifest.parquet", changed_bytes, _read_set),
    "manifest's rows": Reader(_set, "rows.json", changed_json, _read_rows),
    **{f"captions/{file}": Reader(_captions, file, changed_line if file.endswith("l") else changed_bytes, _read_listing,
                                  refuses=False) for file in CAPTIONED},
    "tar": Reader(_tar, "clips.tar", changed_bytes, _read_listing, refuses=False),
    "journal": Reader(_journal, "scan.jsonl", changed_line, _read_journal, refuses=False),
    "made.json": Reader(_checkpointed, "run/made.json", changed_json, _train),
    "state.json": Reader(_checkpointed, f"{STEP}/state.json", changed_json, _train),
    "run's config": Reader(_checkpointed, "run/config.json", changed_json, _train),
    **{f"media/{name}": Reader(_media(name), name, changed_bytes, _read_media(name)) for name in MEDIA},
}  # fmt: skip
