"""The toy world's words: what is drawn, what is held out, what is said."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace

import pytest
import torch

from videodit.errors import InputError
from videodit.toy import grammar
from videodit.toy import scenes as toy
from videodit.toy.grammar import caption, evaluation_prompts
from videodit.toy.scenes import scene
from videodit.toy.world import ToyWorld

MANY = 4000


@pytest.fixture(scope="module")
def training() -> list[toy.Scene]:
    return [scene(0, index, split="train") for index in range(MANY)]


def held_out(body: toy.Body) -> bool:
    return (body.kind, body.colour) in toy.HELD_OUT_COLOURS or (body.kind, body.motion) in toy.HELD_OUT_MOTIONS


def test_scenes_are_pure_functions_of_seed_and_index():
    assert scene(3, 7, split="train") == scene(3, 7, split="train")
    drawn = [scene(seed, index, split="train") for seed in (0, 1) for index in range(200)]
    assert len(set(drawn)) == len(drawn)
    assert caption(drawn[0], 0, 5) == caption(drawn[0], 0, 5)


def test_training_scenes_have_no_held_out_pair(training):
    assert not any(held_out(body) for drawn in training for body in drawn.bodies)


def test_a_tenth_of_the_pairs_is_held_out_but_no_pair_of_the_demo():
    assert len(toy.HELD_OUT_COLOURS) >= 0.1 * len(toy.KINDS) * len(toy.COLOURS)
    assert len(toy.HELD_OUT_MOTIONS) >= 0.1 * len(toy.KINDS) * len(toy.MOTIONS)
    assert ("ball", "red") not in toy.HELD_OUT_COLOURS and ("ball", "rolls right") not in toy.HELD_OUT_MOTIONS


def test_every_value_is_trained_often(training):
    bodies = [body for drawn in training for body in drawn.bodies]
    for field, words in (("kind", toy.KINDS), ("colour", toy.COLOURS), ("size", toy.SIZES), ("motion", toy.MOTIONS)):
        counts = Counter(getattr(body, field) for body in bodies)
        assert set(counts) == set(words)
        assert min(counts.values()) > 0.4 * len(bodies) / len(words), counts
    for field, words in (("ground", toy.GROUNDS), ("sky", toy.SKIES), ("camera", toy.CAMERAS)):
        counts = Counter(getattr(drawn, field) for drawn in training)
        assert set(counts) == set(words) and min(counts.values()) > 0.03 * MANY, counts
    assert {drawn.relation for drawn in training} == {None, *toy.RELATIONS}


def test_composition_scenes_have_one_body_with_a_held_out_pair():
    drawn = [scene(0, index, split="composition") for index in range(500)]
    assert all(len(one.bodies) == 1 and held_out(one.bodies[0]) for one in drawn)
    assert all(one.bodies[0].motion in toy.CAMERA_MOTIONS[one.camera] for one in drawn)
    pairs = {(one.bodies[0].kind, one.bodies[0].colour) for one in drawn}
    pairs |= {(one.bodies[0].kind, one.bodies[0].motion) for one in drawn}
    assert toy.HELD_OUT_COLOURS | toy.HELD_OUT_MOTIONS <= pairs


def test_the_number_of_bodies_can_be_forced():
    for count in (1, 2):
        drawn = [scene(0, index, split="train", bodies=count) for index in range(50)]
        assert all(len(one.bodies) == count for one in drawn)
    assert all(one.bodies[0].colour != one.bodies[1].colour for one in drawn)


def test_captions_name_what_is_drawn(training):
    said = {"kind": 0, "colour": 0, "size": 0, "motion": 0, "ground": 0}
    for index, drawn in enumerate(training):
        words, body = caption(drawn, 0, index), drawn.bodies[0]
        assert words == words.lower() and set(words) <= set("abcdefghijklmnopqrstuvwxyz ,")
        assert 3 <= len(words.split()) <= 28
        for field in said:
            said[field] += mentions(words, drawn, body, field)
        if drawn.camera != "still":
            assert any(f"camera {way}" in words for way in grammar.SAY_CAMERA[drawn.camera])
    assert said.pop("kind") == MANY
    assert all(0.95 * MANY < count < MANY for count in said.values()), said


def mentions(words: str, drawn: toy.Scene, body: toy.Body, field: str) -> bool:
    """Whether one of the grammar's ways to say an attribute is in the words."""
    table = getattr(grammar, f"SAY_{field.upper()}")
    ways = table[drawn.ground if field == "ground" else getattr(body, field)]
    ways = (*ways, *(way.replace("rolls", "slides") for way in ways))
    return any(f" {way} " in f" {words.replace(',', '')} " for way in ways)


def test_the_vocabulary_is_small_and_stays_within_the_tables(training):
    words = {word for index, drawn in enumerate(training) for word in caption(drawn, 0, index).replace(",", "").split()}
    assert len(words) < 150


def test_the_demo_prompt_is_the_commonest_phrasing_of_its_scene(training):
    body = replace(training[0].bodies[0], kind="ball", colour="red", size="large", motion="rolls right")
    drawn = toy.Scene((body,), "gray", "clear", "still", None)
    said = Counter(caption(drawn, 0, index) for index in range(400))
    assert said.most_common(1)[0][0] == "a large red ball rolls right on a gray ground"
    assert len(said) > 40


@pytest.mark.parametrize("kind_of_prompt", ["ordinary", "composition", "two"])
def test_evaluation_prompts_mention_everything_and_are_never_trained(kind_of_prompt, training):
    pairs = evaluation_prompts(kind_of_prompt, 100, 0)
    assert pairs == evaluation_prompts(kind_of_prompt, 100, 0)
    assert not {drawn for _, drawn in pairs} & set(training)
    for words, drawn in pairs:
        assert len(drawn.bodies) == (2 if kind_of_prompt == "two" else 1)
        assert any(map(held_out, drawn.bodies)) == (kind_of_prompt == "composition")
        assert all(mentions(words, drawn, drawn.bodies[0], field) for field in ("kind", "colour", "size", "motion"))
        assert all(mentions(words, drawn, drawn.bodies[-1], field) for field in ("kind", "colour", "size", "ground"))
        assert ("camera" in words) == (drawn.camera != "still") and "sky" not in words


def test_the_dataset_renders_the_same_clip_each_time():
    world = ToyWorld(seed=0, size=4, frames=5, height=32, width=40, fps=8.0)
    sample, again = world[2], pickle.loads(pickle.dumps(world))[2]
    assert sample.clip.shape == (3, 5, 32, 40) and torch.equal(sample.clip, again.clip)
    assert (sample.caption, sample.key, sample.fps) == (again.caption, "toy-0-train-2", 8.0)
    assert len(list(world)) == 4
    together = world.__getitems__([3, 2])
    torch.testing.assert_close(together[1].clip, sample.clip, atol=1e-5, rtol=0)
    assert together[1].caption == sample.caption and together[0].key == "toy-0-train-3"


def test_unknown_words_are_input_errors():
    body = scene(0, 0, split="train").bodies[0]
    for field in ("kind", "colour", "size", "motion"):
        with pytest.raises(InputError, match=f"unknown {field} 'wooden'.* knows .*{getattr(body, field)}"):
            replace(body, **{field: "wooden"})
    with pytest.raises(InputError, match="unknown ground"):
        toy.Scene((body,), "wooden", "clear", "still", None)
    with pytest.raises(InputError, match="unknown relation"):
        toy.Scene((body, body), "gray", "clear", "still", "above")
    with pytest.raises(InputError, match="unknown split"):
        scene(0, 0, split="test")
    with pytest.raises(InputError, match="bodies=3"):
        scene(0, 0, split="train", bodies=3)
    with pytest.raises(InputError, match="unknown kind of prompt"):
        evaluation_prompts("hard", 1, 0)
    with pytest.raises(InputError, match="at least 1 frame"):
        ToyWorld(seed=0, size=1, frames=0, height=32, width=32, fps=8.0)
