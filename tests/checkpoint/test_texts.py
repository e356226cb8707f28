"""Text states depend on their prompt alone: not on company, nor on what the folder held before."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.tiny import CAPTIONS, TEXT, shake
from videodit.checkpoint.texts import encode_alone, encode_cached
from videodit.models.build import build
from videodit.models.text import Tokenizer, train_tokenizer


@torch.no_grad()
def test_states_depend_on_no_company_and_no_history(tmp_path: Path) -> None:
    torch.manual_seed(0)
    text = shake(build("t5", **{**TEXT, "dim": 64, "heads": 4, "head_dim": 16, "ffn": 128})).eval()
    tokenizer: Tokenizer = train_tokenizer(CAPTIONS, tmp_path / "tokenizer.json", vocabulary=64)
    prompts = [*CAPTIONS, "", "a ball", " ".join(CAPTIONS), CAPTIONS[0]]
    calls: list[tuple[int, ...]] = []

    def encode(ids: torch.Tensor, lengths: tuple[int, ...]):  # noqa: ANN202
        calls.append(lengths)
        return text(ids, lengths)

    whole = encode_alone(*tokenizer(prompts), encode)
    assert len(calls) == 5 and all(len(lengths) == 1 for lengths in calls)  # equal prompts share a call
    states = [encode_alone(*tokenizer([prompt]), encode).states for prompt in prompts]
    assert torch.equal(whole.states, torch.cat(states))
    for number, before in enumerate(([], prompts[2:4], prompts[::-1])):
        folder = tmp_path / str(number)
        if before:
            encode_cached(folder, "x", *tokenizer(before), encode)
        kept = encode_cached(folder, "x", *tokenizer(prompts), encode)
        again = encode_cached(folder, "x", *tokenizer(prompts), encode)
        assert torch.equal(kept.states, whole.states) and torch.equal(again.states, whole.states)
