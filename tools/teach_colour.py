"""A LoRA teaches the bundled model a colour that it never saw: `python tools/teach_colour.py [folder=../runs/navy]
[clips=160] [others=80] [steps=200] [prompts=24]`.

The toy world gets a ninth colour, navy, whose word the model's tokenizer does not know. Clips of navy things, one kind
of prompt as another, are written as a folder of videos, and `others` of the old colours, which are to stay what they
are; `videodit train init=toy adapter=lora data=videofolder` learns from it. A small network that was shown all nine
colours then says what colour things have that are made from prompts with the word, with the adapter and without it,
and those from prompts with the old colours. Prints a table, and writes `sheet.png`: the same prompts and seeds, before
and after.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import videodit
from videodit.cli.main import main as videodit_main
from videodit.data.sample import to_frames
from videodit.data.sheet import sheet
from videodit.data.video import write
from videodit.toy import grammar, render, scenes
from videodit.toy.grammar import caption, evaluation_prompts
from videodit.toy.scenes import Scene, scene
from videodit.toy.train_judge import spoil

NAME, RGB = "navy", (0.05, 0.07, 0.36)
FRAMES, SIZE, FPS = 17, 64, 8.0
DEFAULTS = {"folder": "../runs/navy", "clips": "160", "others": "80", "steps": "200", "prompts": "24"}
EYE_STEPS = 300
ALL = (*scenes.COLOURS, NAME)


@contextmanager
def ninth_colour() -> Iterator[None]:
    """While this lasts, the world has it: scenes are drawn with it, said and rendered."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(scenes, "COLOURS", ALL))
        stack.enter_context(patch.object(render, "COLOUR_RGB", {**render.COLOUR_RGB, NAME: RGB}))
        stack.enter_context(patch.object(grammar, "SAY_COLOUR", {**grammar.SAY_COLOUR, NAME: (NAME,)}))
        yield


def rendered(scenes: Sequence[Scene], frames: int = FRAMES) -> Tensor:
    """Clips (B,3,T,H,W)."""
    return render.render(scenes, frames=frames, height=SIZE, width=SIZE, fps=FPS)


def write_clips(root: Path, many: int, others: int) -> None:
    """A folder of clips of one navy thing each, with captions that say so, and of others as they are."""
    root.mkdir(parents=True, exist_ok=True)
    lines = []
    drawn = [(i, scene(77, i, split="train", bodies=1)) for i in range(20 * (many + others))]
    navy = [(i, one) for i, one in drawn if one.bodies[0].colour == NAME and NAME in caption(one, 77, i)]
    old = [(i, one) for i, one in drawn if one.bodies[0].colour != NAME]
    for index, one in navy[:many] + old[:others]:
        write(root / f"{index}.mp4", to_frames(rendered([one])[0]), FPS)
        lines.append(json.dumps({"file_name": f"{index}.mp4", "caption": caption(one, 77, index)}))
    (root / "metadata.jsonl").write_text("\n".join(lines) + "\n")


class Eye(nn.Module):
    """Stills (B,3,64,64) -> logits of the colours (B,9)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 96)
        self.layers = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.GroupNorm(8, b), nn.SiLU())
              for a, b in zip(widths, widths[1:], strict=False))
        )  # fmt: skip
        self.head = nn.Linear(widths[-1], len(ALL))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).amax((2, 3)))


def stills(seed: int, many: int) -> tuple[Tensor, Tensor]:
    """Pictures of one thing each, colours in equal parts, and which it is."""
    found = []
    for place in range(many):
        wanted = ALL[place % len(ALL)]
        drawn = (scene(seed, place + many * i, split="any", bodies=1) for i in count())
        found.append(next(one for one in drawn if one.bodies[0].colour == wanted))
    return rendered(found, 1), torch.arange(many) % len(ALL)


def taught_eye() -> tuple[Eye, float]:
    """A network that knows nine colours, also in blurred, shifted and noisy pictures, and its share right on others."""
    torch.manual_seed(0)
    eye, generator = Eye(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(eye.parameters(), lr=2e-3)
    clips, labels = stills(1, 1350)
    for step in range(EYE_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - step / EYE_STEPS)
        at = torch.randint(len(clips), (32,), generator=generator)
        loss = F.cross_entropy(eye(spoil(clips[at], generator)[:, :, 0]), labels[at])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    clips, labels = stills(2, 450)
    with torch.no_grad():
        return eye.eval(), (eye(clips[:, :, 0]).argmax(1) == labels).float().mean().item()


@torch.no_grad()
def seen(eye: Eye, clip: Tensor) -> str:
    """The colour of what a clip (3,T,H,W) shows, by all its frames."""
    return ALL[int(eye(clip.transpose(0, 1)).log_softmax(1).mean(0).argmax())]


def asked(many: int) -> dict[str, list[tuple[str, str]]]:
    """(prompt, colour) pairs: with the new colour and with the old ones."""
    pairs = [(text, drawn.bodies[0].colour) for text, drawn in evaluation_prompts("ordinary", 40 * many, 5)]
    return {
        "new": [pair for pair in pairs if pair[1] == NAME][:many],
        "old": [pair for pair in pairs if pair[1] != NAME][:many],
    }


def main() -> None:
    """Write the clips, train, look."""
    given = DEFAULTS | dict(argument.split("=", 1) for argument in sys.argv[1:])
    folder = Path(given["folder"])
    with ninth_colour():
        if not (folder / "clips" / "metadata.jsonl").exists():
            write_clips(folder / "clips", int(given["clips"]), int(given["others"]))
        eye, right = taught_eye()
        wanted = asked(int(given["prompts"]))
    print(f"the eye is right about {100 * right:.1f} % of other pictures", flush=True)
    command = ["train", "init=toy", "adapter=lora", "data=videofolder", f"data.root={folder / 'clips'}", "name=navy",
               f"run_dir={folder / 'run'}", f"cache={folder / 'cache'}", "packs={tokens: 1024, image: 0.1, whole: 0.9}",
               f"loop={{steps: {given['steps']}, log_every: 10, save_every: 40, sample_every: 1000}}", "ema=0.97",
               "optim={warmup: 10, decay: 60, make: {lr: 2.0e-3}}", "samples.prompts=[]"]  # fmt: skip
    if videodit_main(command):
        raise SystemExit(1)
    rows, labels = [], []
    for when, lora in (("before", None), ("after", {str(folder / "run"): 1.0})):
        pipe = videodit.load("toy", lora=lora)
        for which, pairs in wanted.items():
            clips = [video.clip for start in range(0, len(pairs), 8)
                     for video in pipe([text for text, _ in pairs[start : start + 8]], seed=1000 + start)]  # fmt: skip
            colours = [seen(eye, clip) for clip in clips]
            hits = sum(colour == pair[1] for colour, pair in zip(colours, pairs, strict=True))
            print(f"{when:7}{which:4} colours: {hits} of {len(pairs)} right", flush=True)
            shown = list(zip(clips, pairs, colours, strict=True))[: 5 if which == "new" else 2]
            rows += [to_frames(clip) for clip, _, _ in shown]
            labels += [f"{when}: {text} ({colour})" for _, (text, _), colour in shown]
    sheet(folder / "sheet.png", rows, labels, 7)
    print(folder / "sheet.png")


if __name__ == "__main__":
    main()
