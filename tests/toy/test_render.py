"""The toy world's pixels: what is promised about sizes, colours and motions is measured on rendered frames."""

from __future__ import annotations

import colorsys
import itertools
import math

import pytest
import torch
from torch import Tensor

from videodit.errors import InputError
from videodit.toy import scenes as toy
from videodit.toy.motion import MOTION_RATES, SOLIDS, items_of, view_of
from videodit.toy.render import render
from videodit.toy.scenes import Body, Scene, scene

SHAPES = [(64, 64), (96, 64), (64, 96)]  # height, width


def one(kind="ball", colour="red", size="large", motion="stays still", ground="gray", sky="clear", camera="still"):
    """A scene of one body in the middle of what its words allow."""
    body = Body(kind, colour, size, motion, 0.0, toy.ROWS[motion], toy.AREAS[size], 0.0, 1.0)
    return Scene((body,), ground, sky, camera, None)


def hue_and_saturation(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Degrees and [0,1] of clips (B,3,...) in [-1,1]."""
    values = ((pixels + 1) / 2).transpose(0, 1).flatten(1).T.tolist()
    hsv = torch.tensor([colorsys.rgb_to_hsv(*value) for value in values]).T
    shape = pixels[:, 0].shape
    return hsv[0].reshape(shape) * 360, hsv[1].reshape(shape)


def mask(clips: Tensor) -> Tensor:
    """Where a body is: more saturated than any ground or sky may be."""
    low, high = ((clips + 1) / 2).amin(1), ((clips + 1) / 2).amax(1)
    return (high - low) / high.clamp(min=1e-3) > 0.42


def middle(where: Tensor) -> Tensor:
    """Centroid (x, y) in shares of the frame, of masks (...,H,W)."""
    height, width = where.shape[-2:]
    x, y = (torch.arange(width) + 0.5) / width, (torch.arange(height) + 0.5) / height
    weight = where.float()
    sums = torch.stack(((weight * x).sum((-1, -2)), (weight * y[:, None]).sum((-1, -2))), -1)
    return sums / weight.sum((-1, -2))[..., None]


def test_tables_know_every_word():
    assert set(MOTION_RATES) == set(toy.MOTIONS) == set(toy.ROWS) and set(SOLIDS) == set(toy.KINDS)
    render([one(k, c) for k, c in itertools.product(toy.KINDS, toy.COLOURS)], frames=1, height=8, width=8)
    render([one(ground=g, sky=s) for g, s in itertools.product(toy.GROUNDS, toy.SKIES)], frames=1, height=8, width=8)


def test_a_clip_is_float32_in_range_of_any_shape_and_the_same_in_any_batch():
    scenes = [scene(0, index, split="any") for index in range(24)]
    clips = render(scenes, frames=5, height=33, width=47)
    assert clips.dtype == torch.float32 and clips.shape == (24, 3, 5, 33, 47)
    assert clips.isfinite().all() and clips.abs().max() <= 1
    alone = torch.cat([render([each], frames=5, height=33, width=47) for each in scenes])
    torch.testing.assert_close(alone, clips, atol=1e-5, rtol=0)


def test_a_short_clip_is_the_beginning_of_a_long_one():
    scenes = [scene(1, index, split="any") for index in range(16)]
    long = render(scenes, frames=33, height=32, width=32)
    for frames in (1, 9, 17):
        torch.testing.assert_close(render(scenes, frames=frames, height=32, width=32), long[:, :, :frames])


def test_time_is_in_seconds():
    scenes = [one(motion=motion) for motion in toy.MOTIONS]
    slow, fast = (render(scenes, frames=n, height=32, width=32, fps=f) for n, f in ((5, 8.0), (9, 16.0)))
    torch.testing.assert_close(slow, fast[:, :, ::2])


def test_rendering_stays_on_its_device():
    """The meta device refuses any tensor of another one, so this stands for a GPU."""
    scenes = [one(kind, camera=camera) for kind, camera in zip(toy.KINDS, toy.CAMERAS, strict=False)]
    assert render(scenes, frames=3, height=32, width=32, device="meta").device.type == "meta"


@pytest.mark.parametrize("height, width", SHAPES)
def test_sizes_are_shares_of_the_first_frame(height, width):
    words = list(itertools.product(toy.SIZES, toy.KINDS, toy.MOTIONS))
    clips = render([one(k, "red", s, m) for s, k, m in words], frames=1, height=height, width=width)
    covered = mask(clips).float().mean((1, 2, 3)).reshape(len(toy.SIZES), -1)
    wanted = torch.tensor([toy.AREAS[size] for size in toy.SIZES])[:, None]
    assert ((covered / wanted - 1).abs() < 0.15).all()
    assert covered[0].min() > 0.02 and covered[2].min() > 0.06  # a large body is promised 4 %
    assert (covered[1:].amin(1) > 1.3 * covered[:-1].amax(1)).all()


def test_named_hues_are_where_they_should_be():
    named = {"red": 0, "green": 120, "blue": 223, "yellow": 58}
    for kind in toy.KINDS:
        hue, saturation = hue_and_saturation(render([one(kind, c) for c in named], frames=1, height=64, width=64))
        for row, wanted in enumerate(named.values()):
            body = saturation[row] > 0.6
            away = (hue[row][body] - wanted + 180) % 360 - 180
            assert away.abs().median() < 4 and away.abs().quantile(0.95) < 10
            assert saturation[row][body].median() > 0.8 and saturation[row][body].quantile(0.25) >= 0.7


def test_colours_are_far_apart():
    clips = render([one("cube", colour) for colour in toy.COLOURS], frames=1, height=64, width=64)
    inside = mask(clips).all(0)
    means = torch.stack([clip[inside.expand_as(clip)].view(3, -1).mean(1) for clip in clips]) / 2
    apart = torch.cdist(means, means) + torch.eye(len(means)) * 9
    assert apart.min() > 0.25, apart


def test_ground_and_sky_are_pale():
    scenes = [one(size="small", ground=ground, sky=sky) for ground in toy.GROUNDS for sky in toy.SKIES]
    _, saturation = hue_and_saturation(render(scenes, frames=1, height=64, width=64)[..., :20])  # beside the body
    assert saturation.max() <= 0.35
    assert toy.GROUNDS[0] == "gray" and saturation[: len(toy.SKIES), :, 32:].max() < 0.02


@pytest.mark.parametrize("height, width", SHAPES)
@pytest.mark.parametrize("speed", [0.88, 1.12])
def test_what_rolls_crosses_a_quarter_to_a_half_of_the_width_and_stays_in_the_frame(height, width, speed):
    words = list(itertools.product(toy.KINDS, toy.SIZES, ("rolls left", "rolls right")))
    scenes = []
    for kind, size, motion in words:
        body = Body(kind, "red", size, motion, 0.01, toy.ROWS[motion], 1.08 * toy.AREAS[size], 0.1, speed)
        scenes.append(Scene((body,), "gray", "clear", "still", None))
    where = mask(render(scenes, frames=5, height=height, width=width, fps=1.0))  # 4 seconds, as 33 frames at 8 fps
    crossed = middle(where)[:, 2, 0] - middle(where)[:, 0, 0]  # frame 17 comes after 2 seconds
    sign = torch.tensor([-1.0 if motion == "rolls left" else 1.0 for *_, motion in words])
    assert (crossed * sign > 0.25).all() and (crossed * sign < 0.5).all()
    assert not where[..., 0].any() and not where[..., -1].any()


@pytest.mark.parametrize("height, width", SHAPES)
def test_bodies_stay_in_view(height, width):
    scenes = [scene(2, index, split="any") for index in range(32)]
    seen = mask(render(scenes, frames=9, height=height, width=width, fps=2.0)).float().mean((2, 3))
    assert (seen > 0.005).all()
    rest = [one(kind, "red", "large", motion) for kind in toy.KINDS for motion in toy.MOTIONS]
    where = mask(render(rest, frames=5, height=height, width=width, fps=2.0))
    edge = where[:, :, 0].sum(-1) + where[:, :, -1].sum(-1) + where[..., 0].sum(-1) + where[..., -1].sum(-1)
    assert edge.max() <= 0.1 * width  # a tip may leave the frame, no more


def test_motions_do_what_they_say():
    kinds = {motion: one("cube", motion=motion) for motion in toy.MOTIONS}
    clips = dict(zip(kinds, render(list(kinds.values()), frames=17, height=64, width=64), strict=True))
    where = {motion: mask(clip[None])[0] for motion, clip in clips.items()}
    place = {motion: middle(seen) for motion, seen in where.items()}
    area = {motion: seen.float().mean((-1, -2)) for motion, seen in where.items()}
    foot = {motion: (seen.any(-1) * torch.arange(64)).amax(-1) for motion, seen in where.items()}
    assert area["grows"][-1] > 2 * area["grows"][0] and area["comes nearer"][-1] > 1.8 * area["comes nearer"][0]
    assert area["shrinks"][-1] < 0.4 * area["shrinks"][0] and area["goes away"][-1] < 0.45 * area["goes away"][0]
    # What only changes its size keeps its foot, give or take its own depth; what changes its distance does not.
    assert foot["comes nearer"][-1] - foot["comes nearer"][0] > 12 > 6 > foot["grows"][-1] - foot["grows"][0]
    assert foot["goes away"][0] - foot["goes away"][-1] > 12 > 6 > foot["shrinks"][0] - foot["shrinks"][-1]
    assert place["falls"][8, 1] - place["falls"][0, 1] > 0.2
    assert torch.equal(clips["falls"][:, 8], clips["falls"][:, -1])
    hops = place["bounces"][:, 1]
    assert (hops[[0, 6, 12]] - hops.min()).min() > 0.15 and hops[[3, 9, 15]].max() - hops.min() < 0.02
    assert place["circles"][:, 0].max() - place["circles"][:, 0].min() > 0.2
    torch.testing.assert_close(place["circles"][0], place["circles"][16], atol=0.01, rtol=0)
    assert torch.equal(clips["stays still"][:, 0], clips["stays still"][:, -1])


def test_a_mark_shows_every_turn():
    for kind in toy.KINDS:
        turning = render([one(kind, motion="spins")], frames=9, height=64, width=64)[0]
        for frame in range(1, 9):
            changed = (turning[:, frame] - turning[:, frame - 1]).abs().amax(0) > 0.2
            assert changed.float().mean() > 0.005, (kind, frame)


def test_a_ball_rolls_without_slipping():
    scenes = [one("ball", motion=motion) for motion in ("rolls left", "rolls right", "comes nearer", "goes away")]
    seconds = torch.linspace(0, 2, 17, dtype=torch.float64)
    items = items_of(scenes, seconds, view_of(scenes, seconds, 64, 64))
    centre, radius = items.centre.unflatten(0, (4, 17)), items.radius.unflatten(0, (4, 17))
    turned = items.turned.unflatten(0, (4, 17))
    for row, axis in ((0, 0), (1, 0), (2, 2), (3, 2)):
        # A rolling ball's top moves on by the angle that the ball has come round, the way it goes.
        angle = (centre[row, 1, axis] - centre[row, 0, axis]) / radius[row, 0]
        top = turned[row, 1].T @ turned[row, 0] @ torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
        assert angle.abs() > 0.05 and math.isclose(top[axis], math.sin(angle), abs_tol=1e-9)


def test_cameras_move_the_background_and_not_only_the_body():
    scenes = [one(size="small", camera=camera) for camera in toy.CAMERAS]
    clips = render(scenes, frames=17, height=64, width=64)
    hills, ground = clips[:, :, :, 8:20], clips[:, :, :, 52:]
    for part in (hills, ground):
        change = (part[:, :, -1] - part[:, :, 0]).abs().amax((1, 2, 3))
        assert change[0] == 0 and (change[1:] > 0.05).all()
    where = middle(mask(clips))
    assert where[1, -1, 0] - where[1, 0, 0] > 0.2 and where[2, -1, 0] - where[2, 0, 0] < -0.2
    covered = mask(clips).float().mean((2, 3))
    assert covered[3, -1] > 1.8 * covered[3, 0] and covered[4, -1] < 0.6 * covered[4, 0]


def test_relations_hold_in_every_frame():
    for index in range(60):
        drawn = scene(5, index, split="train", bodies=2)
        first, second = drawn.bodies
        if drawn.relation in ("left of", "right of"):
            assert (first.x < second.x) == (drawn.relation == "left of") and abs(first.x - second.x) > 0.4
        else:  # farther is higher up on the ground
            assert (first.row < second.row) == (drawn.relation == "behind") and abs(first.row - second.row) > 0.15


def test_the_nearer_body_covers_the_farther():
    far = Body("cube", "blue", "large", "stays still", 0.0, 0.60, 0.108, 0.0, 1.0)
    near = Body("cube", "red", "medium", "stays still", 0.0, 0.80, 0.057, 0.0, 1.0)
    clips = [Scene(pair, "gray", "clear", "still", "behind") for pair in ((far, near), (near, far))]
    first, second = render(clips, frames=1, height=64, width=64)
    torch.testing.assert_close(first, second)
    alone = render([Scene((near,), "gray", "clear", "still", None)], frames=1, height=64, width=64)
    inside = mask(alone)[0, 0]
    inside[1:-1, 1:-1] &= inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    torch.testing.assert_close(first[:, 0][:, inside], alone[0, :, 0][:, inside])


def test_overlapping_shadows_do_not_depend_on_the_order_of_the_bodies():
    places = (("red", -0.13), ("blue", 0.13))
    pair = [Body("cylinder", colour, "medium", "stays still", x, 0.75, 0.062, 0.0, 1.0) for colour, x in places]
    clips = [Scene(tuple(order), "white", "clear", "still", "left of") for order in (pair, pair[::-1])]
    first, second = render(clips, frames=1, height=64, width=64)
    torch.testing.assert_close(first, second)


def test_a_level_line_of_sight_does_no_harm():
    """Frames of many heights, so that in some a ray runs exactly level: its slopes have no inverse."""
    for height in range(20, 76, 5):
        clips = render([one(kind, motion="falls") for kind in toy.KINDS], frames=2, height=height, width=50)
        assert clips.isfinite().all()


def test_edges_are_antialiased():
    """A small shift of a body changes pixels a little: none of them steps from the ground to the body at once."""
    for kind in toy.KINDS:
        bodies = [Body(kind, "red", "large", "stays still", x / 64, 0.73, 0.108, 0.0, 1.0) for x in (0.0, 0.1)]
        scenes = [Scene((body,), "gray", "clear", "still", None) for body in bodies]
        first, second = render(scenes, frames=1, height=64, width=64)
        assert 0 < (first - second).abs().max() < 0.25, kind


def test_a_render_of_nothing_is_an_input_error():
    with pytest.raises(InputError, match="at least 1 frame"):
        render([one()], frames=0, height=32, width=32)
    with pytest.raises(InputError, match="a scene"):
        render([], frames=1, height=32, width=32)
    with pytest.raises(InputError, match="fps=0"):
        render([one()], frames=1, height=32, width=32, fps=0)
