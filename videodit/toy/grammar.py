"""What can be said about a toy scene: phrasings, synonyms, and what is left out now and then."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from types import MappingProxyType

from videodit.toy.scenes import Body, Scene, check_word, draw

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

KINDS_OF_PROMPT = ("ordinary", "composition", "two")
Say = Callable[[tuple[str, ...]], str]  # picks one of several ways


def caption(scene: Scene, seed: int, index: int) -> str:
    """One of several phrasings of the scene, in lower case: a pure function of its arguments.

    About one in ten leaves out the size, the colour, the motion or the ground. A still camera is rarely mentioned.
    """
    rng = Random(f"toy-caption-{seed}-{index}")
    left_out = rng.choice(("size", "colour", "motion", "ground")) if rng.random() < 0.1 else None
    return describe(scene, rng, left_out, asides=True)


def evaluation_prompts(kind_of_prompt: str, count: int, seed: int) -> list[tuple[str, Scene]]:
    """`count` (prompt, scene) pairs to score a model with; the prompt states every attribute of the scene but the sky.

    kind_of_prompt: "ordinary" (one body, like the training ones), "composition" (one body, a held-out pair) or
    "two" (two bodies, like the training ones). Never a scene that `scene` gives: they are drawn from other seeds.
    """
    check_word("kind of prompt", kind_of_prompt, KINDS_OF_PROMPT)
    split = "composition" if kind_of_prompt == "composition" else "train"
    pairs = []
    for index in range(count):
        rng = Random(f"toy-evaluation-{kind_of_prompt}-{seed}-{index}")
        drawn = draw(rng, split, 2 if kind_of_prompt == "two" else 1)
        pairs.append((describe(drawn, rng, left_out=None, asides=False), drawn))
    return pairs


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
