"""Text states kept on disk by content: a prompt seen before costs neither its pass nor the encoder's memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from videodit.checkpoint.store import load_tensors, save_tensors
from videodit.errors import InputError
from videodit.models.pack import Text


def encode_cached(
    folder: Path, made_by: str, ids: Tensor, lengths: Sequence[int], encode: Callable[[Tensor, tuple[int, ...]], Text]
) -> Text:
    """States of token ids (S,) of prompts with these lengths. `made_by` names the encoder's weights and type.

    `encode` is called once, with the prompts that the folder lacks; what it gives is added.
    """
    parts = [tuple(part.tolist()) for part in ids.split(list(lengths))]
    paths = {part: folder / f"{_key(made_by, part)}.safetensors" for part in parts}
    states = {part: state for part, path in paths.items() if (state := _read(path)) is not None}
    if missing := [part for part in paths if part not in states]:
        text = encode(torch.tensor([i for part in missing for i in part]), tuple(len(part) for part in missing))
        for part, state in zip(missing, text.states.split(text.lengths), strict=True):
            states[part] = state.cpu()
            save_tensors(paths[part], {"states": state.clone()}, {"made_by": made_by})
    return Text(torch.cat([states[part] for part in parts]), tuple(lengths))


def _key(made_by: str, ids: Sequence[int]) -> str:
    return hashlib.sha256(f"{made_by}/{','.join(map(str, ids))}".encode()).hexdigest()[:24]


def _read(path: Path) -> Tensor | None:
    if not path.exists():
        return None
    try:
        return load_tensors(path)[0]["states"]
    except (InputError, KeyError):  # half a file, or of another version: it is made again
        return None
