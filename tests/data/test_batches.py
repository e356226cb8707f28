"""Which clips make which step: pure functions of (seed, step), whole epochs, budgets kept, bad clips reported."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from videodit.data.batches import Crop, CropBatches, PackBatches, derive_seed, load
from videodit.data.packing import Share, Work
from videodit.data.sample import BadSample, Sample
from videodit.errors import InputError
from videodit.shapes import LatentShape

SHAPES = ((5, 8, 8), (5, 8, 12), (5, 12, 8), (9, 8, 8))
PATCH = (1, 2, 2)


class Cache:
    """Latents that know where they come from: latents[0] is the clip's index, latents[1] the latent frame."""

    def __init__(self, count: int, shapes: Sequence[tuple[int, int, int]] = SHAPES) -> None:
        self.shapes = [LatentShape(*shapes[i % len(shapes)]) for i in range(count)]

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        shape = self.shapes[index]
        times = torch.arange(shape.frames).view(-1, 1, 1).expand(shape.frames, shape.height, shape.width)
        return torch.stack([torch.full_like(times, index), times]).half(), f"caption {index}"

    def shape(self, index: int) -> LatentShape:
        return self.shapes[index]


PACKS = partial(
    PackBatches, tokens=400, most=None, patch=PATCH, image=0.25, whole=0.5, work=Work(1.0, 0.01), share=Share(), seed=3
)


def _tokens(latents: Tensor) -> int:
    return LatentShape(*latents.shape[1:]).grid(PATCH).count


def _content(batches: PackBatches, step: int) -> list[tuple[int, int]]:
    (batch,) = batches[step]
    return [(index, x.shape[1]) for index, x in zip(batch.indices, batch.latents, strict=True)]


def test_a_seed_depends_on_every_part_and_on_their_order() -> None:
    assert len({derive_seed(*parts) for parts in ((1, 2), (2, 1), (12,), (1, 2, 0), ("1", "2", 1))}) == 5
    assert derive_seed(4, "packs", 7) == derive_seed(4, "packs", 7)
    assert all(0 <= derive_seed(number) < 2**63 for number in range(100))


def test_packs_are_a_function_of_seed_and_step() -> None:
    """In whatever order they are asked for, from whatever step on, in whatever process."""
    steps = range(5 * PACKS(cache=Cache(100)).count)
    in_order = [_content(batches, step) for batches in [PACKS(cache=Cache(100))] for step in steps]
    backwards = PACKS(cache=Cache(100))
    assert [_content(backwards, step) for step in reversed(steps)] == in_order[::-1]
    assert _content(PACKS(cache=Cache(100)), steps[-1]) == in_order[-1]
    assert _content(pickle.loads(pickle.dumps(backwards)), steps[-1]) == in_order[-1]
    assert _content(PACKS(cache=Cache(100), seed=4), 0) != in_order[0]


def test_an_epoch_shows_every_clip_once() -> None:
    batches = PACKS(cache=Cache(100))
    steps, seen = 0, []
    for epoch in range(3):
        count = len(batches.plan(epoch))
        shown = [index for step in range(steps, steps + count) for index, _ in _content(batches, step)]
        assert sorted(shown) == list(range(100))
        seen.append(shown)
        steps += count
    assert seen[0] != seen[1] != seen[2]


def test_each_epoch_is_planned_once() -> None:
    """Planning all epochs so far at every step made the tenth epoch a hundred times slower than the first."""
    batches = PACKS(cache=Cache(100))
    planned, plan = Counter(), batches._plan

    def counted(epoch: int) -> object:
        planned[epoch] += 1
        return plan(epoch)

    batches._plan = counted
    for step in range(200):
        batches[step]
    assert max(planned) > 4 and set(planned.values()) == {1}


def test_the_budget_is_kept_and_used() -> None:
    """About equally by all steps: no small rest is left for the last."""
    batches = PACKS(cache=Cache(200, shapes=(*SHAPES, (1, 2, 2))))  # the last is one token, so that each one counts
    used = [sum(map(_tokens, batches[step][0].latents)) for step in range(batches.count)]
    largest = max(LatentShape(*shape).grid(PATCH).count for shape in SHAPES)
    assert max(used) <= 400 and min(used) > 400 - 1.5 * largest
    assert sum(used) / len(used) > 0.85 * 400


def test_the_largest_clip_comes_first_and_whole() -> None:
    """So a run that cannot fit fails in its first step."""
    cache = Cache(100, shapes=(*SHAPES, *SHAPES, (9, 16, 16)))
    for seed in range(5):
        batches = PACKS(cache=cache, tokens=900, seed=seed, image=0.9, whole=0.0)
        assert max(map(_tokens, batches[0][0].latents)) == 9 * 8 * 8


def test_a_clip_above_the_budget_goes_alone() -> None:
    cache = Cache(20, shapes=((1, 4, 4), (1, 4, 4), (1, 4, 4), (9, 40, 40)))
    batches = PACKS(cache=cache, whole=1.0, image=0.0)
    sizes = [list(map(_tokens, batches[step][0].latents)) for step in range(batches.count)]
    assert sorted(sum(sizes, [])) == [4] * 15 + [3600] * 5
    assert all(len(counts) == 1 for counts in sizes if 3600 in counts)


def test_shapes_are_mixed_in_every_pack() -> None:
    """Of clips used whole, so by the clips' own shapes; equal ones lie side by side."""
    batches = PACKS(cache=Cache(300), tokens=2000, image=0.0, whole=1.0)
    for step in range(batches.count - 1):
        shapes = [tuple(x.shape[1:]) for x in batches[step][0].latents]
        assert len(set(shapes)) > 1
        assert len(set(shapes)) == 1 + sum(a != b for a, b in zip(shapes, shapes[1:], strict=False))


def test_clips_are_cut_to_their_first_frames() -> None:
    """As images, whole, or to something between; always the beginning, with its caption."""
    batches = PACKS(cache=Cache(2000, shapes=((9, 4, 4),)))
    lengths = Counter()
    for step in range(batches.count):
        (batch,) = batches[step]
        for x, caption, index in zip(batch.latents, batch.captions, batch.indices, strict=True):
            assert caption == f"caption {index}" and x.dtype == torch.float32
            assert (x[0] == index).all() and torch.equal(x[1, :, 0, 0], torch.arange(x.shape[1]).float())
            lengths[x.shape[1]] += 1
    between = 0.25 / 9  # what is neither image nor whole is spread over 1..9
    assert lengths[1] / 2000 == pytest.approx(0.25 + between, abs=0.04)
    assert lengths[9] / 2000 == pytest.approx(0.5 + between, abs=0.04)
    assert all(lengths[n] / 2000 == pytest.approx(between, abs=0.02) for n in range(2, 9))


def test_frames_are_cut_at_whole_patches() -> None:
    batches = PACKS(cache=Cache(200, shapes=((6, 4, 4),)), patch=(2, 2, 2), image=0.2, whole=0.2)
    lengths = {x.shape[1] for step in range(batches.count) for x in batches[step][0].latents}
    assert lengths == {2, 4, 6}


def test_latents_that_the_patch_does_not_divide_are_an_input_error() -> None:
    with pytest.raises(InputError, match="not divisible by the patch"):
        PACKS(cache=Cache(4, shapes=((5, 7, 8),)))


def test_no_latents_make_no_packs() -> None:
    batches = PACKS(cache=Cache(0))
    assert batches.count == 0
    with pytest.raises(IndexError):
        batches[0]


class Coordinates:
    """Clips whose pixels say where they are: channels are frame, row and column. Every third cannot be read."""

    def __init__(self, *shapes: tuple[int, int, int], bad: bool = True) -> None:
        self.shapes, self.bad = shapes, bad

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> Sample:
        if self.bad and index % 3 == 0:
            raise BadSample(Path("clips") / f"{index}.mp4", "broken")
        axes = (torch.arange(size, dtype=torch.float32) for size in self.shapes[index % len(self.shapes)])
        return Sample(torch.stack(torch.meshgrid(*axes, indexing="ij")), "", 8.0, str(index))

    def fingerprint(self, index: int) -> str:
        return str(index)


CROPS = partial(
    CropBatches,
    crops=[Crop(5, 8, 8, 0.5), Crop(1, 16, 16, 0.5)],
    pixels=3000,
    most=None,
    per_clip=2,
    share=Share(),
    seed=1,
)


def _starts(crops: Tensor) -> list[tuple[float, ...]]:
    """Where crops begin; each must be a window of consecutive frames, rows and columns."""
    for channel in range(3):
        steps = crops[:, channel].diff(dim=1 + channel)
        assert (steps == 1).all()
        assert all((crops[:, channel].diff(dim=1 + other) == 0).all() for other in range(3) if other != channel)
    return [tuple(crop[:, 0, 0, 0].tolist()) for crop in crops]


def test_crops_lie_inside_their_clips() -> None:
    batches = CROPS(datasets=[Coordinates((9, 20, 24), bad=False)])
    starts = []
    for step in range(60):
        crops = batches[step][0].clips
        assert tuple(crops.shape[1:]) in ((3, 5, 8, 8), (3, 1, 16, 16)) and len(crops) * crops[0, 0].numel() <= 3000
        assert crops[:, 0].max() <= 8 and crops[:, 1].max() <= 19 and crops[:, 2].max() <= 23
        starts += _starts(crops)
    assert {start[0] for start in starts} == set(range(9))  # every place is reached, the last ones too
    assert {16.0, 12.0} & {start[2] for start in starts} and min(start[1] for start in starts) == 0


def test_crops_are_a_function_of_seed_and_step() -> None:
    first, second = (CROPS(datasets=[Coordinates((9, 20, 24)), Coordinates((5, 16, 16))]) for _ in range(2))
    ahead = [first[step][0].clips for step in reversed(range(8))][::-1]
    assert all(torch.equal(second[step][0].clips, ahead[step]) for step in range(8))
    other = CROPS(datasets=[Coordinates((9, 20, 24)), Coordinates((5, 16, 16))], seed=2)
    assert any(other[step][0].clips.shape != ahead[step].shape or (other[step][0].clips != ahead[step]).any()
               for step in range(8))  # fmt: skip


def test_a_clip_smaller_than_the_crop_makes_smaller_crops() -> None:
    """It is not left out: a folder of small videos would train nothing."""
    batches = CROPS(datasets=[Coordinates((1, 8, 24), bad=False)])
    for step in range(6):
        crops = batches[step][0].clips
        assert len(crops) and crops.shape[2:4] == (1, 8) and crops.shape[4] in (8, 16)
        _starts(crops)


def test_clips_that_cannot_be_read_are_skipped_and_reported() -> None:
    """With path and reason, from a worker process too; the others of the step are there."""
    batches = CROPS(datasets=[Coordinates((9, 20, 24))])
    for (batch,) in load(batches, start=0, stop=6, workers=1):
        assert all(reason == "broken" and int(Path(path).stem) % 3 == 0 for path, reason in batch.skipped)
    assert any(batches[step][0].skipped and not batches[step][0].idle for step in range(6))
    (nothing,) = CROPS(datasets=[_AllBad()], crops=[Crop(5, 8, 8, 1.0)])[0]
    assert nothing.idle and nothing.clips.shape == (1, 3, 5, 8, 8) and len(nothing.skipped) == 5


class _AllBad(Coordinates):
    def __getitem__(self, index: int) -> Sample:
        raise BadSample("x.mp4", "broken")


def test_workers_change_nothing() -> None:
    """The same batches in the same order with 0, 1 and 2 processes, begun anywhere."""
    batches = PACKS(cache=Cache(60))
    runs = [list(load(batches, start=5, stop=25, workers=workers)) for workers in (0, 1, 2)]
    assert [len(run) for run in runs] == [20, 20, 20]
    for (first,), *others in zip(*runs, strict=True):
        for (other,) in others:
            assert (first.indices, first.captions) == (other.indices, other.captions)
            assert all(torch.equal(a, b) for a, b in zip(first.latents, other.latents, strict=True))
    assert runs[0][0][0].indices == batches[5][0].indices


@pytest.mark.parametrize(("ranks", "tokens"), [(2, 2048), (2, 4096), (8, 8192)])
def test_ranks_have_equal_work(ranks: int, tokens: int) -> None:
    """200 clips of 12 shapes, none above a share: within 15 % in a step and 3 % over the epoch, each used once."""
    twelve = [(t, h, w) for t in (1, 3, 5, 9) for h, w in ((8, 8), (8, 12), (12, 12))]
    batches = PACKS(cache=Cache(200, twelve), tokens=tokens, image=0.0, whole=1.0, share=Share(0, ranks))
    steps = [batches.packs(step) for step in range(batches.count)]
    used = Counter(i for step in steps for rank in step for pack, idle in rank if not idle for i, _ in pack)
    assert used == Counter(range(200))
    works = torch.tensor(
        [[sum(batches.work(batches.size(*clip)) for pack, idle in rank if not idle for clip in pack) for rank in step]
         for step in steps], dtype=torch.float64,
    )  # fmt: skip
    assert (works.amax(1) / works.mean(1)).max() <= 1.15
    assert works.sum(0).max() / works.sum(0).mean() <= 1.03


@pytest.mark.parametrize("most", [None, 150])
@pytest.mark.parametrize("ranks", [2, 3, 64])
def test_ranks_share_the_same_steps(ranks: int, most: int | None) -> None:
    """What one process does in a step, as many do together: each clip once, all in as many batches."""
    alone = PACKS(cache=Cache(100))
    shares = [PACKS(cache=Cache(100), share=Share(rank, ranks), most=most) for rank in range(ranks)]
    for step in range(2 * alone.count):
        dealt = [batches[step] for batches in shares]
        assert len({len(batches) for batches in dealt}) == 1
        together = [batch for batches in dealt for batch in batches]
        content = [(i, x.shape[1]) for b in together if not b.idle for i, x in zip(b.indices, b.latents, strict=True)]
        assert sorted(content) == sorted(_content(alone, step))
        assert all(batch.latents for batch in together)  # idle ones too can be run
        sizes = [[sum(map(_tokens, batch.latents)) for batch in batches if not batch.idle] for batches in dealt]
        several = [sum(map(_tokens, batch.latents)) for batch in together if len(batch.latents) > 1]
        assert most is None or max(several, default=0) <= most
        assert all(own == sorted(own, reverse=True) for own in sizes)


@pytest.mark.parametrize("ranks", [2, 3])
def test_crops_of_ranks_are_those_of_one(ranks: int) -> None:
    """With the numbers that seed their noise."""
    alone = CROPS(datasets=[Coordinates((9, 20, 24))])
    shares = [CROPS(datasets=[Coordinates((9, 20, 24))], share=Share(rank, ranks), most=1000) for rank in range(ranks)]
    for step in range(6):
        (whole,) = alone[step]
        parts = [batch for batches in shares for batch in batches[step] if not batch.idle]
        assert sorted(number for part in parts for number in part.numbers) == whole.numbers
        for part in parts:
            assert torch.equal(part.clips, whole.clips[part.numbers])
        assert [entry for batches in shares for batch in batches[step] for entry in batch.skipped] == whole.skipped
