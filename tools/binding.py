"""How soon a text encoder learns which word belongs to which body: `python tools/binding.py [steps=300] [lr=2e-4]`.

A new T5 and a small reader, which looks at its states by cross-attention as a DiT does, learn to tell the words of
scenes with two bodies from their captions. Once T5's position biases start as transformers draws them, once as
`SmallT5` sets them. Printed: the share of right answers on 256 other scenes. A bag of words gets every second colour
right.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from videodit.cli.typed import settings
from videodit.errors import InputError
from videodit.models.text import Tokenizer, train_tokenizer
from videodit.toy.grammar import caption
from videodit.toy.scenes import COLOURS, GROUNDS, KINDS, MOTIONS, RELATIONS, SIZES, scene

OF_A_BODY = {"kind": KINDS, "colour": COLOURS, "size": SIZES, "motion": MOTIONS}
ASKED = {f"{name} {place}": words for place in (1, 2) for name, words in OF_A_BODY.items()}
ASKED |= {"relation": RELATIONS, "ground": GROUNDS}
SEED, BATCH, HELD_OUT = 7, 64, range(10**6, 10**6 + 256)


class Reader(nn.Module):
    """One learned query a question; two blocks of attention to the text, to each other, and a feed-forward."""

    def __init__(self, text_dim: int, dim: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(len(ASKED), dim) / 2)
        self.text = nn.Linear(text_dim, dim)
        how = {"d_model": dim, "nhead": 4, "dim_feedforward": 4 * dim, "dropout": 0.0, "batch_first": True}
        self.blocks = nn.ModuleList([nn.TransformerDecoderLayer(**how, norm_first=True) for _ in range(2)])
        self.heads = nn.ModuleList([nn.Linear(dim, len(words)) for words in ASKED.values()])

    def forward(self, states: Tensor, lengths: tuple[int, ...]) -> list[Tensor]:
        """States (S,E) of B captions -> logits (B, words) for each question."""
        padded = pad_sequence(self.text(states).split(lengths), batch_first=True)
        absent = torch.arange(padded.shape[1]) >= torch.tensor(lengths)[:, None]
        x = self.queries.expand(len(lengths), -1, -1)
        for block in self.blocks:
            x = block(x, padded, memory_key_padding_mask=absent)
        return [head(x[:, place]) for place, head in enumerate(self.heads)]


def answers(index: int) -> list[int]:
    """What is right for a scene, as places in the lists of words."""
    drawn = scene(SEED, index, split="train", bodies=2)
    said = [getattr(body, name) for body in drawn.bodies for name in OF_A_BODY] + [drawn.relation, drawn.ground]
    return [words.index(word) for words, word in zip(ASKED.values(), said, strict=True)]


def ask(encoder: nn.Module, reader: Reader, tokenizer: Tokenizer, indices: range) -> tuple[list[Tensor], Tensor]:
    """The reader's answers on scenes, and the right ones."""
    captions = [caption(scene(SEED, i, split="train", bodies=2), SEED, i) for i in indices]
    ids, lengths = tokenizer(captions)
    return reader(encoder(ids, lengths).states, lengths), torch.tensor([answers(i) for i in indices])


def learn(encoder: nn.Module, tokenizer: Tokenizer, steps: int, lr: float, name: str) -> None:
    """Train both, and print a row at every third of the way."""
    reader = Reader(encoder.dim, 128)
    groups = [{"params": list(encoder.parameters()), "lr": lr}, {"params": list(reader.parameters()), "lr": 1e-3}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.01)
    warm = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 60))
    for step in range(steps):
        logits, right = ask(encoder, reader, tokenizer, range(step * BATCH, (step + 1) * BATCH))
        loss = torch.stack([F.cross_entropy(one, right[:, place]) for place, one in enumerate(logits)]).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([*encoder.parameters(), *reader.parameters()], 1.0)
        optimizer.step()
        warm.step()
        if (step + 1) % max(1, steps // 3) == 0:
            with torch.no_grad():
                logits, right = ask(encoder, reader, tokenizer, HELD_OUT)
            shares = [(one.argmax(1) == right[:, place]).float().mean() for place, one in enumerate(logits)]
            print(f"{name:<24}{step + 1:>6}" + "".join(f"{100 * share:>10.0f}" for share in shares), flush=True)


def main(arguments: Sequence[str]) -> None:
    options = {"steps": "300", "lr": "2e-4"} | dict(argument.split("=", 1) for argument in arguments)
    text = settings("train", ["experiment=toy_dit"]).text
    with tempfile.TemporaryDirectory() as folder:
        captions = [caption(scene(SEED, i, split="train"), SEED, i) for i in range(4000)]
        tokenizer = train_tokenizer(captions, Path(folder) / "tokenizer.json", vocabulary=text.arguments["vocabulary"])
        print(f"{'position biases':<24}{'steps':>6}" + "".join(f"{name:>10}" for name in ASKED))
        for name in ("as transformers draws", "to words nearby"):
            torch.manual_seed(0)
            encoder = text()
            if name == "as transformers draws":
                attention = encoder.encoder.block[0].layer[0].SelfAttention
                nn.init.normal_(attention.relative_attention_bias.weight, std=encoder.dim**-0.5)
            learn(encoder, tokenizer, int(options["steps"]), float(options["lr"]), name)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
