from __future__ import annotations

import pytest
import torch

from videodit.shapes import VideoShape
from videodit.toy.grammar import evaluation_prompts
from videodit.toy.judge import Judge, _places, read, shown, truth, vocabulary
from videodit.toy.render import render
from videodit.toy.scenes import scene
from videodit.toy.train_judge import LABELS, mirrored, spoil, train_judge, validate


def small_judge() -> Judge:
    torch.manual_seed(0)
    return Judge(words=vocabulary(), width=8, maps=2, features=8).eval()


@pytest.mark.parametrize("shape", [(1, 64, 64), (9, 64, 64), (17, 96, 64), (5, 64, 96), (2, 24, 40)])
def test_the_judge_takes_any_shape_and_reads_known_words(shape: tuple[int, int, int]) -> None:
    judge = small_judge()
    words, features = read(judge, torch.rand(2, 3, *shape) * 2 - 1)
    assert features.shape == (2, 16)
    for one in words:
        assert set(one) == set(LABELS)
        assert all(word in vocabulary()[label.split()[0]] for label, word in one.items())


@pytest.mark.parametrize("bodies", ["1", "2"])
def test_a_mirror_image_reads_as_the_mirrored_words(bodies: str) -> None:
    """Both images are looked at, so neither side of the frame is favoured."""
    judge = small_judge()
    torch.nn.init.constant_(judge.heads["bodies"].bias[judge.words["bodies"].index(bodies)], 1000.0)
    clips = render([scene(0, index, split="any") for index in range(12)], frames=5, height=32, width=32)
    (words, _), (turned, _) = read(judge, clips), read(judge, clips.flip(-1))
    assert {one["bodies"] for one in words} == {bodies}
    assert [mirrored(one) for one in words] == turned
    assert turned != words


def test_a_clip_is_read_alike_whatever_its_batch() -> None:
    judge, clips = small_judge(), torch.rand(3, 3, 5, 32, 32) * 2 - 1
    together, alone = judge(clips), judge(clips[1:2])
    for label, scores in together.items():
        assert torch.allclose(scores[1:2], alone[label], atol=1e-5), label


def test_a_new_judge_looks_at_the_body() -> None:
    """Before any training the first slot follows what is vivid: its centre moves with a body that rolls."""
    scenes = (scene(0, index, split="any", bodies=1) for index in range(200))
    drawn = next(one for one in scenes if one.bodies[0].motion == "rolls left")
    places = _places(render([drawn], frames=17, height=64, width=64), 8)[0]
    weights = (8 * places[..., 4]).softmax(1)
    centre = (weights * places[..., 0]).sum(1) / 4  # in frame widths
    assert centre[0] - centre[-1] > 0.15


def test_truth_orders_bodies_from_left_to_right() -> None:
    for _, drawn in evaluation_prompts("two", 40, 0):
        words, bodies = truth(drawn), sorted(drawn.bodies, key=lambda body: body.x)
        assert [words["kind 1"], words["kind 2"]] == [body.kind for body in bodies]
        if drawn.relation in ("left of", "right of"):
            assert words["depth"] == "level"
            assert (drawn.bodies[0] is bodies[0]) == (drawn.relation == "left of")
        else:  # who is nearer stands lower on the screen
            assert words["depth"] == ("left one nearer" if bodies[0].row > bodies[1].row else "left one farther")


def test_a_single_frame_shows_nothing_that_moves() -> None:
    words = truth(scene(0, 0, split="any", bodies=2))
    assert set(words) == set(LABELS) == set(shown(words, 9))
    assert set(LABELS) - set(shown(words, 1)) == {"motion 1", "motion 2", "camera"}


def test_spoiled_clips_stay_near_and_a_third_is_untouched() -> None:
    clips = render([scene(0, i, split="any") for i in range(60)], frames=2, height=32, width=32)
    spoiled = spoil(clips, torch.Generator().manual_seed(0))
    assert spoiled.shape == clips.shape
    change = (spoiled - clips).abs().mean((1, 2, 3, 4))
    assert 0.15 < (change == 0).float().mean() < 0.5
    assert change.max() < 0.15


def test_training_is_repeatable_and_lowers_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("videodit.toy.train_judge.SHAPES", ((VideoShape(2, 32, 32), 1.0),))
    monkeypatch.setattr("videodit.toy.train_judge.CLIP_PIXELS", 2 * 32 * 32)
    again = lambda seed, index, split: scene(seed, index % 16, split=split)  # noqa: E731
    monkeypatch.setattr("videodit.toy.train_judge.scene", again)

    def run(steps: int) -> list[float]:
        losses: list[float] = []

        def report(step: int, average: Judge, by_label: dict[str, float]) -> None:
            losses.append(by_label["ground"] + by_label["kind 1"])

        train_judge(small_judge(), steps=steps, batch=4, lr=1e-2, seed=0, report=report)
        return losses

    assert run(3) == run(3)
    losses = run(40)
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])


def test_validation_counts_each_confusion_once() -> None:
    result = validate(small_judge(), VideoShape(3, 32, 32), clips=6, seed=9, split="train", bodies=1)
    shares = dict(result.accuracy)
    assert shares.pop("all") == 1 - len(result.mistakes) / 6
    assert set(shares) == {"kind 1", "colour 1", "size 1", "motion 1", "ground", "camera", "bodies"}
    missed = round(6 * sum(1 - share for share in shares.values()))
    assert sum(result.confusions.values()) == sum(len(wrong) for _, wrong in result.mistakes) == missed


def test_mirroring_exchanges_left_and_right() -> None:
    drawn = next(s for s in (scene(0, i, split="any", bodies=2) for i in range(99)) if s.relation == "behind")
    words = truth(drawn)
    other = mirrored(words)
    assert other["colour 2"] == words["colour 1"] and other["motion 1"] == words["motion 2"]
    assert {words["depth"], other["depth"]} == {"left one nearer", "left one farther"}
    assert mirrored(words | {"motion 1": "rolls left"})["motion 2"] == "rolls right"
