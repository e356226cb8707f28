"""What the DiT is trained for: the velocity from noise to data, given the text (flow matching).

B clips, L tokens in all, D values a token; C, t, h, w of latents
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from videodit.checkpoint import adapters
from videodit.checkpoint.export import copy_if_other, put
from videodit.checkpoint.parts import FILES, TOKENIZERS, name_of
from videodit.checkpoint.pretrained import Part
from videodit.checkpoint.store import save_model, write_json
from videodit.data.batches import LatentBatch, PackBatches, derive_seed
from videodit.flow.path import Path as FlowPath
from videodit.flow.times import logit_normal, shift, shift_of, uniform
from videodit.models.interfaces import DENOISER, Denoiser
from videodit.models.pack import Context, Times, patchify
from videodit.models.text import TextEncoder
from videodit.parallel.mesh import Mesh
from videodit.shapes import LatentShape
from videodit.track.tracker import Tracker
from videodit.train.adapter import LoRA
from videodit.train.meter import Means
from videodit.train.teacher import Teacher

BINS = 4  # of time, for the record


@dataclass(frozen=True)
class TrainingTimes:
    """How training times are drawn: logit-normal(mean, std), or uniform when `std` is 0; then shifted by tokens.

    `shift`: one number, or base_tokens and base_shift (`flow.times.shift_for_tokens`).
    """

    mean: float
    std: float
    shift: float | Mapping[str, float]

    def __call__(self, normal: Tensor, even: Tensor, counts: Sequence[int]) -> Tensor:
        """Standard normals and uniform numbers (B,), token counts of B clips -> times (B,) fp64."""
        t = logit_normal(normal, mean=self.mean, std=self.std) if self.std else uniform(even)
        shifts = [shift_of(self.shift, count) for count in counts]
        return shift(t, torch.tensor(shifts, dtype=torch.float64))


class FlowObjective:
    """Mean squared error of the prediction on noisy clips (Liu et al. 2022, arXiv:2209.03003).

    Args:
        dit, text_encoders: the networks, trained together if the text encoders are such that train.
        path: between data and noise.
        times: how times are drawn.
        drop: share of the captions replaced by the empty one, for classifier-free guidance.
        seed: of noise, times and dropped captions, each a function of (seed, step, index of the clip).
        pipeline: what `pipeline.json` says beside the weights.
        frozen: networks that lie beside them (the VAE). If `pipeline` names a base, that has the rest.
        adapter: what trains of the DiT instead of its weights, if it does.
        teacher: gives the velocities to predict and their times, if the DiT learns from another (a straight path).
        device: where the DiT computes, which need not be where its weights lie.
    """

    def __init__(
        self,
        *,
        dit: Denoiser,
        text_encoders: Sequence[TextEncoder],
        path: FlowPath,
        times: TrainingTimes,
        drop: float,
        seed: int,
        pipeline: dict[str, Any],
        frozen: dict[str, Part],
        adapter: LoRA | None = None,
        teacher: Teacher | None = None,
        device: torch.device,
    ) -> None:
        self.device = device
        self.dit, self.text_encoders, self.path, self.times = dit, text_encoders, path, teacher or times
        self.teacher = teacher
        self.drop, self.seed, self.pipeline, self.frozen = drop, seed, pipeline, frozen
        self.adapter, self.complete = adapter, adapter is None
        learning = {one.name: one.network for one in text_encoders if isinstance(one.network, nn.Module)}
        self.module = nn.ModuleDict({name_of(DENOISER): dit, **learning})

    def loss(self, batch: LatentBatch, step: int) -> tuple[Tensor, Means]:
        """Loss of a batch of this step, and the mean loss in each quarter of time and of clips about as large."""
        error, t = self.errors(batch, step)
        counts, means = self.counts(batch), Means()
        each = torch.stack([part.mean() for part in error.detach().split(counts)]).cpu()
        by_time(means, each, t)
        by_size(means, each, counts)
        return error.mean(), means

    def errors(self, batch: LatentBatch, step: int) -> tuple[Tensor, Tensor]:
        """The squared error of every token (L,), and the clips' times (B,)."""
        device = self.device
        noise, draws = self.draw(batch, step)
        captions = [
            "" if drop < self.drop else caption for caption, drop in zip(batch.captions, draws[:, 2], strict=True)
        ]
        t = self.times(draws[:, 0], draws[:, 1], self.counts(batch))
        clips = list(zip(batch.latents, noise, t, strict=True))
        noisy = [self.path.add_noise(*clip).to(device) for clip in clips]
        if self.teacher is None:
            target = [self.path.target(*clip) for clip in clips]
        else:
            target = self.teacher.velocities(captions, noisy, t)
        pack = patchify(noisy, self.dit.patch)
        context = Context({encoder.name: encoder(captions, device) for encoder in self.text_encoders})
        out = self.dit(pack, Times.per_clip(t), self.dit.prepare(context, pack))
        return (out.float() - patchify(target, self.dit.patch).tokens.to(device)).square().mean(dim=1), t

    def draw(self, batch: LatentBatch, step: int) -> tuple[list[Tensor], Tensor]:
        """Noise like the latents, and for each clip a normal and two uniforms (B,3)."""
        noise, draws = [], []
        for index, x in zip(batch.indices, batch.latents, strict=True):
            generator = torch.Generator().manual_seed(derive_seed(self.seed, step, index))
            noise.append(torch.randn(x.shape, generator=generator))
            draws.append(torch.cat([torch.randn(1, generator=generator), torch.rand(2, generator=generator)]))
        return noise, torch.stack(draws)

    def heldout(self, batches: PackBatches, mesh: Mesh, tracker: Tracker, step: int) -> float:
        """Track the loss on held-out clips: of all, by time and by shape, always with the same noise and times. -> it,
        nan if there are none.
        """
        means = Means()
        for number in range(batches.count):
            for batch in batches[number]:
                error, t = self.errors(batch, number)
                if not batch.idle:
                    counts = self.counts(batch)
                    each = torch.stack([part.mean() for part in error.split(counts)]).cpu()
                    means.add({"loss": error.mean().item()}, len(error))
                    by_time(means, each, t)
                    shapes = ["x".join(map(str, x.shape[1:])) for x in batch.latents]
                    for shape, value, count in zip(shapes, each.tolist(), counts, strict=True):
                        means.add({f"loss/{shape}": value}, count)
        found = Means.merged(mesh.exchange(means.parts())[:: mesh.context]).all()
        tracker.scalars(step, {f"heldout/{name}": value for name, value in found.items()})
        return found.get("loss", math.nan)

    def counts(self, batch: LatentBatch) -> list[int]:
        """Tokens of each clip."""
        return [LatentShape(*x.shape[1:]).grid(self.dit.patch).count for x in batch.latents]

    def size(self, batch: LatentBatch) -> dict[str, float]:
        """Clips, tokens and floating-point operations of a training step.

        Those of a forward pass, and twice as many backward; as many where weights stay and only an adapter trains.
        """
        counts = self.counts(batch)
        flops = (3.0 if self.complete else 2.0) * sum(self.dit.flops(count, 16) for count in counts)
        return {"clips": float(len(counts)), "tokens": float(sum(counts)), "flops": flops}

    def publish(self, folder: Path, averages: dict[str, Tensor], step: int) -> None:
        """Write the folder that `model=` opens: averaged weights or the adapter, what lies beside, pipeline.json."""
        for name, part in self.module.items():
            state = {key.removeprefix(f"{name}."): v for key, v in averages.items() if key.startswith(f"{name}.")}
            if part is self.dit and self.adapter is not None:
                header = {"adapter": {**asdict(self.adapter), "base": self.pipeline["base"]}, "step": step}
                changes = self.adapter.changes(state)
                adapters.save_adapter(folder / adapters.FILE, changes, part.spec, header)
            else:
                save_model(folder / FILES[name], part, state=state, step=step)
        for name, part in self.frozen.items():
            put(part, folder / FILES[name])
        if "base" not in self.pipeline:
            for encoder in self.text_encoders:
                copy_if_other(encoder.tokenizer.path, folder / TOKENIZERS[encoder.name])
        write_json(folder / "pipeline.json", self.pipeline)


def by_time(means: Means, losses: Tensor, t: Tensor) -> None:
    """Take in the losses of clips (B,), each in one of BINS equal bins of its time."""
    places = (t * BINS).long().clamp(max=BINS - 1)
    for place, loss in zip(places.tolist(), losses.tolist(), strict=True):
        means.add({f"loss/t{place / BINS:g}-{(place + 1) / BINS:g}": loss})


def by_size(means: Means, losses: Tensor, counts: Sequence[int]) -> None:
    """The same by their tokens: 1, 2-3, 4-7, 8-15 and so on."""
    for count, loss in zip(counts, losses.tolist(), strict=True):
        power = 2 ** (count.bit_length() - 1)
        means.add({f"loss/tokens {power}-{2 * power - 1}": loss})
