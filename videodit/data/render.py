"""Draws toy scenes: an analytic ray tracer in plain torch, batched over clips and frames, on any device.

The ground and the sky cost one ray a pixel (once a clip where the camera is still). A body is traced only inside its
box on the screen, with `SAMPLES` rays a pixel spread wider than the pixel, so silhouettes and marks never step.

Letters: N bodies x frames ("items"), P pixels inside the items' boxes, S samples of a pixel.
World: x right, y up, z away from the camera, which stands at (0, EYE * tall, 0) and looks along z. Screen distances are
in units of sqrt(height * width), so a body covers the same share of a frame of any aspect; `wide` and `tall` are the
frame's sides in that unit (wide * tall = 1), and the picture is shifted up instead of the camera being pitched down, so
what is upright stays upright.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor

if TYPE_CHECKING:
    from videodit.data.toy import Body, Scene

HORIZON = 0.32  # of the frame height, from the top
EYE = 1.84
SETTLE = (2.0, 0.3)  # seconds until a one-way motion slows, and its time constant from then on
TURN = math.pi  # radians a second of what spins
HOP_SECONDS, HOP_HEIGHT = 0.75, 0.22  # of a bounce; heights in frame heights
FALL_SECONDS, FALL_HEIGHT = 0.95, 0.46
ORBIT_SECONDS, ORBIT_REACH, ORBIT_DEPTH = 2.0, 0.19, 0.3  # of what circles; in frame widths and shares of its depth
PAN, ZOOM = 0.13, 0.19  # frame widths a second, log scale a second

LIGHT = (-0.50, 0.72, -0.48)  # towards the light: from above, the left and behind the camera
AMBIENT, DIFFUSE, GLOSS, MARK, SHADOW = 0.42, 0.62, 0.22, 0.38, 0.5
SAMPLES, SPREAD = 8, 1.4  # rays a pixel, and the width in pixels that they cover
STRIPE = 0.24  # half the width of a body's mark, in its radius

COLOUR_RGB = MappingProxyType(
    {
        "red": (0.90, 0.09, 0.09),
        "orange": (1.00, 0.48, 0.03),
        "yellow": (0.98, 0.95, 0.10),
        "green": (0.08, 0.72, 0.08),
        "cyan": (0.10, 0.85, 0.87),
        "blue": (0.10, 0.33, 0.95),
        "purple": (0.52, 0.12, 0.78),
        "pink": (1.00, 0.50, 0.76),
    }
)
GROUND_RGB = MappingProxyType(
    {
        "gray": (0.52, 0.52, 0.52),
        "white": (0.90, 0.90, 0.90),
        "black": (0.16, 0.16, 0.17),
        "beige": (0.82, 0.73, 0.57),
        "brown": (0.45, 0.36, 0.30),
    }
)
SKY_RGB = MappingProxyType(  # at the horizon, high up
    {
        "clear": ((0.86, 0.92, 0.97), (0.62, 0.76, 0.94)),
        "cloudy": ((0.80, 0.81, 0.83), (0.62, 0.64, 0.68)),
        "evening": ((0.97, 0.85, 0.76), (0.72, 0.64, 0.76)),
    }
)


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
        "rolls left": Motion(slide=-0.17),
        "rolls right": Motion(slide=0.17),
        "comes nearer": Motion(approach=-0.17),
        "goes away": Motion(approach=0.35),
        "bounces": Motion(hop=1.0),
        "spins": Motion(turn=1.0),
        "grows": Motion(growth=0.27),
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
        "cone": Solid(half=1.15, girth=1.0, yaw=0.5, foot=1.0, head=0.05, ends=1.0),
        "cylinder": Solid(half=1.25, girth=1.0, yaw=0.5, foot=1.0, head=1.0, ends=1.0),
    }
)


def render(
    scenes: Sequence[Scene],
    *,
    frames: int,
    height: int,
    width: int,
    fps: float = 8.0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Clips (B,3,T,H,W), float32 in [-1,1], of B scenes.

    Motion is a function of seconds, so more frames only go on where fewer stop. A clip does not depend on its batch.
    """
    seconds = torch.arange(frames, dtype=torch.float64) / fps
    view = _view(scenes, seconds, height, width)
    canvas = _background(scenes, view, device)
    items = _items(scenes, seconds, view)
    _draw_shadows(canvas, items, view)
    for near in (False, True):  # bodies cover each other
        for code, kind in enumerate(SOLIDS):
            _draw_bodies(canvas, items, view, kind, (items.kind == code) & (items.near == near))
    return canvas.mul_(2.0).sub_(1.0).clamp_(-1.0, 1.0)


# ---------------------------------------------------------------------------------------------------------------- camera


@dataclass(frozen=True)
class View:
    """The frame's shape and where the cameras look. pan (radians to the right) and zoom (a factor): (B,T) float64."""

    height: int
    width: int
    pan: Tensor
    zoom: Tensor

    @property
    def unit(self) -> float:
        """Pixels in a unit of the screen."""
        return math.sqrt(self.height * self.width)

    @property
    def wide(self) -> float:
        return self.width / self.unit

    @property
    def tall(self) -> float:
        return self.height / self.unit

    @property
    def middle(self) -> float:
        """Height on the screen of the frame's middle: the horizon is at 0, so it lies below."""
        return (HORIZON - 0.5) * self.tall


def _glide(seconds: Tensor) -> Tensor:
    """Seconds that a one-way motion has made use of: it slows after SETTLE[0] and never gains more than SETTLE[1]."""
    late = (seconds - SETTLE[0]).clamp(min=0)
    return seconds - late + SETTLE[1] * (1 - torch.exp(-late / SETTLE[1]))


def _view(scenes: Sequence[Scene], seconds: Tensor, height: int, width: int) -> View:
    rates = torch.tensor([CAMERA_RATES[scene.camera] for scene in scenes], dtype=torch.float64)
    glide = _glide(seconds)
    wide = math.sqrt(width / height)
    return View(height, width, rates[:, :1] * PAN * wide * glide, torch.exp(rates[:, 1:] * ZOOM * glide))


def _background(scenes: Sequence[Scene], view: View, device: torch.device | str) -> Tensor:
    """Ground and sky (B,3,T,H,W) in [0,1]."""
    clips, frames = view.pan.shape
    canvas = torch.empty(clips, 3, frames, view.height, view.width, device=device)
    still = torch.tensor([scene.camera == "still" for scene in scenes])
    for chosen, count in ((still, 1), (~still, frames)):
        for clip in chosen.nonzero()[:, 0].tolist():
            canvas[clip] = _ground_and_sky(scenes[clip], view, clip, count, device)
    return canvas


def _ground_and_sky(scene: Scene, view: View, clip: int, frames: int, device: torch.device | str) -> Tensor:
    """(3,T,H,W) of one clip."""
    scale = (view.unit * view.zoom[clip, :frames]).float().to(device)[:, None, None]
    pan = view.pan[clip, :frames].float().to(device)[:, None, None]
    px = torch.arange(view.width, device=device) + 0.5 - view.width / 2
    py = view.height / 2 - 0.5 - torch.arange(view.height, device=device)
    u = px[None, None, :] / scale
    v = py[None, :, None] / scale + view.middle
    depth = EYE * view.tall / (-v).clamp(min=1e-3)
    x = depth * (u * pan.cos() + pan.sin())
    z = depth * (pan.cos() - u * pan.sin())
    # A soft checker that fades with distance: what shows that the camera, and not the body, moves.
    pattern = 1 + 0.07 * torch.sin(2.2 * x) * torch.sin(2.2 * z) * torch.exp(-((depth / 9) ** 2))
    horizon, high = torch.tensor(SKY_RGB[scene.sky], device=device)[:, :, None, None, None]
    ground = torch.tensor(GROUND_RGB[scene.ground], device=device)[:, None, None, None] * pattern
    sky = torch.lerp(horizon, high, (v / (HORIZON * view.tall)).clamp(0, 1.2))
    return torch.lerp(ground, sky, (v * scale + 0.5).clamp(0, 1))


# ---------------------------------------------------------------------------------------------------------------- bodies


@dataclass(frozen=True)
class Items:
    """Bodies in frames, N of each, float64 on the CPU: next to nothing beside the pixels they stand for."""

    kind: Tensor  # (N,) place in SOLIDS
    colour: Tensor  # (N,3)
    radius: Tensor  # (N,)
    centre: Tensor  # (N,3)
    turned: Tensor  # (N,3,3): from the world's axes to the body's
    near: Tensor  # (N,) bool: the other body of the frame is farther away
    clip: Tensor  # (N,)
    frame: Tensor  # (N,)

    def half(self) -> Tensor:
        """Half its height in the world (N,)."""
        return self.radius * _per_kind(self.kind, "half")


def _column(values: Iterable[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)[:, None]


def _per_kind(kind: Tensor, field: str) -> Tensor:
    return torch.tensor([getattr(solid, field) for solid in SOLIDS.values()], dtype=torch.float64)[kind]


def _unit_area(kind: str, yaw: float, slope: float) -> float:
    """What a body of radius 1 covers of a screen at distance 1, seen from above at `slope`."""
    half, slope = SOLIDS[kind].half, max(abs(slope), 0.02)
    if kind == "ball":
        return math.pi * math.sqrt(1 + slope**2)
    if kind == "cube":
        return 4 * (abs(math.cos(yaw)) + abs(math.sin(yaw))) + 4 * slope
    if kind == "cylinder":
        return 4 * half + math.pi * slope
    apex = max(2 * half / slope, 1.0)  # of a cone, over the ellipse of its foot stretched to a unit circle
    return slope * (math.pi - math.acos(1 / apex) + math.sqrt(apex**2 - 1))


def _fall(body: Body, size: float, tall: float) -> float:
    """Frame heights that a body of `size` (radius over depth) falls, if it falls: seen whole from the start."""
    room = body.row - 2.1 * SOLIDS[body.kind].half * size / tall - 0.02
    return MOTION_RATES[body.motion].drop * min(max(room, 0.0), FALL_HEIGHT)


def _first_size(body: Body, depth: float, tall: float) -> float:
    """Radius over depth of a body that covers `body.area` of frame 1."""
    solid, size = SOLIDS[body.kind], math.sqrt(body.area / 4)
    for _ in range(3):  # how far it is seen from above depends a little on its size
        slope = tall * (EYE / depth - _fall(body, size, tall)) - solid.half * size
        size = math.sqrt(body.area / _unit_area(body.kind, body.yaw + solid.yaw, slope))
    return size


def _items(scenes: Sequence[Scene], seconds: Tensor, view: View) -> Items:
    """Where each body is in each frame: one formula, in which a word for a motion is a row of rates."""
    bodies = [body for scene in scenes for body in scene.bodies]
    kind = torch.tensor([list(SOLIDS).index(body.kind) for body in bodies])
    half = _per_kind(kind, "half")[:, None]
    depth = EYE / (_column(body.row for body in bodies) - HORIZON)
    size = [_first_size(body, d, view.tall) for body, d in zip(bodies, depth[:, 0].tolist(), strict=True)]
    fall = _column(_fall(body, s, view.tall) for body, s in zip(bodies, size, strict=True))
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
    yaw = _column(body.yaw for body in bodies) + _per_kind(kind, "yaw")[:, None] + rate("turn") * TURN * time
    round_ = _column(body.kind == "ball" for body in bodies) / first  # only a ball turns by rolling
    other = torch.tensor(_partners(scenes))
    near = (z < z[other]) | ((z == z[other]) & (other < torch.arange(len(bodies)))[:, None])

    frames = len(seconds)
    return Items(
        kind=kind.repeat_interleave(frames),
        colour=torch.tensor([COLOUR_RGB[body.colour] for body in bodies]).double().repeat_interleave(frames, 0),
        radius=radius.expand(-1, frames).flatten(),
        centre=torch.stack((x, half * radius + lift * view.tall * z, z), -1).flatten(0, 1),
        turned=_turned(yaw, round_ * (x - x[:, :1]), round_ * (z - z[:, :1])).flatten(0, 1),
        near=near.flatten(),
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


# --------------------------------------------------------------------------------------------------------------- drawing


def _seen(items: Items, view: View, point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Points of the world (N,3) as the items' cameras see them: right, up and forward of the eye, (N,) each."""
    pan = view.pan[items.clip, items.frame]
    x, y, z = point.unbind(-1)
    return x * pan.cos() - z * pan.sin(), y - EYE * view.tall, x * pan.sin() + z * pan.cos()


def _tangents(x: Tensor, z: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes of the two lines from the eye that touch a circle."""
    square = (z**2 - radius**2).clamp(min=1e-3)
    spread = radius * (x**2 + z**2 - radius**2).clamp(min=0).sqrt()
    return (x * z - spread) / square, (x * z + spread) / square


def _box(items: Items, view: View, sides: tuple[Tensor, Tensor], levels: tuple[Tensor, Tensor], rim: float) -> Tensor:
    """Pixels (N,4): first column, first row, columns, rows of what lies between screen distances, `rim` pixels more."""
    scale = view.unit * view.zoom[items.clip, items.frame]
    columns = [(side * scale + view.width / 2 + edge * rim) for side, edge in zip(sides, (-1, 1), strict=True)]
    rows = [(view.middle - level) * scale + view.height / 2 + edge * rim
            for level, edge in zip(reversed(levels), (-1, 1), strict=True)]  # fmt: skip
    left, right = columns[0].floor().clamp(0, view.width), columns[1].ceil().clamp(0, view.width)
    top, bottom = rows[0].floor().clamp(0, view.height), rows[1].ceil().clamp(0, view.height)
    return torch.stack((left, top, right - left, bottom - top), -1).long()


def _chunks(canvas: Tensor, items: Items, box: Tensor, chosen: Tensor, size: int) -> Iterator[tuple[Tensor, ...]]:
    """The pixels inside the boxes of the chosen items, about `size` at a time: item, place in the canvas, x, y."""
    which = (chosen & (box[:, 2] * box[:, 3] > 0)).nonzero()[:, 0]
    count = box[which, 2] * box[which, 3]
    part = (count.cumsum(0) - count) // size
    _, _, frames, height, width = canvas.shape
    for lot in part.unique().tolist():
        some, many = which[part == lot].to(canvas.device), count[part == lot].to(canvas.device)
        corner = box.to(canvas.device)[some]
        total = int(count[part == lot].sum())
        n = torch.repeat_interleave(torch.arange(len(some), device=canvas.device), many, output_size=total)
        place = torch.arange(total, device=canvas.device) - (many.cumsum(0) - many)[n]
        column = corner[:, 2][n]
        row = place // column
        x, y = corner[:, 0][n] + place - row * column, corner[:, 1][n] + row
        start = ((items.clip * 3 * frames + items.frame) * height * width).to(canvas.device)[some]
        yield some[n], start[n] + y * width + x, x + 0.5, y + 0.5


def _chunk_size(canvas: Tensor, samples: int) -> int:
    """Pixels at a time: what a CPU's cache holds, and enough to fill a GPU."""
    return (1 << 17 if canvas.device.type == "cpu" else 1 << 24) // samples


def _draw_shadows(canvas: Tensor, items: Items, view: View) -> None:
    """Darkens the ground: a shadow is what lies between two circles, softer the higher the body floats."""
    light = torch.tensor(LIGHT, dtype=torch.float64)
    fall = -light[[0, 2]] / light[1]  # how far a shadow lies from its body, for each unit of height
    half, y = items.half(), items.centre[:, 1]
    ends = half * _per_kind(items.kind, "ends")
    near = items.centre[:, [0, 2]] + (y - ends)[:, None] * fall
    far = items.centre[:, [0, 2]] + (y + ends)[:, None] * fall
    foot, head = items.radius * _per_kind(items.kind, "foot"), items.radius * _per_kind(items.kind, "head")
    soft = 0.15 * items.radius + 0.15 * (y - half)
    sides, levels = [], []
    for point, radius in ((near, foot), (far, head)):
        x, y, z = _seen(items, view, torch.stack((point[:, 0], torch.zeros_like(half), point[:, 1]), -1))
        sides.append(_tangents(x, z, radius + soft))
        levels.append((y / (z - radius - soft).clamp(min=0.1), y / (z + radius + soft)))
    box = _box(
        items,
        view,
        (torch.minimum(sides[0][0], sides[1][0]), torch.maximum(sides[0][1], sides[1][1])),
        (torch.minimum(levels[0][0], levels[1][0]), torch.maximum(levels[0][1], levels[1][1])),
        1.0,
    )
    along = far - near
    pan, scale = view.pan[items.clip, items.frame], view.unit * view.zoom[items.clip, items.frame]
    rows = (*near.T, *along.T, 1 / (along**2).sum(-1), foot, head - foot, soft, pan.cos(), pan.sin(), 1 / scale)
    table = torch.stack(rows).float().to(canvas.device)
    flat, stride = canvas.view(-1), canvas[0, 0].numel()
    for item, place, px, py in _chunks(canvas, items, box, torch.ones_like(items.near), _chunk_size(canvas, 1)):
        x0, z0, dx, dz, inverse, foot, swell, soft, cos, sin, scale = table[:, item]
        u = (px - view.width / 2) * scale
        v = (view.height / 2 - py) * scale + view.middle
        depth = EYE * view.tall / (-v).clamp(min=1e-2)
        x, z = depth * (u * cos + sin) - x0, depth * (cos - u * sin) - z0
        along = ((x * dx + z * dz) * inverse).clamp(0, 1)
        distance = torch.hypot(x - along * dx, z - along * dz) - foot - along * swell
        inside = (0.5 - 0.5 * distance / soft).clamp(0, 1)
        dark = 1 - SHADOW * inside * inside * (3 - 2 * inside)
        for channel in range(3):
            flat[place + channel * stride] *= dark


def _draw_bodies(canvas: Tensor, items: Items, view: View, kind: str, chosen: Tensor) -> None:
    """Traces the chosen items, all of one kind, and lays them over what is there."""
    x, y, z = _seen(items, view, items.centre)
    girth, half = items.radius * SOLIDS[kind].girth, items.half()
    levels = _tangents(y, z, half) if kind == "ball" else (
        torch.minimum((y - half) / (z - girth), (y - half) / (z + girth)),
        torch.maximum((y + half) / (z - girth), (y + half) / (z + girth)),
    )  # fmt: skip
    box = _box(items, view, _tangents(x, z, girth), levels, SPREAD / 2)
    table = _rays(items, view).to(canvas.device)
    flat, stride = canvas.view(-1), canvas[0, 0].numel()
    # Samples like rooks on a chess board: no two share a row or a column, so upright and level edges have all grades.
    rooks = (torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7], [3, 6, 1, 4, 7, 2, 5, 0]], device=canvas.device) + 0.5) / SAMPLES
    over, down = ((rooks - 0.5) * SPREAD)[:, :, None]
    for item, place, px, py in _chunks(canvas, items, box, chosen, _chunk_size(canvas, SAMPLES)):
        row = table[:, item]
        eye, light, shine, colour, across, along = row[0:3], row[3:6], row[6:9], row[9:12], row[15:18], row[18:21]
        ray = [row[12 + i] + px * across[i] + py * along[i] for i in range(3)]
        ray = [torch.addcmul(torch.addcmul(ray[i], over, across[i]), down, along[i]) for i in range(3)]
        hit, side, lit, gloss = TRACERS[kind](eye, ray, light, shine, SOLIDS[kind].half)
        hit = hit.float()
        tone = torch.where(side.abs() < STRIPE, MARK, 1.0) * (AMBIENT + DIFFUSE * lit.clamp(0, 1)) * hit
        gloss = gloss.clamp(0, 1).square().square().square().square()
        clear, tone, gloss = 1 - hit.mean(0), tone.mean(0), GLOSS * (gloss * hit).mean(0)
        for channel in range(3):
            at = place + channel * stride
            flat[at] = flat[at] * clear + colour[channel] * tone + gloss


def _rays(items: Items, view: View) -> Tensor:
    """(21,N): in each body's own frame, with its radius as 1, the eye, the light, the direction of the highlight, then
    its colour, then the ray through pixel (0, 0) and its change with a pixel to the right and a pixel down."""
    pan, scale = view.pan[items.clip, items.frame], view.unit * view.zoom[items.clip, items.frame]
    zero, one = torch.zeros_like(pan), torch.ones_like(pan)
    eye = torch.tensor([0.0, EYE * view.tall, 0.0], dtype=torch.float64) - items.centre
    light = torch.nn.functional.normalize(torch.tensor(LIGHT, dtype=torch.float64), dim=0).expand_as(eye)
    shine = torch.nn.functional.normalize(light + torch.nn.functional.normalize(eye, dim=-1), dim=-1)
    across = torch.stack((pan.cos(), zero, -pan.sin()), -1) / scale[:, None]
    down = torch.stack((zero, -one, zero), -1) / scale[:, None]
    forward = torch.stack((pan.sin(), zero + view.middle, pan.cos()), -1)
    corner = forward - across * (view.width / 2) - down * (view.height / 2)

    def own(vector: Tensor) -> Tensor:
        return torch.einsum("nij,nj->ni", items.turned, vector)

    size = items.radius[:, None]
    rows = (own(eye) / size, own(light), own(shine), items.colour, own(corner), own(across), own(down))
    return torch.cat(rows, -1).T.float().contiguous()


# Each tracer takes the eye (3,P) and rays (3 of (S,P)) in the body's frame, and the light and the highlight (3,P) there.
# It gives (S,P) each: whether the ray hits, how far to the side of the mark's middle, and the surface's cosine to the
# light and to the highlight. A solid is where intervals along the ray overlap.


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    return torch.addcmul(torch.addcmul(a[0] * b[0], a[1], b[1]), a[2], b[2])


def _slab(eye: Tensor, ray: Tensor, half: float) -> tuple[Tensor, Tensor]:
    """Where a ray enters and leaves |coordinate| < half."""
    inverse = ray.reciprocal()
    middle, reach = -eye * inverse, half * inverse.abs()
    return middle - reach, middle + reach


def _trace_ball(eye, ray, light, shine, half) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    a, b, c = _dot(ray, ray), _dot(eye, ray), _dot(eye, eye) - 1
    root = b * b - a * c
    t = (-b - root.clamp(min=0).sqrt()) / a
    point = [torch.addcmul(eye[i], t, ray[i]) for i in range(3)]
    return root > 0, point[0], _dot(light, point), _dot(shine, point)


def _trace_cube(eye, ray, light, shine, half) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    slabs = [_slab(eye[i], ray[i], 1.0) for i in range(3)]
    enter = torch.maximum(torch.maximum(slabs[0][0], slabs[1][0]), slabs[2][0])
    leave = torch.minimum(torch.minimum(slabs[0][1], slabs[1][1]), slabs[2][1])
    x_face, y_face = enter == slabs[0][0], enter == slabs[1][0]
    cosines = []
    for vector in (light, shine):
        own = [vector[i] * -torch.sign(ray[i]) for i in range(3)]
        cosines.append(torch.where(x_face, own[0], torch.where(y_face, own[1], own[2])))
    return enter < leave, torch.addcmul(eye[0], enter, ray[0]), *cosines


def _trace_cylinder(eye, ray, light, shine, half) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    a, b = ray[0] * ray[0] + ray[2] * ray[2], eye[0] * ray[0] + eye[2] * ray[2]
    root = b * b - a * (eye[0] * eye[0] + eye[2] * eye[2] - 1)
    spread = root.clamp(min=0).sqrt()
    top, bottom = _slab(eye[1], ray[1], half)
    wall = (-b - spread) / a
    enter = torch.maximum(wall, top)
    hit = (root > 0) & (enter < torch.minimum((spread - b) / a, bottom))
    x, z = torch.addcmul(eye[0], enter, ray[0]), torch.addcmul(eye[2], enter, ray[2])
    up, flat = -torch.sign(ray[1]), top > wall
    return hit, x, *(torch.where(flat, v[1] * up, v[0] * x + v[2] * z) for v in (light, shine))


def _trace_cone(eye, ray, light, shine, half) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    steep = 1 / (2 * half)  # its radius shrinks by this for each unit of height, from 1 at -half to 0 at half
    eye_r, ray_r = (half - eye[1]) * steep, ray[1] * -steep  # the radius at the ray's height: eye_r + t * ray_r
    a = ray[0] * ray[0] + ray[2] * ray[2] - ray_r * ray_r
    b = eye[0] * ray[0] + eye[2] * ray[2] - eye_r * ray_r
    root = b * b - a * (eye[0] * eye[0] + eye[2] * eye[2] - eye_r * eye_r)
    spread = root.clamp(min=0).sqrt()
    top, bottom = _slab(eye[1], ray[1], half)
    wall = (-b - spread) / a
    enter = torch.maximum(wall, top)
    hit = (root > 0) & (enter < torch.minimum((spread - b) / a, bottom))
    x, z = torch.addcmul(eye[0], enter, ray[0]), torch.addcmul(eye[2], enter, ray[2])
    r = (eye_r + enter * ray_r).clamp(min=1e-3)
    flat, up, length = top > wall, -torch.sign(ray[1]), 1 / math.sqrt(1 + steep**2)
    lit = (torch.where(flat, v[1] * up, ((v[0] * x + v[2] * z) / r + v[1] * steep) * length) for v in (light, shine))
    return hit, x, *lit


TRACERS = MappingProxyType(
    {"ball": _trace_ball, "cube": _trace_cube, "cone": _trace_cone, "cylinder": _trace_cylinder}
)
