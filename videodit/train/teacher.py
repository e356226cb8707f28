"""A student of few steps: each of its steps goes where several guided steps of its teacher end.

Progressive distillation (Salimans & Ho 2022, arXiv:2202.00512) to the wanted number of steps at once, and the guidance
with it (Meng et al. 2023, arXiv:2210.03142). The teacher's path has no randomness, so there is one right answer.

    B clips; C, t, h, w of latents
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from videodit.errors import InputError
from videodit.flow.path import rectified
from videodit.flow.samplers import euler
from videodit.flow.schedules import linear
from videodit.flow.times import shift_of
from videodit.generate import Pipe


class Teacher:
    """Gives the times that a student sees in training, and what it should predict there.

    Args:
        pipe: the model.
        steps: its Euler steps from noise to data.
        guidance: its guidance.
        student: steps of the student, each as long as `steps / student` of these.
    """

    def __init__(self, *, pipe: Pipe, steps: int, guidance: float, student: int) -> None:
        if steps % student:
            raise InputError(f"teacher.steps={steps}: must be a multiple of the student's request.steps={student}")
        if len(pipe.parts.experts) > 1:
            raise InputError(f"teacher.model={pipe.parts.name}: it has two experts; a student of one is not known yet")
        self.pipe, self.steps, self.guidance, self.each = pipe, steps, guidance, steps // student

    def schedule(self, tokens: int) -> Tensor:
        """The teacher's times (steps + 1,) for a clip of so many tokens, from 1 to 0."""
        return linear(self.steps, shift_of(self.pipe.parts.pipeline["shift"], tokens))

    def __call__(self, normal: Tensor, even: Tensor, counts: Sequence[int]) -> Tensor:
        """Uniform numbers (B,) and token counts of B clips -> where one of the student's steps begins (B,) fp64."""
        starts = (even.double() * (self.steps // self.each)).long() * self.each
        return torch.stack([self.schedule(count)[i] for count, i in zip(counts, starts.tolist(), strict=True)])

    @torch.no_grad()
    def velocities(self, captions: Sequence[str], x: Sequence[Tensor], t: Tensor) -> list[Tensor]:
        """Noisy latents, each (C,t,h,w) at its time of t (B,) -> the mean velocity of the teacher's way from there."""
        times = []
        for one, start in zip(x, t.tolist(), strict=True):
            schedule = self.schedule(prod(one.shape[1:]) // prod(self.pipe.patch))
            first = int((schedule - start).abs().argmin())
            times.append(schedule[first : first + self.each + 1])
        texts = self.pipe.encode([*captions, *[""] * len(captions)])
        [name] = self.pipe.parts.experts
        guided = self.pipe.expert(name, texts, self.pipe.path.own(torch.stack(times)), [self.guidance] * len(x))
        ends = euler(rectified(self.pipe.path, guided), list(x), times)
        return [(end - one) / (way[-1] - way[0]) for end, one, way in zip(ends, x, times, strict=True)]
