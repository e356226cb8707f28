"""Trains the judge on clips rendered while it learns, and says which words it still confuses."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from videodit.shapes import VideoShape
from videodit.toy.judge import MIRRORED, OTHER_BODY, SLOTS, Judge, head, read, shown, truth, vocabulary
from videodit.toy.render import render
from videodit.toy.scenes import Scene, scene

LABELS = (
    *(f"{name} {place + 1}" for place in range(SLOTS) for name in ("kind", "colour", "size", "motion")),
    *("ground", "camera", "bodies", "depth"),
)
FPS = 8.0
STRIDE = 10_000  # indices of scenes that belong to a step
MOVED, FROZEN = 3, 0.06  # pixels, share of the clips
ABSENT = -1  # the label of what a clip does not show


# What it learns from: shapes and their share of the steps. Most like what is mostly judged.
SHAPES = (
    (VideoShape(17, 64, 64), 0.42),
    (VideoShape(17, 96, 64), 0.12),
    (VideoShape(17, 64, 96), 0.12),
    (VideoShape(9, 64, 64), 0.20),
    (VideoShape(33, 64, 64), 0.08),
    (VideoShape(1, 64, 64), 0.06),
)
CLIP_PIXELS = 17 * 64 * 64  # of a clip that counts as one of a batch; smaller ones come up to four times as many
STILLS = 0.3  # share of the steps, the first ones, that see frame 1 alone: much is to be seen there, and it is cheap


def train_judge(
    judge: Judge,
    *,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    report: Callable[[int, Judge, Mapping[str, float]], None],
) -> Judge:
    """Train in place, on clips rendered for each step, and return a moving average of the weights, to be kept.

    batch: clips a step, of 17 frames of 64x64. `report(step, average, numbers)` is called after each step.
    """
    generator = torch.Generator().manual_seed(seed)
    shares = torch.tensor([share for _, share in SHAPES])
    optimizer = torch.optim.AdamW(judge.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.02)
    average = AveragedModel(judge, multi_avg_fn=get_ema_multi_avg_fn(0.995))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min((step + 1) / 100, 0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * step / steps)))
        shape = SHAPES[int(torch.multinomial(shares, 1, generator=generator))][0]
        if step < STILLS * steps:
            shape = VideoShape(1, shape.height, shape.width)
        size = max(1, min(4 * batch, batch * CLIP_PIXELS // (shape.frames * shape.height * shape.width)))
        scenes = list(islice(_scenes(seed, step), size))
        clips, labels = vary(_render(scenes, shape), scenes, generator)
        logits = judge.train()(spoil(clips, generator))
        losses = {label: _loss(logits[label], labels[label]) for label in shown(labels, shape.frames)}
        loss = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clip_grad_norm_(judge.parameters(), 5.0)
        optimizer.step()
        average.update_parameters(judge)
        report(step + 1, average.module, {label: value.item() for label, value in losses.items()})
    return average.module.eval()


def spoil(clips: Tensor, generator: torch.Generator) -> Tensor:
    """Clips (B,3,T,H,W) as a generator might have made them: a little blurred, smeared in time, shifted, tinted, noisy.

    A third of the clips stays as it is. The result may leave [-1,1] a little.
    """
    batch = len(clips)

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand((batch, *shape, 1, 1, 1), generator=generator)

    offsets = torch.arange(-2, 3)
    kernel = torch.softmax(-(offsets**2) / (2 * draw(0.3, 0.9)[:, 0, 0] ** 2), -1)  # (B,5)
    kernel = rearrange(kernel, "b i -> b 1 i 1") * rearrange(kernel, "b i -> b 1 1 i")
    flat = rearrange(clips, "b c t h w -> (c t) b h w")
    flat = F.conv2d(F.pad(flat, (2, 2, 2, 2), mode="replicate"), kernel, groups=batch)
    spoiled = rearrange(flat, "(c t) b h w -> b c t h w", c=3)
    smear = draw(0, 0.2, 1)
    before = torch.cat([spoiled[:, :, :1], spoiled[:, :, :-1]], 2)
    after = torch.cat([spoiled[:, :, 1:], spoiled[:, :, -1:]], 2)
    spoiled = (1 - 2 * smear) * spoiled + smear * (before + after)
    spoiled = spoiled * draw(0.93, 1.07, 1) + draw(-0.07, 0.07, 1) + draw(-0.03, 0.03, 3)
    spoiled = spoiled + draw(0, 0.06, 1) * torch.randn(clips.shape, generator=generator)
    return torch.where(draw(0, 1, 1) < 0.33, clips, spoiled)


def validate(judge: Judge, shape: VideoShape, *, clips: int, seed: int, split: str, bodies: int | None) -> Validation:
    """Score the judge on `clips` rendered clips of scenes (seed, 0 ...)."""
    scenes = [scene(seed, index, split=split, bodies=bodies) for index in range(clips)]
    right, mistakes, confusions = Counter(), [], Counter()
    for start in range(0, clips, 50):
        part = scenes[start : start + 50]
        seen, _ = read(judge, _render(part, shape))
        for place, (drawn, words) in enumerate(zip(part, seen, strict=True)):
            wanted = shown(truth(drawn), shape.frames)
            wrong = [label for label, word in wanted.items() if words[label] != word]
            right.update({label: label not in wrong for label in wanted} | {"all": not wrong})
            confusions.update((head(label), wanted[label], words[label]) for label in wrong)
            if wrong:
                mistakes.append((start + place, {label: (wanted[label], words[label]) for label in wrong}))
    return Validation({label: hits / clips for label, hits in right.items()}, confusions, mistakes)


@dataclass(frozen=True)
class Validation:
    """accuracy: by label, and "all"; confusions: how often (attribute, word, word read); mistakes: (index, by label
    (word, word read)). With bodies=None the second body's accuracies count scenes without one as wrong."""

    accuracy: dict[str, float]
    confusions: Counter[tuple[str, str, str]]
    mistakes: list[tuple[int, dict[str, tuple[str, str]]]]


def _scenes(seed: int, step: int) -> Iterator[Scene]:
    """Scenes of a step, without end: as the world draws them, but in every third the camera moves."""
    drawn = (scene(seed, step * STRIDE + index, split="any") for index in count())
    for place in count():
        yield next(one for one in drawn if place % 3 or one.camera != "still")


def _render(scenes: Sequence[Scene], shape: VideoShape) -> Tensor:
    return render(scenes, frames=shape.frames, height=shape.height, width=shape.width, fps=FPS)


def vary(clips: Tensor, scenes: Sequence[Scene], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """Half of the clips (B,3,T,H,W) as in a mirror, all moved by up to MOVED pixels and a few frozen at their first
    frame, so that where a body starts does not give away how it moves. Also what is then in each: by label (B,) places
    in the vocabulary, or ABSENT."""
    flip, frozen = (torch.rand(len(clips), generator=generator) < share for share in (0.5, FROZEN))
    clips = torch.where(rearrange(flip, "b -> b 1 1 1 1"), clips.flip(-1), clips)
    clips = torch.where(rearrange(frozen, "b -> b 1 1 1 1"), clips[:, :, :1], clips)
    down, across = torch.randint(2 * MOVED + 1, (2,), generator=generator).tolist()
    height, width = clips.shape[3:]
    clips = F.pad(clips.flatten(1, 2), (MOVED,) * 4, mode="replicate").unflatten(1, clips.shape[1:3])
    clips = clips[..., down : down + height, across : across + width]
    words = [truth(drawn) for drawn in scenes]
    words = [mirrored(one) if turned else one for one, turned in zip(words, flip, strict=True)]
    words = [one | _at_rest(one) if still else one for one, still in zip(words, frozen, strict=True)]
    known = vocabulary()
    return clips, {
        label: torch.tensor([known[head(label)].index(one[label]) if label in one else ABSENT for one in words])
        for label in LABELS
    }


def _at_rest(words: Mapping[str, str]) -> dict[str, str]:
    rest = {"motion": "stays still", "camera": "still"}
    return {label: rest[head(label)] for label in words if head(label) in rest}


def mirrored(words: Mapping[str, str]) -> dict[str, str]:
    """The words, by label, of the mirror image: left and right change places, and so do two bodies."""
    swap = OTHER_BODY if words["bodies"] == "2" else {}
    return {label.translate(swap): MIRRORED.get(word, word) for label, word in words.items()}


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over the clips that have the label, as a mean over all clips: rare labels weigh what they are."""
    return F.cross_entropy(logits, labels, ignore_index=ABSENT, reduction="sum") / len(labels)
