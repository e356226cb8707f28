"""A judge of the toy world: a small network that reads kind, colour, size, motion, ground and camera off a clip.

Every frame is looked at with a glance at its neighbours; attention maps follow the bodies, the leftmost first, and the
scene through the clip; convolutions over time then read what they do. Any size and length.

Letters: B clips, T frames, H height, W width, h w the coarse map (1/8 of H W), C channels, S slots (bodies, left to
right in frame 1, and the scene), N attention maps a slot, D features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

import torch
from einops import einsum, rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from videodit.toy.scenes import CAMERAS, COLOURS, GROUNDS, KINDS, MOTIONS, SIZES, Scene

SLOTS = 2
OF_A_BODY = ("kind", "colour", "size", "motion")
OF_A_SCENE = ("ground", "camera", "bodies", "depth")
ATTRIBUTES = ("kind", "colour", "size", "motion", "ground", "camera")  # what a one-body prompt is scored on
MOVING = ("motion", "camera")  # what a single frame cannot show
PLACE = 5  # numbers that say where a cell of the map is and how vivid
OTHER_BODY = str.maketrans("12", "21")  # in a mirror the left one of two bodies is the right one
T = TypeVar("T")
DEPTHS = ("left one nearer", "level", "left one farther")  # of two bodies
_MIRRORED = {"rolls left": "rolls right", "pans left": "pans right", DEPTHS[0]: DEPTHS[2]}
MIRRORED = MappingProxyType(_MIRRORED | {there: here for here, there in _MIRRORED.items()})  # words that change places


def vocabulary() -> dict[str, tuple[str, ...]]:
    """The words the judge chooses between, by attribute. "bodies" counts them; "depth" compares two."""
    return {
        "kind": KINDS,
        "colour": COLOURS,
        "size": SIZES,
        "motion": MOTIONS,
        "ground": GROUNDS,
        "camera": CAMERAS,
        "bodies": ("1", "2"),
        "depth": DEPTHS,
    }


def truth(scene: Scene) -> dict[str, str]:
    """What a perfect judge reads off a clip of the scene: words by label.

    Labels are "ground", "camera", "bodies" and, per body from left to right, "kind 1", "colour 1", "size 1",
    "motion 1"; of two bodies also "kind 2" ... and "depth".
    """
    bodies = sorted(scene.bodies, key=lambda body: body.x)
    words = {"ground": scene.ground, "camera": scene.camera, "bodies": str(len(bodies))}
    for place, body in enumerate(bodies, 1):
        words |= {f"{name} {place}": getattr(body, name) for name in OF_A_BODY}
    if len(bodies) == 2:
        nearer = {"left of": None, "right of": None, "behind": 1, "in front of": 0}[str(scene.relation)]
        first_is_left = bodies[0] is scene.bodies[0]
        words["depth"] = DEPTHS[1] if nearer is None else DEPTHS[0 if (nearer == 0) == first_is_left else 2]
    return words


def head(label: str) -> str:
    """The attribute that a label is about: "kind" for "kind 2"."""
    return label.split()[0]


def shown(by_label: Mapping[str, T], frames: int) -> dict[str, T]:
    """Without what a clip of that many frames cannot show."""
    return {label: value for label, value in by_label.items() if frames > 1 or head(label) not in MOVING}


class Judge(nn.Module):
    """Reads attributes off clips of equal size. `words` names the choices of every head, as `vocabulary()` does."""

    def __init__(self, *, words: Mapping[str, Sequence[str]], width: int, maps: int, features: int) -> None:
        """width: channels of the first map, an even multiple of 8; maps: attention maps a slot; features: D a slot."""
        super().__init__()
        self.words = {name: tuple(choices) for name, choices in words.items()}
        self.arguments = {"words": self.words, "width": width, "maps": maps, "features": features}
        self.trunk = nn.ModuleList(
            [
                _Look(3, width, reach=8, stride=4),
                _Block(width),
                _Look(width, 2 * width, reach=4, stride=2),
                _Block(2 * width),
                _Block(2 * width),
            ]
        )
        channels = 2 * width + PLACE
        self.maps = nn.Linear(channels, (SLOTS + 1) * maps)
        self.follow = _OverTime(maps * (channels + 1) + 4 * width, features)
        self.overall = _OverTime((SLOTS + 1) * maps * (channels + 1) + 4 * width, features)
        self.heads = nn.ModuleDict({name: nn.Linear(features, len(choices)) for name, choices in self.words.items()})
        self._look_at_what_is_vivid(maps)

    @torch.no_grad()
    def _look_at_what_is_vivid(self, maps: int) -> None:
        """Start every slot's first map on vivid places, as only bodies are: the first slot's on those to the left, the
        second's on those to the right. Training is free to look elsewhere."""
        across, vivid = self.maps.in_features - PLACE, self.maps.in_features - 1
        for slot in range(SLOTS):
            self.maps.weight[slot * maps] = 0
            self.maps.weight[slot * maps, vivid] = 8
            self.maps.weight[slot * maps, across] = -1 if slot == 0 else 1

    def forward(self, clips: Tensor) -> dict[str, Tensor]:
        """Clips (B,3,T,H,W) in [-1,1], H and W multiples of 8 → logits (B, choices) by label as in `truth`, and
        "features" (B,2·D) of the leftmost body and of the whole. Labels that a clip of T frames cannot show, or of a
        second body that is not there, are given all the same."""
        bodies, overall = self.describe(clips)
        logits = {name: self.heads[name](overall) for name in OF_A_SCENE}
        for place, body in enumerate(bodies, 1):
            logits |= {f"{name} {place}": self.heads[name](body) for name in OF_A_BODY}
        return logits | {"features": torch.cat([bodies[0], overall], 1)}

    def describe(self, clips: Tensor) -> tuple[list[Tensor], Tensor]:
        """Clips (B,3,T,H,W) → per slot (B,D), and of the whole clip (B,D)."""
        frames = clips.shape[2]
        x = rearrange(clips, "b c t h w -> (b t) c h w").contiguous(memory_format=torch.channels_last)
        for layer in self.trunk:
            x = layer(x, frames)
        x = rearrange(x, "(b t) c h w -> b t (h w) c", t=frames)
        whole = torch.cat([x.mean(2), x.amax(2)], -1)  # (B,T,2C): what there is, and how much of it
        x = torch.cat([x, _places(clips, 8)], -1)
        scores = self.maps(x)  # (B,T,h·w,S·N)
        attended = einsum(x, scores.softmax(2), "b t p c, b t p n -> b t n c")
        mass = scores.logsumexp(2) - math.log(scores.shape[2])  # how much of the frame is like that
        attended = torch.cat([attended, rearrange(mass, "b t n -> b t n 1")], -1)
        *slots, scene = rearrange(attended, "b t (s n) c -> s b t (n c)", s=SLOTS + 1)
        bodies = [self.follow(torch.cat([slot, whole], -1)) for slot in slots]
        return bodies, self.overall(torch.cat([*slots, scene, whole], -1))


@torch.no_grad()
def read(judge: Judge, clips: Tensor) -> tuple[list[dict[str, str]], Tensor]:
    """What the judge sees in (B,3,T,H,W): for each clip its words by label, and the features (B,2·D).

    It looks at every clip and at its mirror image, and adds what it makes of both. The words are those of every label,
    a second body's too, whatever the clip can show: see `shown`.
    """
    logits, mirror = judge.eval()(clips), judge(clips.flip(-1))
    features = logits.pop("features")
    scores = {label: scores.log_softmax(1) for label, scores in logits.items()}
    turned = {label: mirror[label].log_softmax(1)[:, _mirrored_places(judge.words[head(label)])] for label in logits}
    two = (scores["bodies"] + turned["bodies"]).argmax(1, keepdim=True) == judge.words["bodies"].index("2")
    for label in scores:
        other = label.translate(OTHER_BODY)
        scores[label] = scores[label] + torch.where(two, turned[other], turned[label])
    best = {label: [judge.words[head(label)][i] for i in both.argmax(1)] for label, both in scores.items()}
    return [{label: words[clip] for label, words in best.items()} for clip in range(len(clips))], features


def _mirrored_places(words: Sequence[str]) -> list[int]:
    """For each word the place of the one that says the same of the mirror image."""
    return [words.index(MIRRORED.get(word, word)) for word in words]


class _Look(nn.Module):
    """A convolution of every frame that leaves 1/stride of its height and width, normalised."""

    def __init__(self, inputs: int, outputs: int, *, reach: int, stride: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, reach, stride, (reach - stride) // 2)
        self.norm = nn.GroupNorm(8, outputs)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        return F.silu(self.norm(self.convolution(x)))


class _Block(nn.Module):
    """A residual glance at the frames before and after, then at the neighbourhood."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.time = nn.Conv2d(3 * channels, channels, 1)
        self.space = nn.Conv2d(channels, channels, 3, 1, 1)
        self.norms = nn.ModuleList([nn.GroupNorm(8, channels) for _ in range(2)])

    def forward(self, x: Tensor, frames: int) -> Tensor:
        y = rearrange(self.norms[0](x), "(b t) c h w -> b t c h w", t=frames)
        before, after = torch.cat([y[:, :1], y[:, :-1]], 1), torch.cat([y[:, 1:], y[:, -1:]], 1)
        y = rearrange(torch.cat([before, y, after], 2), "b t c h w -> (b t) c h w")
        y = F.silu(self.norms[1](self.time(y.contiguous(memory_format=torch.channels_last))))
        return x + self.space(y)


class _OverTime(nn.Module):
    """A clip's frames (B,T,C) → one vector (B,D): frame 1, the mean and the most of every feature."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.enter = nn.Linear(3 * channels, 2 * features)
        self.steps = nn.ModuleList([nn.Conv1d(2 * features, 2 * features, 3, dilation=reach) for reach in (1, 2, 4)])
        self.leave = nn.Linear(6 * features, features)

    def forward(self, x: Tensor) -> Tensor:
        before = torch.cat([x[:, :1], x[:, :-1]], 1)
        x = torch.cat([x, x - x[:, :1], 4 * (x - before)], -1)  # what is, what has changed, what is changing
        x = rearrange(F.silu(self.enter(x)), "b t c -> b c t")
        first = x[..., 0]
        for step in self.steps:
            reach = step.dilation[0]
            x = x + F.silu(step(F.pad(x, (reach, reach), mode="replicate")))
        return F.silu(self.leave(torch.cat([first, x.mean(2), x.amax(2)], 1)))


def _places(clips: Tensor, cell: int) -> Tensor:
    """Of every cell of cell x cell pixels of (B,3,T,H,W): (B,T,h·w,PLACE), how far across and down it is (in frames,
    from the middle, times 4), the squares of these, and how vivid its colour is (0 to 1)."""
    vivid = (clips.amax(1) - clips.amin(1)) / 2
    vivid = rearrange(F.avg_pool2d(vivid, cell), "b t h w -> b t (h w) 1")
    rows, columns = clips.shape[3] // cell, clips.shape[4] // cell
    down, across = ((torch.arange(count, device=clips.device) + 0.5) / count - 0.5 for count in (rows, columns))
    place = 4 * torch.stack(torch.meshgrid(across, down, indexing="xy"), -1)
    place = rearrange(torch.cat([place, place**2], -1), "h w c -> (h w) c").to(vivid)
    return torch.cat([place.expand(*vivid.shape[:3], -1), vivid], -1)
