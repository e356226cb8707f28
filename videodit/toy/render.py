"""Draws toy scenes: an analytic ray tracer in plain torch, batched over clips and frames, on any device.

The ground and the sky cost one ray a pixel (once a clip where the camera is still). A body is traced only inside its
box on the screen, with a dozen rays a pixel spread a little wider than the pixel, so silhouettes and marks never step.

Letters: N bodies x frames ("items"), P pixels inside the items' boxes, S samples of a pixel.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.functional import normalize

from videodit.errors import InputError
from videodit.shapes import VideoShape
from videodit.toy.motion import EYE, HORIZON, SOLIDS, Items, View, items_of, per_kind, view_of
from videodit.toy.scenes import Scene

LIGHT = (-0.50, 0.82, -0.30)  # towards the light: from above, the left and behind the camera
AMBIENT, DIFFUSE, GLOSS, MARK, SHADOW = 0.54, 0.56, 0.14, 0.48, 0.5
# The rays of a pixel stand like rooks on a chess board, one in each row and column, this row in each column: edges of
# any slope have all grades (found by search: among 12 it has the smallest worst error of a half-plane's area).
ROOKS = (9, 4, 2, 7, 11, 3, 6, 10, 0, 8, 5, 1)
SPREAD = 1.4  # pixels that the board covers
STRIPE = 0.24  # half the width of a body's mark, in its radius

Traced = tuple[Tensor, Tensor, Tensor, Tensor]

COLOUR_RGB = MappingProxyType(
    {
        "red": (0.90, 0.09, 0.09),
        "orange": (1.00, 0.48, 0.03),
        "yellow": (0.98, 0.95, 0.10),
        "green": (0.08, 0.72, 0.08),
        "cyan": (0.10, 0.85, 0.87),
        "blue": (0.10, 0.33, 0.95),
        "purple": (0.52, 0.12, 0.78),
        "pink": (1.00, 0.46, 0.76),
    }
)
GROUND_RGB = MappingProxyType(
    {
        "gray": (0.52, 0.52, 0.52),
        "white": (0.90, 0.90, 0.90),
        "black": (0.13, 0.13, 0.14),
        "beige": (0.82, 0.74, 0.60),
        "brown": (0.46, 0.38, 0.33),
    }
)
SKY_RGB = MappingProxyType(  # at the horizon, high up
    {
        "clear": ((0.86, 0.92, 0.97), (0.62, 0.76, 0.94)),
        "cloudy": ((0.80, 0.81, 0.83), (0.62, 0.64, 0.68)),
        "evening": ((0.97, 0.85, 0.76), (0.72, 0.64, 0.76)),
    }
)
HILL_RGB = (0.50, 0.54, 0.60)


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
    Raises InputError where there is no scene, no pixel or no time between frames.
    """
    VideoShape(frames, height, width)
    if not scenes or not fps > 0:
        raise InputError(f"rendering needs a scene and fps above 0, got {len(scenes)} scenes at fps={fps}")
    seconds = torch.arange(frames, dtype=torch.float64) / fps
    view = view_of(scenes, seconds, height, width)
    canvas = _background(scenes, view, device)
    items = items_of(scenes, seconds, view)
    colours = torch.tensor([COLOUR_RGB[body.colour] for scene in scenes for body in scene.bodies], dtype=torch.float64)
    rays = torch.cat((_rays(items, view), colours[items.body].T)).float().to(device)
    layers = [items.near == near for near in (False, True)]  # at most one body of a frame each, the farther first
    for layer in layers:  # every shadow lies on the ground
        _draw_shadows(canvas, items, view, layer)
    for layer, (code, kind) in itertools.product(layers, enumerate(SOLIDS)):
        _draw_bodies(canvas, items, view, rays, kind, layer & (items.kind == code))
    return canvas.mul_(2.0).sub_(1.0).clamp_(-1.0, 1.0)


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
    scale = (view.focal * view.zoom[clip, :frames]).float().to(device)[:, None, None]
    pan = view.pan[clip, :frames].float().to(device)[:, None, None]
    px = torch.arange(view.width, device=device) + 0.5 - view.width / 2
    py = view.height / 2 - 0.5 - torch.arange(view.height, device=device)
    u = px[None, None, :] / scale
    v = py[None, :, None] / scale + view.middle
    depth = EYE * view.tall / (-v).clamp(min=1e-3)
    x = depth * (u * pan.cos() + pan.sin())
    z = depth * (pan.cos() - u * pan.sin())
    # A soft checker that fades with distance, and hills: they show that the camera moves and not the body.
    pattern = 0.06 * torch.sin(2.2 * x) * torch.sin(2.2 * z) * torch.exp(-((depth / 9) ** 2))
    azimuth = u.atan() + pan
    hills = (0.045 + 0.022 * torch.sin(5 * azimuth + 0.6) + 0.018 * torch.sin(11 * azimuth + 2)) * view.tall
    horizon, high = torch.tensor(SKY_RGB[scene.sky], device=device)[:, :, None, None, None]
    ground = torch.tensor(GROUND_RGB[scene.ground], device=device)[:, None, None, None] + pattern
    sky = torch.lerp(horizon, high, (v / (HORIZON * view.tall)).clamp(0, 1))
    far = torch.lerp(torch.tensor(HILL_RGB, device=device)[:, None, None, None], sky, _edge((v - hills) * scale))
    return torch.lerp(ground, far, _edge(v * scale))


def _edge(pixels: Tensor) -> Tensor:
    """How much of a pixel lies above an edge this many pixels below its middle, over SPREAD pixels."""
    return (pixels / SPREAD + 0.5).clamp(0, 1)


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


def _levels(ends: tuple[Tensor, Tensor], z: Tensor, girth: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes of the lines from the eye to the lowest and the highest point of an upright tube between two heights."""
    front, back = (z - girth).clamp(min=0.1), z + girth
    return torch.minimum(ends[0] / front, ends[0] / back), torch.maximum(ends[1] / front, ends[1] / back)


def _box(items: Items, view: View, sides: tuple[Tensor, Tensor], levels: tuple[Tensor, Tensor], rim: float) -> Tensor:
    """Pixels (N,4): first column, first row, columns, rows of what lies between screen distances, `rim` pixels more."""
    scale = view.focal * view.zoom[items.clip, items.frame]
    columns = [(side * scale + view.width / 2 + edge * rim) for side, edge in zip(sides, (-1, 1), strict=True)]
    rows = [(view.middle - level) * scale + view.height / 2 + edge * rim
            for level, edge in zip(reversed(levels), (-1, 1), strict=True)]  # fmt: skip
    left, right = columns[0].floor().clamp(0, view.width), columns[1].ceil().clamp(0, view.width)
    top, bottom = rows[0].floor().clamp(0, view.height), rows[1].ceil().clamp(0, view.height)
    return torch.stack((left, top, right - left, bottom - top), -1).long()


def _chunks(canvas: Tensor, items: Items, box: Tensor, chosen: Tensor, samples: int) -> Iterator[tuple[Tensor, ...]]:
    """The pixels inside the boxes of the chosen items, some at a time: item, place in the canvas, x, y (P,) each.

    As many as a CPU's cache holds with `samples` rays each, or enough to fill a GPU.
    """
    size = (1 << 17 if canvas.device.type == "cpu" else 1 << 24) // samples
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


def _draw_shadows(canvas: Tensor, items: Items, view: View, chosen: Tensor) -> None:
    """Darkens the ground by the chosen items: a shadow lies between two circles, softer the higher the body floats."""
    if not chosen.any():
        return
    light = torch.tensor(LIGHT, dtype=torch.float64)
    fall = -light[[0, 2]] / light[1]  # how far a shadow lies from its body, for each unit of height
    half, y = items.half(), items.centre[:, 1]
    ends = half * per_kind(items.kind, "ends")
    near = items.centre[:, [0, 2]] + (y - ends)[:, None] * fall
    far = items.centre[:, [0, 2]] + (y + ends)[:, None] * fall
    foot, head = items.radius * per_kind(items.kind, "foot"), items.radius * per_kind(items.kind, "head")
    soft = 0.15 * items.radius + 0.15 * (y - half)
    sides, levels = [], []
    for point, radius in ((near, foot), (far, head)):
        x, y, z = _seen(items, view, torch.stack((point[:, 0], torch.zeros_like(half), point[:, 1]), -1))
        sides.append(_tangents(x, z, radius + soft))
        levels.append(_levels((y, y), z, radius + soft))
    sides, levels = ((torch.minimum(a[0], b[0]), torch.maximum(a[1], b[1])) for a, b in (sides, levels))
    box = _box(items, view, sides, levels, rim=0.0)
    along = far - near
    pan, scale = view.pan[items.clip, items.frame], view.focal * view.zoom[items.clip, items.frame]
    rows = (*near.T, *along.T, 1 / (along**2).sum(-1), foot, head - foot, soft, pan.cos(), pan.sin(), 1 / scale)
    table = torch.stack(rows).float().to(canvas.device)
    flat, stride = canvas.view(-1), canvas[0, 0].numel()
    for item, place, px, py in _chunks(canvas, items, box, chosen, 1):
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


def _draw_bodies(canvas: Tensor, items: Items, view: View, rays: Tensor, kind: str, chosen: Tensor) -> None:
    """Traces the chosen items, all of one kind, and lays them over what is there. rays: of `_rays`, then colours."""
    if not chosen.any():
        return
    x, y, z = _seen(items, view, items.centre)
    girth, half = items.radius * SOLIDS[kind].girth, items.half()
    levels = _tangents(y, z, half) if kind == "ball" else _levels((y - half, y + half), z, girth)
    box = _box(items, view, _tangents(x, z, girth), levels, SPREAD / 2)
    flat, stride = canvas.view(-1), canvas[0, 0].numel()
    rooks = torch.tensor([range(len(ROOKS)), ROOKS], device=canvas.device)
    right, down = (((rooks + 0.5) / len(ROOKS) - 0.5) * SPREAD)[:, :, None]
    for item, place, px, py in _chunks(canvas, items, box, chosen, len(ROOKS)):
        eye, light, shine, corner, across, along, colour = rays[:, item].split(3)
        ray = [corner[i] + px * across[i] + py * along[i] for i in range(3)]
        ray = [torch.addcmul(torch.addcmul(ray[i], right, across[i]), down, along[i]) for i in range(3)]
        hit, side, lit, gloss = TRACERS[kind](eye, ray, light, shine, SOLIDS[kind].half)
        tone = torch.where(side.abs() < STRIPE, MARK, 1.0) * (AMBIENT + DIFFUSE * lit.clamp(0, 1))
        gloss = GLOSS * gloss.clamp(0, 1).square().square().square().square()
        clear = 1 - hit.float().mean(0)
        tone, gloss = (torch.where(hit, part, 0.0).mean(0) for part in (tone, gloss))  # a miss may be no number
        for channel in range(3):
            at = place + channel * stride
            flat[at] = flat[at] * clear + colour[channel] * tone + gloss


def _rays(items: Items, view: View) -> Tensor:
    """(18,N): in each body's own frame, with its radius as 1, the eye, the directions of the light and the highlight,
    the ray through the frame's corner, and how it changes with a pixel to the right and with a pixel down.
    """
    pan, scale = view.pan[items.clip, items.frame], view.focal * view.zoom[items.clip, items.frame]
    zero, one = torch.zeros_like(pan), torch.ones_like(pan)
    eye = torch.tensor([0.0, EYE * view.tall, 0.0], dtype=torch.float64) - items.centre
    light = normalize(torch.tensor(LIGHT, dtype=torch.float64), dim=0).expand_as(eye)
    shine = normalize(light + normalize(eye, dim=-1), dim=-1)
    across = torch.stack((pan.cos(), zero, -pan.sin()), -1) / scale[:, None]
    down = torch.stack((zero, -one, zero), -1) / scale[:, None]
    forward = torch.stack((pan.sin(), zero + view.middle, pan.cos()), -1)
    corner = forward - across * (view.width / 2) - down * (view.height / 2)

    def own(vector: Tensor) -> Tensor:
        return torch.einsum("nij,nj->ni", items.turned, vector)

    size = items.radius[:, None]
    rows = (own(eye) / size, own(light), own(shine), own(corner), own(across), own(down))
    return torch.cat(rows, -1).T


# ------------------------------------------------------------------------------------------------------------ tracers
# A tracer takes the eye (3,P) and the rays (3,S,P) in the body's frame, the light and the highlight (3,P) there, and
# half the body's height. It gives (S,P) each: whether the ray hits, how far to the side of the mark's middle, and the
# surface's cosines to the light and to the highlight. A solid is where intervals along the ray overlap.


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    return torch.addcmul(torch.addcmul(a[0] * b[0], a[1], b[1]), a[2], b[2])


def _slab(eye: Tensor, ray: Tensor, half: float) -> tuple[Tensor, Tensor]:
    """Where a ray enters and leaves |coordinate| < half."""
    inverse = ray.reciprocal()
    middle, reach = -eye * inverse, half * inverse.abs()
    return middle - reach, middle + reach


def _trace_ball(eye: Tensor, ray: list[Tensor], light: Tensor, shine: Tensor, half: float) -> Traced:
    a, b, c = _dot(ray, ray), _dot(eye, ray), _dot(eye, eye) - 1
    root = b * b - a * c
    t = (-b - root.clamp(min=0).sqrt()) / a
    point = [torch.addcmul(eye[i], t, ray[i]) for i in range(3)]
    return root > 0, point[0], _dot(light, point), _dot(shine, point)


def _trace_cube(eye: Tensor, ray: list[Tensor], light: Tensor, shine: Tensor, half: float) -> Traced:
    slabs = [_slab(eye[i], ray[i], 1.0) for i in range(3)]
    enter = torch.maximum(torch.maximum(slabs[0][0], slabs[1][0]), slabs[2][0])
    leave = torch.minimum(torch.minimum(slabs[0][1], slabs[1][1]), slabs[2][1])
    x_face, y_face = enter == slabs[0][0], enter == slabs[1][0]
    cosines = []
    for vector in (light, shine):
        own = [vector[i] * -torch.sign(ray[i]) for i in range(3)]
        cosines.append(torch.where(x_face, own[0], torch.where(y_face, own[1], own[2])))
    return enter < leave, torch.addcmul(eye[0], enter, ray[0]), *cosines


def _trace_cylinder(eye: Tensor, ray: list[Tensor], light: Tensor, shine: Tensor, half: float) -> Traced:
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


def _trace_cone(eye: Tensor, ray: list[Tensor], light: Tensor, shine: Tensor, half: float) -> Traced:
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
    return hit, x / r, *lit


TRACERS = MappingProxyType({"ball": _trace_ball, "cube": _trace_cube, "cone": _trace_cone, "cylinder": _trace_cylinder})
