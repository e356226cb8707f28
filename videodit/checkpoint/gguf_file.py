"""GGUF files: names, shapes and types of their tensors, and their values as the `gguf` package dequantises them.

    magic "GGUF", version · how many tensors and keys · keys with values · a row a tensor · tensors, each aligned

Others wrote them: the table is read here, within bounds, as the package's own reader trusts what files say.
"""

from __future__ import annotations

import mmap
import struct
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from videodit.errors import InputError
from videodit.untrusted import MOST, opened

VERSIONS = (2, 3)
ALIGNMENT, SHAPE = "general.alignment", "comfy.gguf.orig_shape."  # keys: of tensors; a shape of more than four numbers
MANY, LONGEST, DIMENSIONS = 2**22, 2**16, 8  # strings of a list, bytes of a name, numbers of a shape
PLAIN = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
# Those whose values the package knows, and that published files of these models have.
QUANTIZED = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")


class Row(NamedTuple):
    """A tensor: its shape as torch has it, its type, and where its bytes are."""

    shape: tuple[int, ...]
    kind: str
    start: int
    size: int

    def get_shape(self) -> tuple[int, ...]:
        """The shape."""
        return self.shape

    def get_dtype(self) -> str:
        """The type's name."""
        return self.kind


class GGUFFile:
    """The tensors of a file behind the methods of safetensors' `safe_open`. InputError where it is no sound one."""

    def __init__(self, path: Path) -> None:
        self.path, self._package = path, _package(path)
        with open(opened(path), "rb") as file:
            try:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # torch wants to be able to write
            except ValueError:
                raise InputError(f"{path}: it is empty") from None
        self._rows = _rows(_Cursor(self._bytes, path), self._package)

    def metadata(self) -> dict[str, str]:
        """No text beside the tensors."""
        return {}

    def keys(self) -> list[str]:
        """The names."""
        return list(self._rows)

    def get_slice(self, name: str) -> Row:
        """A tensor's shape and type."""
        return self._rows[name]

    def get_tensor(self, name: str) -> Tensor:
        """A tensor: mapped where it is of a plain type, else dequantised to float32."""
        row = self._rows[name]
        if row.size == 0:
            return torch.empty(row.shape)
        raw = torch.frombuffer(self._bytes, dtype=torch.uint8, count=row.size, offset=row.start)
        if row.kind in PLAIN:
            return raw.view(PLAIN[row.kind]).view(row.shape)
        kind = self._package.GGMLQuantizationType[row.kind]
        block = self._package.GGML_QUANT_SIZES[kind][1]
        return torch.from_numpy(self._package.dequantize(raw.view(-1, block).numpy(), kind)).reshape(row.shape)


class _Cursor:
    """A place in the table of a file, which must end where tables do."""

    def __init__(self, content: mmap.mmap, path: Path) -> None:
        self.content, self.path, self.at = content, path, 0
        self.size, self.end = len(content), min(len(content), MOST.tokenizer)

    def take(self, size: int) -> int:
        """The place of so many bytes, which are passed."""
        if size > self.end - self.at:
            raise InputError(f"{self.path}: truncated, or no GGUF file")
        self.at += size
        return self.at - size

    def number(self, code: str) -> Any:
        """A number of this kind (`struct`)."""
        return struct.unpack_from(f"<{code}", self.content, self.take(struct.calcsize(f"<{code}")))[0]

    def text(self) -> str:
        """A string."""
        size = self.number("Q")
        start = self.take(size)
        if size > LONGEST:
            return ""  # no name is so long
        return self.content[start : start + size].decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        """A value of this kind: of lists only those of a few numbers."""
        if kind == STRING:
            return self.text()
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind != ARRAY:
            raise InputError(f"{self.path}: it has a key of an unknown kind, {kind}")
        inner, count = self.number("I"), self.number("Q")
        if inner in SCALARS:
            if count <= DIMENSIONS:
                return [self.number(SCALARS[inner]) for _ in range(count)]
            self.take(count * struct.calcsize(f"<{SCALARS[inner]}"))
        elif inner == STRING and count <= MANY:
            for _ in range(count):
                self.take(self.number("Q"))
        else:
            raise InputError(f"{self.path}: it has a list of {count} values of kind {inner}")
        return None


def _rows(cursor: _Cursor, package: ModuleType) -> dict[str, Row]:
    """The tensors of a file."""
    path = cursor.path
    if cursor.size < 24 or cursor.content[:4] != b"GGUF":
        raise InputError(f"{path}: truncated, or no GGUF file")
    cursor.take(4)
    if (version := cursor.number("I")) not in VERSIONS:
        raise InputError(f"{path}: it is of version {version} of GGUF; {' and '.join(map(str, VERSIONS))} are read")
    tensors, count = cursor.number("Q"), cursor.number("Q")
    keys = {}
    for _ in range(count):
        name = cursor.text()
        keys[name] = cursor.value(cursor.number("I"))
    named = [_info(cursor, keys, package) for _ in range(tensors)]
    alignment = keys.get(ALIGNMENT, 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise InputError(f"{path}: {ALIGNMENT} is {alignment}")
    start = -(-cursor.at // alignment) * alignment
    rows = {name: row._replace(start=start + row.start) for name, row in named}
    if len(rows) < len(named):
        raise InputError(f"{path}: two tensors have one name")
    if cut := [name for name, row in rows.items() if row.start + row.size > cursor.size]:
        raise InputError(f"{path}: truncated: {cut[0]} is not all there")
    if odd := [name for name, row in rows.items() if row.kind in PLAIN and row.start % PLAIN[row.kind].itemsize]:
        raise InputError(f"{path}: {odd[0]} begins at byte {rows[odd[0]].start}, amid a value")
    return rows


def _info(cursor: _Cursor, keys: dict[str, Any], package: ModuleType) -> tuple[str, Row]:
    """A row of the table; its place counts from where tensors begin."""
    name = cursor.text()
    where = f"{cursor.path}: {name}"
    count = cursor.number("I")
    if count > DIMENSIONS:
        raise InputError(f"{where} has {count} dimensions")
    shape = tuple(reversed([cursor.number("Q") for _ in range(count)]))
    code, start = cursor.number("I"), cursor.number("Q")
    kinds = {kind.value: kind for kind in package.GGMLQuantizationType}
    if code not in kinds or code not in {kinds[k].value for k in kinds if k in package.GGML_QUANT_SIZES}:
        raise InputError(f"{where} is of an unknown type, {code}")
    block, size = package.GGML_QUANT_SIZES[kinds[code]]
    row = shape[-1] if shape else 1
    if row % block:
        raise InputError(f"{where}: rows of {row} values are no whole blocks of {block}")
    original = keys.get(SHAPE + name)
    if original is not None:
        whole = isinstance(original, list) and all(isinstance(n, int) and n >= 0 for n in original)
        if not whole or prod(original) != prod(shape):
            raise InputError(f"{where}: {shape} values cannot have the shape {original} that a key says")
    return name, Row(tuple(original or shape), kinds[code].name, start, prod(shape) // block * size)


def _package(path: Path) -> ModuleType:
    try:
        import gguf
    except ImportError:
        raise InputError(f'{path}: GGUF files need `pip install "videodit[gguf]"`') from None
    return gguf
