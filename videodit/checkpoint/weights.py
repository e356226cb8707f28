"""Tensors in one or several safetensors files, found by name and memory-mapped: nothing is read before it is needed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from copy import copy
from functools import cached_property
from hashlib import file_digest, sha256
from math import prod
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NotRequired

import torch
from annotated_types import Ge, Len
from safetensors import SafetensorError, safe_open
from torch import Tensor
from typing_extensions import TypedDict

from videodit.checkpoint.gguf_file import QUANTIZED, GGUFFile
from videodit.checkpoint.quantized import check_format, scaled, scales_of
from videodit.config import cache_dir
from videodit.errors import InputError
from videodit.untrusted import MOST, check, opened, parse_json, read_bytes

ENDINGS = (".safetensors", ".gguf")  # of files of weights
PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl")
HASHED_WHOLE = 2**28  # larger files are hashed by their header and by samples
SAMPLES, SAMPLE = 64, 2**16
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I64": 8, "I32": 4, "I16": 2, "I8": 1,
         "U8": 1, "BOOL": 1}  # fmt: skip  # bytes of a value
ASIDE = ("spiece_model",)  # bytes in a file of weights that are none of them: a tokenizer
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")  # the types that weights may have


class Promised(TypedDict):
    """What an index of several files says beside the place of each tensor."""

    total_size: NotRequired[int]
    sha256: NotRequired[dict[str, str]]


class Row(TypedDict):
    """A tensor in a safetensors file's own table; its offsets count from where the tensors begin."""

    dtype: str
    shape: list[Annotated[int, Ge(0)]]
    data_offsets: Annotated[list[Annotated[int, Ge(0)]], Len(2, 2)]


class Table(NamedTuple):
    """A safetensors file's header: a row a tensor, text beside them, and where in the file the tensors begin."""

    rows: dict[str, Row]
    metadata: dict[str, str]
    start: int


class Index(TypedDict):
    """A *.safetensors.index.json: the file of each tensor."""

    weight_map: dict[str, str]
    metadata: NotRequired[Promised | None]


class Weights:
    """The tensors of these files, safetensors or GGUF, under their own names.

    `aside`: those that are no weights, left out of the others.

    Raises InputError that names the file when one is missing, truncated, a pickle, or not where an index says.
    """

    def __init__(self, files: Sequence[Path], *, index: Path | None = None) -> None:
        self.files = list(files)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        self.metadata: dict[str, str] = {}
        self._places: dict[str, Path] = {}
        self._open: dict[Path, safe_open | GGUFFile] = {}
        self._promised: dict[str, str] = {}  # SHA-256 of files that have not been read yet
        for path in self.files:
            file = _mapped(path)
            self.metadata.update(file.metadata() or {})
            for name in file.keys():
                if name in self._places:
                    raise InputError(f"{path}: {name} is in another file of {path.parent} as well")
                part = file.get_slice(name)
                self._places[name] = path
                self.shapes[name], self.dtypes[name] = tuple(part.get_shape()), part.get_dtype()
        if index is not None:
            self._check(index)
        self.aside = [name for name in self.shapes if name.rpartition(".")[2] in ASIDE and self.dtypes[name] == "U8"]
        self._scales, self._formats, beside = scales_of(self.dtypes)
        for name in {*self.aside, *beside}:
            del self.shapes[name]

    def only(self, names: Iterable[str]) -> Weights:
        """These tensors alone."""
        part = copy(self)
        part.shapes, part._open = {name: self.shapes[name] for name in names}, {}
        return part

    @property
    def names(self) -> list[str]:
        """All names."""
        return list(self.shapes)

    @property
    def width(self) -> int:
        """Bytes of all values as the files have them: more for the same network in a wider type."""
        return sum(prod(shape) * SIZES.get(self.dtypes[name], 1) for name, shape in self.shapes.items())

    @property
    def source(self) -> str:
        """What a message calls these files."""
        if not self.files:
            return "no file"
        return str(self.files[0] if len(self.files) == 1 else self.files[0].parent)

    def read(self, name: str, *, integers: bool = False) -> Tensor:
        """One tensor, mapped, or in float32 where it has a scale. InputError if it holds a value that is not finite, or
        its file is not what an index says.

        `integers`: its values may be whole numbers.
        """
        if not integers:
            self.check_floats(name)
        tensor = self._mapped(name)
        if name not in self._scales:
            return tensor
        scale = self._scales[name]
        self.check_floats(scale)
        return scaled(tensor, self._mapped(scale), f"{self.source}: {scale}")

    def is_mapped(self, name: str) -> bool:
        """Whether a tensor is read as it lies in the file."""
        return name not in self._scales and self.dtypes[name] not in QUANTIZED

    def _mapped(self, name: str) -> Tensor:
        """A tensor as it lies in its file."""
        path = self._places[name]
        if promised := self._promised.pop(path.name, ""):
            _verify(path, promised)
        if path not in self._open:
            self._open[path] = _mapped(path)
        tensor = self._open[path].get_tensor(name)
        # No wider type where it is not needed: that would take a copy.
        wider = torch.float32 if tensor.element_size() == 1 else None
        if tensor.is_floating_point() and not torch.isfinite(tensor.sum(dtype=wider)):
            if not torch.isfinite(tensor).all():
                raise InputError(f"{self.source}: {name} holds values that are not finite; the file is damaged")
        return tensor

    def check_floats(self, name: str) -> None:
        """InputError unless the values of this tensor are floating-point numbers, in a format that is read."""
        if name in self._formats:
            check_format(self._mapped(self._formats[name]), f"{self.source}: {self._formats[name]}")
        if (kind := self.dtypes[name]) not in (*FLOATS, *QUANTIZED):
            raise InputError(f"{self.source}: {name} is of type {kind}, which no weights are: {', '.join(FLOATS)}")

    def close(self) -> None:
        """Unmap the files; a tensor that was read keeps its own mapped for as long as it lives."""
        self._open.clear()

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits for what the files hold."""
        digests = [fingerprint(path) for path in self.files]
        return digests[0] if len(digests) == 1 else sha256("".join(digests).encode()).hexdigest()[:16]

    def _check(self, index: Path) -> None:
        """Compare with what an index file promises."""
        promised, metadata = _read_index(index)
        self._promised = {file: digest.lower() for file, digest in metadata.get("sha256", {}).items()}
        held: dict[str, set[str]] = {path.name: set(_mapped(path).keys()) for path in self.files}
        for name, file in promised.items():
            if name not in held.get(file, ()):
                actual = next((other for other, names in held.items() if name in names), None)
                where = f"it is in {actual}: are files swapped?" if actual else "it is in none"
                raise InputError(f"{index}: {name} should be in {file}, but {where}")
        if extra := sorted(self.shapes.keys() - promised.keys()):
            raise InputError(f"{index}: it does not list {extra[0]}, which is there")
        if not all(kind in SIZES for kind in self.dtypes.values()):
            return
        size = sum(prod(shape) * SIZES[self.dtypes[name]] for name, shape in self.shapes.items())
        if size != metadata.get("total_size", size):
            raise InputError(f"{index}: it promises {metadata['total_size']} bytes of tensors, the files hold {size}")


def read_table(path: Path) -> Table:
    """The header alone of a safetensors file. InputError if the file is no sound one or is cut off."""
    with open(opened(path), "rb") as file:
        size, length = os.fstat(file.fileno()).st_size, int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, MOST.header):
            raise InputError(f"{path}: truncated, or no safetensors file")
        content = parse_json(file.read(length), f"{path}: its header", dict[str, Any])
    metadata = check(content.pop("__metadata__", None) or {}, dict[str, str], f"{path}: its header")
    rows = check(content, dict[str, Row], f"{path}: its header")
    end = max((row["data_offsets"][1] for row in rows.values()), default=0)
    if end != size - 8 - length:
        raise InputError(f"{path}: truncated: {size} bytes where the header says {8 + length + end}")
    return Table(rows, metadata, 8 + length)


def open_weights(path: Path) -> Weights:
    """A safetensors file, or the one set of weights in a folder: a single file, or shards with their index."""
    if path.is_file() or not path.exists():
        return Weights([path])
    indices = sorted(path.glob("*.safetensors.index.json"))
    if indices:
        names = sorted(set(_read_index(indices[0])[0].values()))
        return Weights([path / _plain(name, indices[0]) for name in names], index=indices[0])
    files = sorted(path.glob("*.safetensors"))
    if len(files) != 1:
        raise InputError(f"{path}: {_lacking(path, files)}")
    return Weights(files)


def _lacking(folder: Path, files: Sequence[Path]) -> str:
    if files:
        return f"several safetensors files and no index: {', '.join(path.name for path in files[:4])}"
    pickles = [path.name for path in sorted(folder.iterdir()) if path.suffix in PICKLES]
    if pickles:
        return f"{pickles[0]} is a pickle, which could run code when opened; only safetensors are read"
    return "no safetensors file"


def _mapped(path: Path) -> safe_open | GGUFFile:
    if path.suffix in PICKLES:
        raise InputError(f"{path} is a pickle, which could run code when opened; only safetensors are read")
    try:
        os.close(opened(path))  # a plain file, and no FIFO, which would be waited for
        return GGUFFile(path) if path.suffix == ".gguf" else safe_open(path, framework="pt", device="cpu")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is not a readable safetensors file ({error}); it may be truncated") from None


def _read_index(index: Path) -> tuple[dict[str, str], Promised]:
    """Tensor name -> file name, and what else the index says of the files."""
    content = parse_json(read_bytes(index), f"{index} is not an index of safetensors files", Index)
    return content["weight_map"], content.get("metadata") or {}


def _verify(path: Path, promised: str) -> None:
    """InputError if the file's SHA-256 is another one. What was verified once is not read again until it changes."""
    stat = path.stat()
    mark = cache_dir() / "verified" / sha256(f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}".encode()).hexdigest()
    if mark.is_file() and mark.read_text() == promised:
        return
    with path.open("rb") as file:
        found = file_digest(file, "sha256").hexdigest()
    if found != promised:
        raise InputError(f"{path}: its SHA-256 is {found[:12]}…, not {promised[:12]}… as its index says; get it again")
    with suppress(OSError):  # no place to remember it is no reason to stop
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(promised)


def _plain(name: str, index: Path) -> str:
    """A file name that stays in the index's folder."""
    if Path(name).name != name:
        raise InputError(f"{index}: {name} is not a file name in this folder")
    return name


def fingerprint(path: Path) -> str:
    """16 hexadecimal digits of SHA-256: of a whole file, or of the header, size and samples of one above 256 MB."""
    digest, size = sha256(), path.stat().st_size
    with path.open("rb") as file:
        if size <= HASHED_WHOLE:
            while block := file.read(2**20):
                digest.update(block)
        else:
            for place in _places(size):
                file.seek(place)
                digest.update(file.read(SAMPLE))
            digest.update(str(size).encode())
    return digest.hexdigest()[:16]


def _places(size: int) -> Iterable[int]:
    return [(size - SAMPLE) * i // (SAMPLES - 1) for i in range(SAMPLES)]
