"""Low-rank adapters in files: LoRA (Hu et al. 2021, arXiv:2106.09685) and DoRA (Liu et al. 2024, arXiv:2402.09353).

They are read in the layouts in which people pass them on, and become part of a DiT's weights as these are read:

    W + sum over adapters of  strength * alpha/r * B·A
                        or of  m/|W'| * W' - W  with  W' = W + strength * alpha/r * B·A, by rows     (DoRA)

which is what PEFT computes beside the weights. (Of several DoRAs PEFT's sum depends on their order, and its merged
weights are others again; here each changes the weights of the file.) Nothing is multiplied before it is read.

    W (N,M), A (r,M), B (N,r), m (N,): N outputs, M inputs, r the rank
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videodit.checkpoint.families import wan
from videodit.checkpoint.keymap import SHOWN, Form, names_of, single
from videodit.checkpoint.pretrained import Part
from videodit.checkpoint.store import save_tensors
from videodit.checkpoint.weights import Weights
from videodit.errors import InputError

FILE = "adapter.safetensors"  # in a run's folder
LOW = "transformer_2."  # diffusers' prefix for the expert for low noise
PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.", LOW, "base_model.model.")
FLAT = "lora_unet_"  # kohya's, which has _ for every dot
EXPERTS = {"high_noise": "dit", "low_noise": "dit_low"}  # in a file's name
PARTS = {
    **{"lora_A.weight": "down", "lora_down.weight": "down", "lora_A.default.weight": "down"},
    **{"lora_B.weight": "up", "lora_up.weight": "up", "lora_B.default.weight": "up"},
    **{"lora_magnitude_vector": "magnitude", "lora_magnitude_vector.weight": "magnitude", "alpha": "alpha"},
}
LAYOUTS = ("vendor", "diffusers")


@dataclass(frozen=True)
class LowRank:
    """What an adapter adds to one matrix. `names`: the file's tensors "down" (A), "up" (B), perhaps "alpha" and
    "magnitude"; `form`: how the matrix's values are arranged there.
    """

    weights: Weights
    names: Mapping[str, str]
    form: Form
    strength: float

    def __call__(self, matrix: Tensor) -> Tensor:
        """W (N,M) -> (N,M) to add."""
        down, up = self._read("down", matrix).flatten(1), self._read("up", matrix).flatten(1)
        alpha = self._read("alpha", matrix).item() if "alpha" in self.names else len(down)
        change = self.form.ours(up @ down) * (self.strength * alpha / len(down))
        if "magnitude" not in self.names:
            return change
        turned = matrix + change
        magnitude = self.form.ours(self._read("magnitude", matrix).reshape(-1, 1))
        return magnitude / torch.linalg.norm(turned, dim=1, keepdim=True) * turned - matrix

    def check(self, matrix: str, shape: Sequence[int]) -> None:
        """InputError if its tensors do not fit our matrix of this name and shape."""
        stem = matrix.removesuffix(".weight")
        if not {"down", "up"} <= self.names.keys():
            raise InputError(f"{self.weights.source}: {next(iter(self.names.values()))} lacks its partner")
        for which, name in self.names.items():
            given = self.weights.shapes[name]
            wanted = {"alpha": 1, "magnitude": shape[0]}.get(which)
            if len(given) < 2 if wanted is None else prod(given) != wanted:
                expected = "a matrix" if wanted is None else f"{wanted} values"
                raise InputError(f"{self.weights.source}: {name} is {given}, expected {expected}")
            if which != "alpha":
                self.weights.check_floats(name)
        rows, columns = _matrix(self.weights.shapes[self.names["up"]])
        rank, inputs = _matrix(self.weights.shapes[self.names["down"]])
        if (rows, inputs) != tuple(shape):
            raise InputError(
                f"{self.weights.source} is for another model: its {stem} changes a matrix {rows}x{inputs}, and the "
                f"model's is {shape[0]}x{shape[1]}"
            )
        if columns != rank:
            raise InputError(f"{self.weights.source}: {stem} is of rank {rank} in one tensor and {columns} in another")

    def _read(self, which: str, like: Tensor) -> Tensor:
        return self.weights.read(self.names[which], integers=which == "alpha").to(like)


def attach(parts: Mapping[str, Part], lora: Mapping[str, float]) -> dict[str, Part]:
    """Parts whose DiTs have these adapters, files or run folders, at these strengths, in this order.

    A file changes the expert that its name (high_noise, low_noise) or its keys name, else every one there is.
    """
    found = dict(parts)
    for path, strength in lora.items():
        weights = Weights([adapter_file(path)])
        for name, keys in _experts(weights, [name for name in ("dit", "dit_low") if name in parts]).items():
            found[name] = _with(found[name], weights, keys, strength)
    return found


def adapter_file(path: str | Path) -> Path:
    """The file of an adapter: itself, or that of a run."""
    for candidate in (Path(path) / FILE, Path(path) / "model" / FILE):
        if candidate.is_file():
            return candidate
    if Path(path).is_dir():
        raise InputError(f"lora={path}: there is no {FILE} in this folder")
    return Path(path)


def parse(given: str | Path | Mapping[Any, float] | Iterable[Any] | None) -> dict[str, float]:
    """Adapters and their strengths from "a.safetensors:0.8,b.safetensors", {path: strength} or [path or pair, …]."""
    given = [given] if isinstance(given, Path) else given
    if isinstance(given, str):
        given = [_pair(text.strip()) for text in given.split(",") if text.strip()]
    pairs = given.items() if isinstance(given, Mapping) else (
        (one, 1.0) if isinstance(one, str | Path) else one for one in given or ()
    )  # fmt: skip
    found: dict[str, float] = {}
    for path, strength in pairs:
        if not isinstance(strength, int | float) or not isfinite(strength):
            raise InputError(f"lora={path}:{strength}: its strength must be a number")
        if str(path) in found:
            raise InputError(f"lora={path}: it is there twice")
        found[str(path)] = float(strength)
    return found


def matrices(arguments: Mapping[str, Any], layout: str) -> dict[str, tuple[str, Form]]:
    """A layout's name of each matrix of a DiT of these arguments -> our name, and how its values change to ours."""
    table = wan.dit_table(layout, arguments)
    blocks = [f"blocks.{number}.{name}" for number in range(arguments["layers"]) for name in TARGETS]
    ends = ["embed", "text_embed.0", "text_embed.2", "time_embed.linear1", "time_embed.linear2", "time_proj", "head"]
    names = names_of([f"{name}.weight" for name in blocks + ends], table)
    return {theirs.removesuffix(".weight"): (ours, single(table, theirs)) for theirs, ours in names.items()}


TARGETS = (
    *(f"{attention}.{part}" for attention in ("attention", "cross") for part in ("q", "k", "v", "out")),
    *("ffn.0", "ffn.2"),
)  # the matrices of a block


def save_adapter(
    path: Path, changes: Mapping[str, Mapping[str, Tensor]], arguments: Mapping[str, Any], header: Mapping[str, Any]
) -> None:
    """Write "down", "up" and perhaps "magnitude" of matrices by our names, such as blocks.0.attention.q.

    The names are those that diffusers and ComfyUI read, without an alpha: the scale belongs into "up". DoRA's go by
    diffusers' names, which ComfyUI does not read, since diffusers takes them under no others.
    """
    dora = any("magnitude" in change for change in changes.values())
    prefix, layout = ("transformer.", "diffusers") if dora else ("diffusion_model.", "vendor")
    theirs = {ours.removesuffix(".weight"): name for name, (ours, _) in matrices(arguments, layout).items()}
    ends = {"down": "lora_A.weight", "up": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
    tensors = {
        f"{prefix}{theirs[ours]}.{ends[which]}": tensor
        for ours, change in changes.items()
        for which, tensor in change.items()
    }
    save_tensors(path, tensors, header)


def _experts(weights: Weights, experts: Sequence[str]) -> dict[str, Sequence[str]]:
    """The experts that a file changes, with the keys that are for each."""
    low = [key for key in weights.names if key.startswith(LOW)]
    if low and len(experts) == 1:
        raise InputError(f"{weights.source} is for a model of two experts ({low[0]}); this one has a single one")
    if low:
        high = [key for key in weights.names if not key.startswith(LOW)]
        return {name: keys for name, keys in (("dit", high), ("dit_low", low)) if keys}
    file = weights.files[0].name.lower()
    named = [expert for word, expert in EXPERTS.items() if word in file and expert in experts]
    return dict.fromkeys(named or experts, weights.names)


def _with(part: Part, weights: Weights, keys: Sequence[str], strength: float) -> Part:
    """A part with one more adapter."""
    shapes = {name: tensor.shape for name, tensor in part.skeleton.state_dict().items()}
    known = {}
    for layout in LAYOUTS:
        for theirs, (ours, form) in matrices(part.spec["arguments"], layout).items():
            if ours in shapes:
                known[theirs] = known[FLAT + theirs.replace(".", "_")] = ours, form
    groups: dict[str, dict[str, str]] = {}
    unknown = []
    for key in keys:
        stem, which = _taken_apart(key)
        if stem not in known:
            unknown.append(key)
        elif which in (group := groups.setdefault(known[stem][0], {})):
            raise InputError(f"{weights.source}: {group[which]} and {key} are for the same matrix")
        else:
            group[which] = key
    if unknown or not groups:
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        raise InputError(
            f"{weights.source} is no adapter for this model, which has no place for "
            f"{', '.join(unknown[:SHOWN]) or 'an empty one'}{more}"
        )
    forms = dict(known.values())
    added = dict(part.added)
    for ours, names in groups.items():
        delta = LowRank(weights, names, forms[ours], strength)
        delta.check(ours, shapes[ours])
        added[ours] = [*added.get(ours, ()), delta]
    return replace(part, added=added, adapters=(*part.adapters, f"{weights.fingerprint}:{strength}"))


def _taken_apart(key: str) -> tuple[str, str]:
    """A key's matrix, and which of its tensors it is; nothing for a key of another kind."""
    bare = next((key.removeprefix(prefix) for prefix in PREFIXES if key.startswith(prefix)), key)
    return next(((bare[: -len(end) - 1], PARTS[end]) for end in PARTS if bare.endswith(f".{end}")), ("", ""))


def _matrix(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a matrix, or of a kernel whose last dimensions belong to its columns."""
    return shape[0], int(torch.Size(shape[1:]).numel())


def _pair(text: str) -> tuple[str, float]:
    path, _, strength = text.rpartition(":")
    try:
        return (path, float(strength)) if path else (text, 1.0)
    except ValueError:
        return text, 1.0
