from __future__ import annotations

import pytest

from videodit.eval.scoring import Mark, accuracy, floor, wrong
from videodit.toy.grammar import evaluation_prompts
from videodit.toy.judge import truth
from videodit.toy.scenes import scene
from videodit.toy.scoring import compare
from videodit.toy.train_judge import mirrored


def marks(frames: int) -> Mark:
    return lambda seen, asked: compare(seen, asked, frames)


def scenes(kind: str, count: int) -> list:
    return [drawn for _, drawn in evaluation_prompts(kind, count, 3)]


@pytest.mark.parametrize("kind", ["ordinary", "composition", "two"])
def test_a_perfect_reading_is_all_right_and_shuffled_prompts_are_not(kind: str) -> None:
    drawn = scenes(kind, 60)
    reads = [truth(one) for one in drawn]
    assert set(accuracy(marks(17), reads, drawn).values()) == {1.0}
    chance = floor(marks(17), reads, drawn, seed=0)
    assert chance["all"] < 0.1 < chance["ground"] < 0.4


def test_each_attribute_is_scored_by_itself() -> None:
    drawn = scenes("ordinary", 40)
    for name, label in (("kind", "kind 1"), ("motion", "motion 1"), ("camera", "camera")):
        reads = [truth(one) | {label: "something else"} for one in drawn]
        shares = accuracy(marks(17), reads, drawn)
        assert shares.pop(name) == shares.pop("all") == 0
        assert set(shares.values()) == {1.0}


def test_a_single_frame_is_not_scored_on_what_moves() -> None:
    one = scenes("ordinary", 1)[0]
    assert set(compare(truth(one), one, 1)) == {"kind", "colour", "size", "ground"}
    two = scenes("two", 1)[0]
    assert not {"camera", "first motion", "second motion"} & set(compare(truth(two), two, 1))


def test_two_bodies_on_the_wrong_sides_break_only_the_relation() -> None:
    """Left of and right of: swapped bodies are recognised, but not where they should be."""
    for one in scenes("two", 60):
        if one.bodies[0].colour == one.bodies[1].colour or one.bodies[0].kind == one.bodies[1].kind:
            continue  # they might be taken for one another
        missed = wrong(compare(mirrored(truth(one)), one, 17))
        assert set(missed) == ({"relation"} if one.relation in ("left of", "right of") else set())


def test_depth_is_read_relative_to_the_first_body() -> None:
    one = next(s for s in scenes("two", 60) if s.relation == "behind")
    words = truth(one)
    assert not wrong(compare(words, one, 17))
    depth = {"left one nearer": "left one farther", "left one farther": "left one nearer"}[words["depth"]]
    assert wrong(compare(words | {"depth": depth}, one, 17)) == {"relation": ("behind", "in front of")}
    assert wrong(compare(words | {"depth": "level"}, one, 17))["relation"][0] == "behind"
    assert wrong(compare(words | {"bodies": "1"}, one, 17)) == {"bodies": ("2", "1")}


def test_mirroring_twice_is_nothing() -> None:
    for index in range(50):
        words = truth(scene(0, index, split="any"))
        assert mirrored(mirrored(words)) == words
        assert words["bodies"] == "1" or mirrored(words)["kind 1"] == words["kind 2"]
