"""What an adapter adds to a weight as this is read: LoRA (Hu et al. 2021, arXiv:2106.09685), DoRA (Liu et al. 2024,
arXiv:2402.09353), whole differences, and weights that take the place of others.

    W + strength * scale * B·A                                    LoRA; its bias: b + strength * scale * b_B
    m/|W'| * W'  with  W' = W + strength * scale * B·A, by rows   DoRA
    W + strength * D                                              a difference
    W + strength * (V - W)                                        a value

The first two are what PEFT computes beside the weights. (Of several DoRAs PEFT's sum depends on their order, and its
merged weights are others again; here each changes the weights of the file.) Nothing is multiplied before it is read.

    W (N,M), A (r,M), B (N,r), m (N,): N outputs, M inputs, r the rank
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from videodit.checkpoint.keymap import Form
from videodit.checkpoint.weights import FLOATS, SIZES, Weights
from videodit.errors import InputError


@dataclass(frozen=True)
class LowRank:
    """B·A and perhaps DoRA's lengths of rows.

    Args:
        names: the file's tensors "down" (A), "up" (B) and perhaps "magnitude" (m).
        form: how the matrix's values are arranged in the file.
        factor: strength * scale.
    """

    weights: Weights
    names: Mapping[str, str]
    form: Form
    factor: float

    def __call__(self, weight: Tensor) -> Tensor:
        down, up = (self.weights.read(self.names[which]).to(weight).flatten(1) for which in ("down", "up"))
        change = self.form.ours(up @ down) * self.factor
        if "magnitude" not in self.names:
            return change
        turned = weight + change
        magnitude = self.form.ours(self.weights.read(self.names["magnitude"]).to(weight).reshape(-1, 1))
        return magnitude / torch.linalg.norm(turned, dim=1, keepdim=True) * turned - weight


@dataclass(frozen=True)
class Difference:
    """A tensor as large as the weight, times a factor."""

    weights: Weights
    name: str
    form: Form
    factor: float

    def __call__(self, weight: Tensor) -> Tensor:
        return self.form.ours(self.weights.read(self.name).to(weight)) * self.factor


@dataclass(frozen=True)
class Value:
    """What the weight becomes at a factor of 1."""

    weights: Weights
    name: str
    form: Form
    factor: float

    def __call__(self, weight: Tensor) -> Tensor:
        return (self.form.ours(self.weights.read(self.name).to(weight)) - weight) * self.factor


def alpha_of(weights: Weights, name: str) -> float:
    """The number in a tensor of one."""
    kind, shape = weights.dtypes[name], weights.shapes[name]
    if prod(shape) != 1 or kind not in SIZES or kind == "BOOL":
        raise InputError(f"{weights.source}: {name} is {shape} of type {kind}, expected 1 number")
    return float(weights.read(name, integers=kind not in FLOATS).item())


def check_low_rank(weights: Weights, names: Mapping[str, str], ours: str, shape: Sequence[int]) -> int:
    """The rank of an adapter of our matrix of this name and shape. InputError if its tensors do not fit."""
    source, stem = weights.source, ours.removesuffix(".weight")
    if not {"down", "up"} <= names.keys():
        raise InputError(f"{source}: {next(iter(names.values()))} lacks its partner")
    for which in names.keys() & {"down", "up", "magnitude"}:
        weights.check_floats(names[which])
    for which in ("down", "up"):
        if len(given := weights.shapes[names[which]]) < 2:
            raise InputError(f"{source}: {names[which]} is {given}, expected a matrix")
    rows, columns = _matrix(weights.shapes[names["up"]])
    rank, inputs = _matrix(weights.shapes[names["down"]])
    if (rows, inputs) != tuple(shape):
        raise InputError(
            f"{source} is for another model: its {stem} changes a matrix {rows}x{inputs}, and the model's is "
            f"{'x'.join(map(str, shape))}"
        )
    if columns != rank or rank < 1:
        raise InputError(f"{source}: {stem} is of rank {rank} in one tensor and {columns} in another")
    if "magnitude" in names and not _lengths(given := weights.shapes[names["magnitude"]], rows):
        told = " (lengths of columns, which PEFT's DoRA does not have)" if prod(given) == inputs else ""
        raise InputError(f"{source}: {names['magnitude']} is {given}{told}, expected {rows} values, one a row")
    return rank


def check_whole(weights: Weights, name: str, form: Form, ours: str, shape: Sequence[int]) -> None:
    """InputError if a tensor does not have the shape of our weight of this name."""
    weights.check_floats(name)
    given = weights.shapes[name]
    try:
        found = tuple(form.ours(torch.empty(given, device="meta")).shape)
    except (RuntimeError, ValueError, IndexError):  # what torch and einops say of a shape that cannot be arranged
        found = None
    if found != tuple(shape):
        raise InputError(
            f"{weights.source} is for another model: its {name} is {given}, and the model's {ours} {tuple(shape)}"
        )


def _lengths(shape: Sequence[int], rows: int) -> bool:
    """Whether a tensor has one value a row: (N,), (N,1,…) or, of a kernel, (1,N,1,1,1)."""
    if prod(shape) != rows or not shape:
        return False
    return shape[0] == rows or (len(shape) > 2 and shape[1] == rows)


def _matrix(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a matrix, or of a kernel whose last dimensions belong to its columns."""
    return shape[0], prod(shape[1:])
