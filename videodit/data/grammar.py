"""What can be said about a toy scene: phrasings, synonyms, and what is left out now and then."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from videodit.data.toy import Body, Scene

CANONICAL = 0.4  # share of the captions that use the first word of each row and the first phrasing

# Ways to say a word: its own first, and most often.
SAY_KIND = MappingProxyType(
    {
        "ball": ("ball", "sphere"),
        "cube": ("cube", "box", "block"),
        "cone": ("cone",),
        "cylinder": ("cylinder", "tube"),
    }
)
SAY_COLOUR = MappingProxyType(
    {
        "red": ("red", "crimson", "scarlet"),
        "orange": ("orange", "tangerine"),
        "yellow": ("yellow", "lemon"),
        "green": ("green", "emerald"),
        "cyan": ("cyan", "turquoise"),
        "blue": ("blue", "cobalt"),
        "purple": ("purple", "violet"),
        "pink": ("pink", "rose"),
    }
)
SAY_SIZE = MappingProxyType(
    {"small": ("small", "little", "tiny"), "medium": ("medium", "medium sized"), "large": ("large", "big", "huge")}
)
SAY_GROUND = MappingProxyType(
    {
        "gray": ("gray", "grey"),
        "white": ("white", "snowy"),
        "black": ("black", "dark"),
        "beige": ("beige", "sandy"),
        "brown": ("brown", "earthy"),
    }
)
SAY_MOTION = MappingProxyType(
    {
        "rolls left": ("rolls left", "rolls to the left", "moves left"),
        "rolls right": ("rolls right", "rolls to the right", "moves right"),
        "comes nearer": ("comes nearer", "comes closer", "approaches"),
        "goes away": ("goes away", "moves away", "recedes"),
        "bounces": ("bounces", "hops", "jumps up and down"),
        "spins": ("spins", "rotates", "turns around"),
        "grows": ("grows", "gets bigger", "swells"),
        "shrinks": ("shrinks", "gets smaller"),
        "circles": ("circles", "moves in a circle", "goes around"),
        "stays still": ("stays still", "rests", "does not move"),
        "falls": ("falls", "falls down", "drops"),
    }
)
SAY_CAMERA = MappingProxyType(
    {
        "still": ("stays still",),
        "pans left": ("pans left", "turns left"),
        "pans right": ("pans right", "turns right"),
        "zooms in": ("zooms in",),
        "zooms out": ("zooms out",),
    }
)
SAY_RELATION = MappingProxyType(
    {
        "left of": ("left of", "to the left of"),
        "right of": ("right of", "to the right of"),
        "behind": ("behind",),
        "in front of": ("in front of",),
    }
)

Say = Callable[[tuple[str, ...]], str]  # picks one of several ways


def describe(scene: Scene, rng: Random, left_out: str | None, *, asides: bool) -> str:
    """Words for a scene, in lower case with no punctuation but commas.

    left_out: "size", "colour", "motion", "ground" or None. asides: may mention the sky, and a camera that stays still.
    """
    canonical = rng.random() < CANONICAL

    def say(choices: tuple[str, ...]) -> str:
        return choices[0] if canonical or rng.random() < 0.5 else rng.choice(choices)

    first, moves = scene.bodies[0], ""
    if left_out != "motion":
        moves = say(SAY_MOTION[first.motion])
        if first.kind != "ball" and moves.startswith("rolls") and rng.random() < 0.7:
            moves = moves.replace("rolls", "slides")  # what has no round side slides, though people say it rolls
    noun = [] if canonical else ["floor"]
    ground = "" if left_out == "ground" else f"{say(SAY_GROUND[scene.ground])} {say(('ground', *noun))}"
    if asides and not canonical and ground and rng.random() < 0.15:
        ground += f" under {_article(scene.sky)} sky"
    names = [_name(body, say, left_out) for body in scene.bodies]
    if len(scene.bodies) == 2:
        words = _two(names, say(SAY_RELATION[str(scene.relation)]), moves, ground, 0 if canonical else rng.randrange(3))
    else:
        words = _one(names[0], moves, ground, 0 if canonical else rng.randrange(5))
    if scene.camera != "still" or (asides and rng.random() < 0.05):
        joint = ", the camera" if canonical else rng.choice((", the camera", " while the camera", " as the camera"))
        words += f"{joint} {say(SAY_CAMERA[scene.camera])}"
    return words


def _name(body: Body, say: Say, left_out: str | None) -> str:
    parts = [
        "" if left_out == "size" else say(SAY_SIZE[body.size]),
        "" if left_out == "colour" else say(SAY_COLOUR[body.colour]),
        say(SAY_KIND[body.kind]),
    ]
    return " ".join(part for part in parts if part)


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _one(name: str, moves: str, ground: str, phrasing: int) -> str:
    it, on = _article(name), f"on {_article(ground)}" if ground else ""
    phrasings = (
        f"{it} {moves} {on}",
        f"{on}, {it} {moves}" if on else f"{it} {moves}",
        f"{it} {on} {moves}",
        f"there is {it} {on}, it {moves}" if moves else f"there is {it} {on}",
        ", ".join(part for part in (name, moves, ground) if part),
    )
    return " ".join(phrasings[phrasing].split()).replace(" ,", ",")


def _two(names: list[str], relation: str, moves: str, ground: str, phrasing: int) -> str:
    it, other = _article(names[0]), _article(names[1])
    on = f"on {_article(ground)}" if ground else ""
    phrasings = (
        f"{it} {moves} {relation} {other} {on}",
        f"{on}, {it} {moves} {relation} {other}" if on else f"{it} {moves} {relation} {other}",
        f"{it} {relation} {other} {moves} {on}",
    )
    return " ".join(phrasings[phrasing].split()).replace(" ,", ",")
