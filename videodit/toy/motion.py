"""Where everything is at each moment of a toy scene: the camera, the bodies, and what a word for a motion means.

World: x right, y up, z away from the camera, which stands at (0, EYE * tall, 0) and looks along z. Places on the screen
are slopes of lines of sight (x/z and y/z), in which the frame is `wide` by `tall`. The picture is shifted instead of
the camera pitched down, so what is upright stays upright. Scenes speak in shares of the frame, so one fits any frame:
a body covers the same share of it, stands on the same row and crosses the same part of its width.
All is float64 on the CPU: next to nothing beside the pixels that `render` makes of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from einops import rearrange
from torch import Tensor

from videodit.toy.scenes import Body, Scene

HORIZON = 0.24  # of the frame height, from the top
EYE = 1.84
SETTLE = (2.0, 0.3)  # seconds until a one-way motion slows, and its time constant from then on
TURN = math.pi  # radians a second of what spins
HOP_SECONDS, HOP_HEIGHT = 0.75, 0.22  # of a bounce; heights in frame heights
FALL_SECONDS, FALL_HEIGHT = 0.95, 0.46
ORBIT_SECONDS, ORBIT_REACH, ORBIT_DEPTH = 2.0, 0.19, 0.3  # of what circles; in frame widths and shares of its depth
PAN, ZOOM = 0.13, 0.19  # frame widths a second, log scale a second


@dataclass(frozen=True)
class Motion:
    """What a word for a motion means: a rate for each thing that can change, all zero for "stays still"."""

    slide: float = 0.0  # frame widths a second, to the right
    approach: float = 0.0  # shares of the first depth a second, away from the camera
    growth: float = 0.0  # shares of the first size a second
    turn: float = 0.0  # times TURN
    hop: float = 0.0  # times HOP_HEIGHT
    drop: float = 0.0  # times FALL_HEIGHT
    orbit: float = 0.0  # times ORBIT_REACH and ORBIT_DEPTH


MOTION_RATES = MappingProxyType(
    {
        "rolls left": Motion(slide=-0.16),
        "rolls right": Motion(slide=0.16),
        "comes nearer": Motion(approach=-0.155),
        "goes away": Motion(approach=0.35),
        "bounces": Motion(hop=1.0),
        "spins": Motion(turn=1.0),
        "grows": Motion(growth=0.25),
        "shrinks": Motion(growth=-0.23),
        "circles": Motion(orbit=1.0),
        "stays still": Motion(),
        "falls": Motion(drop=1.0),
    }
)
CAMERA_RATES = MappingProxyType(  # pan, zoom
    {
        "still": (0.0, 0.0),
        "pans left": (-1.0, 0.0),
        "pans right": (1.0, 0.0),
        "zooms in": (0.0, 1.0),
        "zooms out": (0.0, -1.0),
    }
)


@dataclass(frozen=True)
class Solid:
    """A kind's shape in its own frame, where its radius is 1 and it stands on y = -half."""

    half: float  # half its height
    girth: float  # radius of the upright tube around it
    yaw: float  # radians it is turned by, to show its best side
    foot: float  # radius of its shadow's near end
    head: float  # and of the far end
    ends: float  # how far the centres of the shadow's ends are from its own, in `half`


SOLIDS = MappingProxyType(
    {
        "ball": Solid(half=1.0, girth=1.0, yaw=0.5, foot=1.0, head=1.0, ends=0.38),
        "cube": Solid(half=1.0, girth=1.42, yaw=0.6, foot=1.15, head=1.15, ends=1.0),
        "cone": Solid(half=1.0, girth=1.0, yaw=0.5, foot=1.0, head=0.05, ends=1.0),
        "cylinder": Solid(half=1.3, girth=1.0, yaw=0.5, foot=1.0, head=1.0, ends=1.0),
    }
)


@dataclass(frozen=True)
class View:
    """The frame's shape and where the cameras look. pan (radians to the right) and zoom (a factor): (B,T) float64."""

    height: int
    width: int
    pan: Tensor
    zoom: Tensor

    @property
    def focal(self) -> float:
        """Focal length in pixels before any zoom: long enough that balls at the frame's edge still look round."""
        return 1.1 * max(self.height, math.sqrt(self.height * self.width))

    @property
    def wide(self) -> float:
        """The frame's width as a slope."""
        return self.width / self.focal

    @property
    def tall(self) -> float:
        """The frame's height as a slope."""
        return self.height / self.focal

    @property
    def middle(self) -> float:
        """The slope at the frame's middle: the horizon is at 0, so it lies below."""
        return (HORIZON - 0.5) * self.tall


def _glide(seconds: Tensor) -> Tensor:
    """Seconds that a one-way motion has made use of: it slows after SETTLE[0] and never gains more than SETTLE[1]."""
    late = (seconds - SETTLE[0]).clamp(min=0)
    return seconds - late + SETTLE[1] * (1 - torch.exp(-late / SETTLE[1]))


def view_of(scenes: Sequence[Scene], seconds: Tensor, height: int, width: int) -> View:
    """Where the cameras of B scenes look at T moments (in seconds, float64) in frames of height x width pixels."""
    rates = torch.tensor([CAMERA_RATES[scene.camera] for scene in scenes], dtype=torch.float64)
    glide = _glide(seconds)
    view = View(height, width, torch.zeros_like(rates[:, :1] * glide), torch.exp(rates[:, 1:] * ZOOM * glide))
    return replace(view, pan=rates[:, :1] * PAN * view.wide * glide)


@dataclass(frozen=True)
class Items:
    """Bodies in frames ("items"), N of each."""

    kind: Tensor  # (N,) place in SOLIDS
    radius: Tensor  # (N,)
    centre: Tensor  # (N,3)
    turned: Tensor  # (N,3,3): from the world's axes to the body's
    near: Tensor  # (N,) bool: the other body of the frame is farther away
    body: Tensor  # (N,) place among the bodies of all scenes
    clip: Tensor  # (N,)
    frame: Tensor  # (N,)

    def half(self) -> Tensor:
        """Half its height in the world (N,)."""
        return self.radius * per_kind(self.kind, "half")


def _column(values: Iterable[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)[:, None]


def per_kind(kind: Tensor, field: str) -> Tensor:
    """A field of `Solid` for each place in SOLIDS."""
    return torch.tensor([getattr(solid, field) for solid in SOLIDS.values()], dtype=torch.float64)[kind]


def _unit_area(kind: str, yaw: float, slope: float, foot_slope: float) -> float:
    """What a body of radius 1 covers at distance 1. The slopes are those of the sight of its middle and its foot."""
    half, slope = SOLIDS[kind].half, abs(slope)
    if kind == "ball":
        return math.pi * math.sqrt(1 + slope**2)
    if kind == "cube":
        return 4 * (abs(math.cos(yaw)) + abs(math.sin(yaw))) + 4 * slope
    if kind == "cylinder":
        return 4 * half + math.pi * slope
    foot = max(abs(foot_slope), 0.02)  # of a cone: half the height of the ellipse that its foot is on the screen
    apex = max(2 * half / foot, 1.0)  # how far its top is from the ellipse's middle, that stretched to a unit circle
    return foot * (math.pi - math.acos(1 / apex) + math.sqrt(apex**2 - 1))


def _fall(body: Body, size: float, view: View) -> float:
    """Frame heights that a body of `size` (radius over depth) falls, if it falls: seen whole from the start."""
    room = body.row - 2.1 * SOLIDS[body.kind].half * size / view.tall - 0.04
    return MOTION_RATES[body.motion].drop * min(max(room, 0.0), FALL_HEIGHT)


def _first_size(body: Body, view: View) -> float:
    """Radius over depth of a body that covers `body.area` of frame 1."""
    solid, area = SOLIDS[body.kind], body.area * view.wide * view.tall
    size = math.sqrt(area / 4)
    for _ in range(3):  # how steeply it is seen depends a little on its size
        foot = (body.row - HORIZON - _fall(body, size, view)) * view.tall
        unit = _unit_area(body.kind, body.yaw + solid.yaw, foot - solid.half * size, foot)
        size = math.sqrt(area / (unit * (1 + size**2)))  # the last for perspective: its front is nearer than its middle
    return size


def items_of(scenes: Sequence[Scene], seconds: Tensor, view: View) -> Items:
    """Where each body is in each frame: one formula, in which a word for a motion is a row of rates."""
    bodies = [body for scene in scenes for body in scene.bodies]
    kind = torch.tensor([list(SOLIDS).index(body.kind) for body in bodies])
    half = per_kind(kind, "half")[:, None]
    depth = EYE / (_column(body.row for body in bodies) - HORIZON)
    size = [_first_size(body, view) for body in bodies]
    fall = _column(_fall(body, s, view) for body, s in zip(bodies, size, strict=True))
    first = _column(size) * depth
    speed = _column(body.speed for body in bodies)
    time, glide = speed * seconds, speed * _glide(seconds)

    def rate(name: str) -> Tensor:
        return _column(getattr(MOTION_RATES[body.motion], name) for body in bodies)

    angle, hop = 2 * math.pi / ORBIT_SECONDS * time, time / HOP_SECONDS % 1
    # What slides starts as far on one side of its x as it comes to rest on the other.
    across = _column(body.x for body in bodies) + rate("slide") * (glide - speed * sum(SETTLE) / 2)
    x = view.wide * depth * (across + rate("orbit") * ORBIT_REACH * angle.sin())
    z = depth * (1 + rate("approach") * glide + rate("orbit") * ORBIT_DEPTH * (1 - angle.cos()))
    radius = first * (1 + rate("growth") * glide)
    lift = rate("hop") * HOP_HEIGHT * 4 * hop * (1 - hop) + fall * (1 - (time / FALL_SECONDS) ** 2).clamp(min=0)
    yaw = _column(body.yaw for body in bodies) + per_kind(kind, "yaw")[:, None] + rate("turn") * TURN * time
    round_ = _column(body.kind == "ball" for body in bodies) / first  # only a ball turns by rolling
    other = torch.tensor(_partners(scenes))
    near = (z < z[other]) | ((z == z[other]) & (other < torch.arange(len(bodies)))[:, None])

    frames = len(seconds)
    return Items(
        kind=kind.repeat_interleave(frames),
        radius=radius.expand(-1, frames).flatten(),
        centre=torch.stack((x, half * radius + lift * view.tall * z, z), -1).flatten(0, 1),
        turned=_turned(yaw, round_ * (x - x[:, :1]), round_ * (z - z[:, :1])).flatten(0, 1),
        near=near.flatten(),
        body=torch.arange(len(bodies)).repeat_interleave(frames),
        clip=torch.tensor([clip for clip, scene in enumerate(scenes) for _ in scene.bodies]).repeat_interleave(frames),
        frame=torch.arange(frames).repeat(len(bodies)),
    )


def _partners(scenes: Sequence[Scene]) -> list[int]:
    """For each body the place of the other one of its scene, or its own."""
    places: list[int] = []
    for scene in scenes:
        places += reversed(range(len(places), len(places) + len(scene.bodies)))
    return places


def _turned(yaw: Tensor, right: Tensor, away: Tensor) -> Tensor:
    """(...,3,3) from the world's axes to those of a body turned by `yaw`, then rolled to the right, then away."""
    yaw, right, away = torch.broadcast_tensors(yaw, right, away)
    zero, one = torch.zeros_like(yaw), torch.ones_like(yaw)

    def matrix(*entries: Tensor) -> Tensor:
        return rearrange(torch.stack(entries, -1), "... (i j) -> ... i j", i=3)

    about_y = matrix(yaw.cos(), zero, -yaw.sin(), zero, one, zero, yaw.sin(), zero, yaw.cos())
    about_z = matrix(right.cos(), -right.sin(), zero, right.sin(), right.cos(), zero, zero, zero, one)
    about_x = matrix(one, zero, zero, zero, away.cos(), away.sin(), zero, -away.sin(), away.cos())
    return about_y @ about_z @ about_x
