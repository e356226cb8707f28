"""Scenes of the toy world: a few words (kind, colour, motion, ground, camera …) and the numbers that place them.

Scene i is a pure function of (seed, i, split). `grammar` describes it in many ways, `render` draws it.

Some (kind, colour) and (kind, motion) pairs are never drawn for training. Every single word is, so a model that is
asked for such a pair must compose what it learnt apart: split "composition" asks for exactly those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

from videodit.errors import InputError

KINDS = ("ball", "cube", "cone", "cylinder")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SIZES = ("small", "medium", "large")
MOTIONS = (
    "rolls left", "rolls right", "comes nearer", "goes away", "bounces", "spins",
    "grows", "shrinks", "circles", "stays still", "falls",
)  # fmt: skip
GROUNDS = ("gray", "white", "black", "beige", "brown")
SKIES = ("clear", "cloudy", "evening")
CAMERAS = ("still", "pans left", "pans right", "zooms in", "zooms out")
RELATIONS = ("left of", "right of", "behind", "in front of")
SPLITS = ("train", "composition", "any")

HELD_OUT_COLOURS = frozenset({("ball", "purple"), ("cube", "yellow"), ("cone", "blue"), ("cylinder", "green")})
HELD_OUT_MOTIONS = frozenset(
    {("ball", "grows"), ("cube", "falls"), ("cone", "rolls left"), ("cylinder", "bounces"), ("cone", "comes nearer")}
)

# Motions that stay readable, and in the frame, while the camera does this.
CAMERA_MOTIONS = MappingProxyType(
    {
        "still": MOTIONS,
        "pans left": ("stays still", "spins", "bounces", "grows", "shrinks"),
        "pans right": ("stays still", "spins", "bounces", "grows", "shrinks"),
        "zooms in": ("stays still", "spins"),
        "zooms out": ("stays still", "spins"),
    }
)
TWO_BODY_MOTIONS = ("stays still", "spins", "bounces", "shrinks", "falls")  # of the first body; the second stays still
CAMERA_MOVES = 0.2  # share of the one-body scenes
# How often a motion is drawn, to 1 for the others: less where moving cameras and second bodies draw it anyway.
MOTION_WEIGHTS = MappingProxyType({"stays still": 0.35, "spins": 0.5, "bounces": 0.7, "grows": 0.7, "shrinks": 0.6})
TWO_BODIES = 0.25  # share of the scenes
AREAS = MappingProxyType({"small": 0.035, "medium": 0.062, "large": 0.110})  # share of frame 1, give or take 6 %
ROWS = MappingProxyType(  # where a body stands in frame 1, in frame heights from the top
    {
        "rolls left": 0.74, "rolls right": 0.74, "comes nearer": 0.59, "goes away": 0.84, "bounces": 0.82,
        "spins": 0.73, "grows": 0.75, "shrinks": 0.76, "circles": 0.80, "stays still": 0.73, "falls": 0.82,
    }
)  # fmt: skip


@dataclass(frozen=True)
class Body:
    """One thing in a scene: four words and the numbers that place it. Raises InputError at an unknown word."""

    kind: str
    colour: str
    size: str
    motion: str
    x: float  # its middle in frame 1 (of its way, if it rolls), in frame widths to the right of the frame's middle
    row: float  # where it stands in frame 1, in frame heights from the top
    area: float  # what it covers of frame 1, as a share of the frame
    yaw: float  # radians about the vertical in frame 1
    speed: float  # times the motion's usual speed

    def __post_init__(self) -> None:
        check_word("kind", self.kind, KINDS)
        check_word("colour", self.colour, COLOURS)
        check_word("size", self.size, SIZES)
        check_word("motion", self.motion, MOTIONS)


@dataclass(frozen=True)
class Scene:
    """One or two bodies on a ground under a sky, seen by a camera. Raises InputError at an unknown word."""

    bodies: tuple[Body, ...]
    ground: str
    sky: str
    camera: str
    relation: str | None  # of the first body to the second

    def __post_init__(self) -> None:
        check_word("ground", self.ground, GROUNDS)
        check_word("sky", self.sky, SKIES)
        check_word("camera", self.camera, CAMERAS)
        if len(self.bodies) not in (1, 2):
            raise InputError(f"a toy scene has 1 or 2 bodies, not {len(self.bodies)}")
        if len(self.bodies) == 2:
            check_word("relation", self.relation, RELATIONS)


def scene(seed: int, index: int, *, split: str, bodies: int | None = None) -> Scene:
    """Scene `index` of an endless set: a pure function of its arguments.

    split: "train" never has a held-out pair, "composition" has one body with at least one, "any" draws freely.
    bodies: 1, 2, or None for either. Raises InputError at an unknown split or another count of bodies.
    """
    return draw(Random(f"toy-{split}-{seed}-{index}"), split, bodies)


def check_word(what: str, word: str | None, known: Sequence[str]) -> None:
    """Raise InputError, which names what it is, for a word that is not among those known."""
    if word not in known:
        raise InputError(f"unknown {what} {word!r} in the toy world: it knows {', '.join(known)}")


def draw(rng: Random, split: str, bodies: int | None) -> Scene:
    """Draw a scene of a split with this many bodies (None: one or two): see `scene`."""
    check_word("split", split, SPLITS)
    if bodies not in (None, 1, 2) or (split == "composition" and bodies == 2):
        raise InputError(f"bodies={bodies} with split={split}: bodies must be 1 or 2, and 1 for composition")
    count = bodies or (2 if split != "composition" and rng.random() < TWO_BODIES else 1)
    ground, sky = rng.choice(GROUNDS), rng.choice(SKIES)
    if count == 1:
        camera = rng.choice(CAMERAS[1:]) if rng.random() < CAMERA_MOVES else "still"
        kind, colour, motion = _draw_words(rng, split, CAMERA_MOTIONS[camera])
        if motion not in CAMERA_MOTIONS[camera]:  # a held-out motion that needs a still camera
            camera = "still"
        drift = {"pans left": -0.13, "pans right": 0.13}.get(camera, 0.0)  # a pan carries the body across the middle
        reach = 0.01 if motion in ("rolls left", "rolls right", "circles") or drift else 0.06
        x = drift + rng.uniform(-reach, reach)
        return Scene((_body(rng, kind, colour, motion, rng.choice(SIZES), x, ROWS[motion]),), ground, sky, camera, None)
    return Scene(*_draw_two(rng, split, ground, sky))


def _draw_two(rng: Random, split: str, ground: str, sky: str) -> tuple[tuple[Body, ...], str, str, str, str]:
    """Two bodies beside or behind each other: apart enough to be told apart, so the front one is never large."""
    relation = rng.choice(RELATIONS)
    side = rng.choice((-1, 1)) if relation in ("behind", "in front of") else -1 if relation == "left of" else 1
    distance, rows = {"behind": (0.17, (0.60, 0.84)), "in front of": (0.17, (0.84, 0.60))}.get(
        relation, (0.235, (0.76, 0.76))
    )
    fits = [
        (first, second)
        for first in SIZES
        for second in SIZES
        if (first, second) != ("large", "large")
        and not (relation == "behind" and second == "large")
        and not (relation == "in front of" and first == "large")
    ]
    sizes = rng.choice(fits)
    drawn: list[Body] = []
    for place, motions in enumerate((TWO_BODY_MOTIONS, ("stays still",))):
        kind, colour, motion = _draw_words(rng, split, motions, other_than=drawn[0].colour if drawn else None)
        x = (1 - 2 * place) * side * distance + rng.uniform(-0.015, 0.015)
        drawn.append(_body(rng, kind, colour, motion, sizes[place], x, rows[place]))
    return tuple(drawn), ground, sky, "still", relation


def _draw_words(rng: Random, split: str, motions: Sequence[str], other_than: str | None = None) -> tuple[str, str, str]:
    """A kind, a colour and a motion that the split allows; `motions` may give way to a held-out one."""
    if split == "composition":
        if rng.random() < 0.5:
            kind, colour = rng.choice(sorted(HELD_OUT_COLOURS))
            return kind, colour, _draw_motion(rng, motions)
        kind, motion = rng.choice(sorted(HELD_OUT_MOTIONS))
        return kind, rng.choice(COLOURS), motion
    kind = rng.choice(KINDS)
    free = split == "any"
    colours = [colour for colour in COLOURS if colour != other_than]
    colours = [colour for colour in colours if free or (kind, colour) not in HELD_OUT_COLOURS]
    allowed = [motion for motion in motions if free or (kind, motion) not in HELD_OUT_MOTIONS]
    return kind, rng.choice(colours), _draw_motion(rng, allowed)


def _draw_motion(rng: Random, motions: Sequence[str]) -> str:
    return rng.choices(motions, [MOTION_WEIGHTS.get(motion, 1.0) for motion in motions])[0]


def _body(rng: Random, kind: str, colour: str, motion: str, size: str, x: float, row: float) -> Body:
    return Body(
        kind=kind,
        colour=colour,
        size=size,
        motion=motion,
        x=x,
        row=row + rng.uniform(-0.015, 0.015),
        area=AREAS[size] * rng.uniform(0.94, 1.06),
        yaw=rng.uniform(-0.15, 0.15),
        speed=rng.uniform(0.88, 1.12),
    )
