"""Whether a clip shows what its prompt asked for: what the judge read, compared with the scene.

"words by label" are as `judge.truth` gives them: "ground", "camera", "bodies", per body from left to right
"kind 1" ..., and of two bodies "depth".
"""

from __future__ import annotations

from collections.abc import Mapping

from videodit.eval.scoring import Marks
from videodit.toy.judge import ATTRIBUTES, DEPTHS, MOVING, OF_A_BODY
from videodit.toy.scenes import Scene


def compare(read: Mapping[str, str], scene: Scene, frames: int) -> Marks:
    """The words asked for and read, by attribute, of what a clip of that many frames can show.

    One body: the leftmost is compared. Two bodies: each of the prompt's is compared with the one that it fits better
    ("first kind", ..., "second motion"), and "relation" says whether they then stand as asked.
    """
    asked = {name: getattr(scene, name) for name in ("ground", "camera")}
    marks = {name: (word, read[name]) for name, word in asked.items()}
    if len(scene.bodies) == 1:
        marks |= _body(read, scene, 0, 1, "")
        marks = {name: marks[name] for name in ATTRIBUTES}
    else:
        fits = [_pair(read, scene, left) for left in (0, 1)]
        marks |= max(fits, key=lambda fit: sum(word == seen for word, seen in fit.values()))
        marks["bodies"] = ("2", read["bodies"])
    return {name: mark for name, mark in marks.items() if frames > 1 or name.split()[-1] not in MOVING}


def _body(read: Mapping[str, str], scene: Scene, index: int, place: int, prefix: str) -> Marks:
    body = scene.bodies[index]
    return {f"{prefix}{name}": (getattr(body, name), read[f"{name} {place}"]) for name in OF_A_BODY}


def _pair(read: Mapping[str, str], scene: Scene, left: int) -> Marks:
    """The marks if the scene's body `left` is the one read on the left."""
    marks = _body(read, scene, 0, 1 + left, "first ") | _body(read, scene, 1, 2 - left, "second ")
    beside = ("left of", "right of")[left]
    depth = {DEPTHS[0]: ("in front of", "behind"), DEPTHS[1]: (beside, beside), DEPTHS[2]: ("behind", "in front of")}
    asked, seen = str(scene.relation), depth[read["depth"]][left]
    return marks | {"relation": (asked, beside if asked == beside else seen)}
