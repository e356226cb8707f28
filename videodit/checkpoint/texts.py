"""Text states kept on disk by content: a prompt seen before costs neither its pass nor the encoder's memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from videodit.checkpoint.pretrained import Part
from videodit.checkpoint.store import load_tensors, save_tensors
from videodit.errors import InputError
from videodit.models.pack import Ragged
from videodit.models.text import Encode, SmallT5, Tokenizer

FOLDER = "text"  # of states, in a cache
TOGETHER = 4  # prompts whose states are there together; progress is told after each lot


class Remembered:
    """A frozen text encoder that is called as one that trains, and is open only for prompts that the disk lacks.

    Args:
        part: where it is.
        folder: of the states.
        device: where it runs, and where states are wanted.
        dtype: of its weights. States are float32.
    """

    def __init__(self, *, part: Part, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        self.part, self.folder, self.device, self.dtype = part, folder, device, dtype
        self.made_by = f"{part.weights.fingerprint}/{dtype}/"

    def __call__(self, ids: Tensor, lengths: tuple[int, ...]) -> Ragged:
        """Token ids (S,) of B prompts with these lengths -> their states."""
        return self._states(ids, lengths, lambda ids, lengths: self._open()(ids.to(self.device), lengths))

    @torch.no_grad()
    def learn(self, tokenizer: Tokenizer, prompts: Iterable[str], done: Callable[[int], None]) -> None:
        """See that the disk has these; the encoder is open meanwhile. `done`: is told how many are through."""
        network: list[SmallT5] = []

        def encode(ids: Tensor, lengths: tuple[int, ...]) -> Ragged:
            if not network:
                network.append(self._open())
            return network[0](ids.to(self.device), lengths)

        wanted = list(dict.fromkeys(prompts))
        for start in range(0, len(wanted), TOGETHER):
            self._states(*tokenizer(wanted[start : start + TOGETHER]), encode)
            done(min(start + TOGETHER, len(wanted)))

    def _open(self) -> SmallT5:
        return self.part.load(device=self.device, dtype=self.dtype).requires_grad_(False)

    def _states(self, ids: Tensor, lengths: tuple[int, ...], encode: Encode) -> Ragged:
        text = encode_cached(self.folder, self.made_by, ids.cpu(), lengths, encode)
        return Ragged(text.states.to(self.device, torch.float32), text.lengths)


def encode_cached(folder: Path, made_by: str, ids: Tensor, lengths: Sequence[int], encode: Encode) -> Ragged:
    """States of token ids (S,) of prompts with these lengths. `made_by` names the encoder's weights and type.

    `encode` is called for each prompt that the folder lacks; what it gives is added.
    """

    def kept(ids: Tensor, length: tuple[int, ...]) -> Ragged:
        path = folder / f"{_key(made_by, ids.tolist())}.safetensors"
        state = _read(path)
        if state is None:
            state = finite(encode(ids, length)).states.cpu()
            save_tensors(path, {"states": state}, {"made_by": made_by})
        return Ragged(state, length)

    return encode_alone(ids, lengths, kept)


def encode_alone(ids: Tensor, lengths: Sequence[int], encode: Encode) -> Ragged:
    """States of token ids (S,) of prompts with these lengths, each by a call of its own; equal ones share one.

    In a pass of several prompts their sums are added in another order, so that the last bit depends on the company.
    """
    states: dict[tuple[int, ...], Tensor] = {}
    parts = [(tuple(part.tolist()), part) for part in ids.split(list(lengths))]
    for key, part in parts:
        if key not in states:
            states[key] = encode(part, (len(part),)).states
    return Ragged(torch.cat([states[key] for key, _ in parts]), tuple(lengths))


def finite(text: Ragged) -> Ragged:
    """The same; InputError where it holds values that are not finite, of which nothing could come."""
    if not text.states.isfinite().all():
        kind = str(text.states.dtype).removeprefix("torch.")
        raise InputError(f"the text encoder's states are not finite in {kind}: dtype=float32 or precision=fp32 helps")
    return text


def _key(made_by: str, ids: Sequence[int]) -> str:
    return hashlib.sha256(f"{made_by}/{','.join(map(str, ids))}".encode()).hexdigest()[:24]


def _read(path: Path) -> Tensor | None:
    if not path.exists():
        return None
    try:
        return load_tensors(path)[0]["states"]
    except (InputError, KeyError):  # half a file, or of another version: it is made again
        return None
