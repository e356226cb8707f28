"""Give a toy model a new text encoder: `python tools/new_text.py [model=toy] [out=runs/new_text] [steps=500]`.

The encoder is as new as a training from nothing has it. The DiT's text embedding learns to read its states as it read
the old one's, so that a training of both goes on from there instead of from noise. The first encoder of the bundled
model had become deaf to the order of words (docs/toy.md), and this is how it got another.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from videodit.checkpoint.export import copy as copy_file
from videodit.checkpoint.export import put
from videodit.checkpoint.find import describe
from videodit.checkpoint.parts import FILES, TOKENIZERS
from videodit.checkpoint.store import save_model, write_json
from videodit.errors import InputError
from videodit.models.build import rebuild
from videodit.models.text import Tokenizer
from videodit.toy.grammar import caption
from videodit.toy.scenes import scene

SEED, BATCH, RATE = 11, 96, 3e-3


def main(arguments: Sequence[str]) -> None:
    options = {"model": "toy", "out": "runs/new_text", "steps": "500"} | dict(a.split("=", 1) for a in arguments)
    pipeline, parts, tokenizers = describe(options["model"])
    out, steps, tokenizer = Path(options["out"]), int(options["steps"]), Tokenizer(path=tokenizers["text"])
    torch.manual_seed(SEED)
    old, dit = (parts[name].load(dtype=torch.float32) for name in ("text", "dit"))
    new = rebuild(old.spec["architecture"], old.spec["arguments"])
    was, now = copy.deepcopy(dit.text_embed), dit.text_embed
    optimizer = torch.optim.AdamW(now.parameters(), RATE, betas=(0.9, 0.95), weight_decay=0.0)
    curve = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1.0, (s + 1) / 50, 2 * (steps - s) / steps))
    for step in range(steps):
        places = range(step * BATCH, (step + 1) * BATCH)
        captions = [caption(scene(SEED, i, split="any", bodies=1 + i % 2), SEED, i) for i in places] + [""] * 4
        ids, lengths = tokenizer(captions)
        with torch.no_grad():
            wanted, states = was(old(ids, lengths).states), new(ids, lengths).states
        loss = (now(states) - wanted).square().mean() / wanted.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.step()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}: error {loss.item():.3f} of the old states' power", flush=True)
    for name, network in (("text", new), ("dit", dit)):
        save_model(out / FILES[name], network)
    put(parts["vae"], out / FILES["vae"])
    copy_file(tokenizers["text"], out / TOKENIZERS["text"])
    write_json(out / "pipeline.json", pipeline)
    print(out)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
