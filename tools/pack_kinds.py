"""Ways to make batches of the same clips, for tools/bench_packs.py and tools/gpu_page.py: ours and what others have.

packs     clips of any shapes, at most `most` tokens at once (0: all); processes get shares of equal work
buckets   clips of one shape a batch, as many as the budget holds; each process its own batch
gathered  one clip a batch, as many of them as make up the budget of a step, dealt to the processes in turn
single    one clip a batch and process, and a step for each
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from torch import Tensor

from videodit.data.batches import PackBatches
from videodit.shapes import LatentShape

CAPTIONS = ["a large red ball rolls right on a gray ground", "a small blue cube spins", "a cone falls"]


class Stored:
    """Latents in memory."""

    def __init__(self, latents: list[Tensor]) -> None:
        self.latents = latents

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        return self.latents[index], CAPTIONS[index % 3]

    def shape(self, index: int) -> LatentShape:
        return LatentShape(*self.latents[index].shape[1:])


class Buckets(PackBatches):
    """Batches of one shape within the budget of a process, shuffled; a step takes the next one for each process."""

    def packs(self, step: int) -> list[list[tuple[list[tuple[int, int]], bool]]]:
        ranks = self.share.ranks
        alike: dict[LatentShape, list[int]] = defaultdict(list)
        order = np.random.default_rng(0).permutation(len(self.cache)).tolist()
        for index in order:
            alike[self.cache.shape(index)].append(index)
        batches = []
        for shape, indices in alike.items():
            many = max(1, self.tokens // ranks // shape.grid(self.patch).count)
            batches += [indices[i : i + many] for i in range(0, len(indices), many)]
        batches = [batches[i] for i in np.random.default_rng(1).permutation(len(batches))]
        now = batches[step * ranks : (step + 1) * ranks]
        dealt = [([(index, self.cache.shape(index).frames) for index in batch], False) for batch in now]
        idle = (dealt[0][0][:1], True) if dealt else None
        return [[dealt[rank] if rank < len(dealt) else idle] for rank in range(ranks)] if dealt else []


class Gathered(PackBatches):
    """One clip a batch; as many as packs have in their step, dealt to the processes in turn."""

    def packs(self, step: int) -> list[list[tuple[list[tuple[int, int]], bool]]]:
        epoch, place = self.find(step)
        if epoch:
            return []
        clips, ranks = self.plan(0)[place], self.share.ranks
        most = -(-len(clips) // ranks)
        return [
            [([clip], False) for clip in clips[rank::ranks]] + [([clips[0]], True)] * (most - len(clips[rank::ranks]))
            for rank in range(ranks)
        ]


class Single(PackBatches):
    """One clip for each process a step."""

    def packs(self, step: int) -> list[list[tuple[list[tuple[int, int]], bool]]]:
        ranks = self.share.ranks
        now = [clip for pack in self.plan(0) for clip in pack][step * ranks : (step + 1) * ranks]
        return [[([now[rank % len(now)]], rank >= len(now))] for rank in range(ranks)] if now else []


class Packs(PackBatches):
    """Ours, for one epoch."""

    def packs(self, step: int) -> list[list[tuple[list[tuple[int, int]], bool]]]:
        return super().packs(step) if self.find(step)[0] == 0 else []


KINDS = {"packs": Packs, "buckets": Buckets, "gathered": Gathered, "single": Single}


def epoch(batches: PackBatches) -> list:
    """All steps."""
    steps = []
    while packs := batches.packs(len(steps)):
        steps.append(packs)
    return steps
