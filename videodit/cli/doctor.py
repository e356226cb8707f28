"""`videodit doctor`: short checks of data, model and machine before a long run, and a verdict."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from torch import nn

from videodit.atomic import check_output
from videodit.cli.compose import make, resolved
from videodit.cli.memory import room
from videodit.cli.prepare import Made, Prepared, datasets_of, prepare, stand_ins
from videodit.cli.ranks import column, run_on, shortened
from videodit.cli.train import fit
from videodit.config import Launch, launch
from videodit.data.batches import ClipBatch, LatentBatch, fetch
from videodit.data.video import replacing
from videodit.doctor import checks
from videodit.doctor.captions import captions_heard, captions_tell, order_counts
from videodit.doctor.finding import Finding, faults, line, verdict
from videodit.doctor.page import Pictures, page
from videodit.errors import InputError, Interrupted
from videodit.flow.path import rectified
from videodit.flow.samplers import sampler, visits
from videodit.flow.schedules import linear
from videodit.generate import Pipe
from videodit.models.vae import VideoVAE
from videodit.nn.device import pick_device
from videodit.parallel.mesh import Mesh
from videodit.parallel.shard import named
from videodit.plan.machine import GIB, limits, resident
from videodit.printable import answer
from videodit.shapes import LatentShape
from videodit.train.adapter import is_adapter
from videodit.train.dit_step import FlowObjective
from videodit.train.loop import Objective
from videodit.train.machine import PRECISIONS, autocast, peak_memory, pick_precision
from videodit.train.optim import warmup_decay

if TYPE_CHECKING:
    from omegaconf import DictConfig

TOKENS = 480  # of the copies of one clip in a step, about
CLIPS = 8  # that are compared packed and one by one
SAMPLING = 20  # steps


def run(cfg: DictConfig) -> None:
    """Print what each check finds as it is found, then the verdict."""
    if launch().ranks > 1:
        raise InputError("doctor is one process, and starts two by itself: call it without torchrun")
    if cfg.out:
        check_output(Path(cfg.out))
    began, title = time.perf_counter(), f"videodit doctor: {cfg.name}"
    findings: list[Finding] = []
    answer(title, "")
    with TemporaryDirectory(prefix="videodit-doctor-") as scratch:
        visit = Visit(cfg, Path(scratch))
        try:
            for finding in visit.findings():
                findings.append(finding)
                answer(line(finding))
        except Interrupted as stop:
            told = f"doctor was stopped after {len(findings)} checks; nothing is kept: the same command begins again"
            raise Interrupted(told, by_hand=stop.by_hand) from None
        told = verdict(findings, time.perf_counter() - began)
        if cfg.out:
            with replacing(cfg.out) as temporary:
                temporary.write_text(page(title, findings, told, visit.pictures), encoding="utf-8")
    answer("", told)
    if wrong := faults(findings):
        raise InputError(f"{cfg.name} has {len(wrong)} fault{'s' * (len(wrong) > 1)}: {', '.join(wrong)}")


class Visit:
    """The checks of one training, in the order in which each can rely on those before."""

    def __init__(self, cfg: DictConfig, scratch: Path) -> None:
        # Resolved, since run_dir will be another one, and what follows it stays where it is.
        self.cfg, self.scratch, self.pictures = resolved(cfg), scratch, Pictures()
        device = pick_device(cfg.device)
        self.mesh = Mesh(launch=Launch(), device=device, sizes=(1, 1, 1))
        self.cfg.precision = pick_precision(cfg.precision, device)
        self.precision = PRECISIONS[self.cfg.precision]

    def findings(self) -> Iterator[Finding]:
        """All of them; where one check cannot be made, none after it can."""
        try:
            yield self.readable()
            if absent := stand_ins(self.cfg, self.scratch, self.mesh):
                yield Finding("what comes before", "unknown", f"{', '.join(absent)}: not there, untrained ones serve")
            self.cfg.run_dir, self.cfg.after, self.cfg.fresh = str(self.scratch / "run"), [], False
            whole = prepare(self.cfg, self.scratch / "run", self.mesh)
            yield self.fits(whole)
            short = shortened(self.cfg, self.scratch / "on-1", whole.largest, self.cfg.doctor.first_steps)
            Path(short.run_dir).mkdir()
            made = prepare(short, Path(short.run_dir), self.mesh).make()
            yield from self.latents(made)
            before = self.loss(made)
            fit(short, Path(short.run_dir), made, self.mesh)
            yield self.in_time(short)
            rise = checks.VAE_RISE if made.pipe is None else checks.RISE
            yield checks.harmless(before, self.loss(made), column(Path(short.run_dir), "loss"), rise)
            if self.cfg.doctor.ranks:
                yield self.ranks(short)
            yield from self.learning(made)
        except InputError as error:
            yield Finding("it can be built and run", "FAULT", str(error))

    def readable(self) -> Finding:
        """Whether the clips can be read, as they are or for the first time."""
        skipped, count, began = [], 0, time.perf_counter()
        for clips in datasets_of(self.cfg, "train"):
            skipped += fetch(clips, range(len(clips)))[1]
            count += len(clips)
        return checks.readable(count, skipped, time.perf_counter() - began)

    def fits(self, prepared: Prepared) -> Finding:
        """Whether a step fits into memory."""
        base = resident() if self.mesh.device.type == "cpu" else 0
        limit, plan = room(limits(self.mesh.device)[0], base), prepared.plan()
        try:
            plan.check(base, limit)
        except InputError as error:
            return Finding("a step fits into memory", "FAULT", str(error))
        told = f"{plan.line(base, None)}; {limit.name} leaves {limit.free / GIB:.1f}"
        return Finding("a step fits into memory", "ok", told)

    def latents(self, made: Made) -> Iterator[Finding]:
        """What a DiT's latents are like. Those of a VAE that trains are normalised when it is published."""
        if made.pipe is not None:
            cache = made.batches.cache
            latents, captions = zip(*(cache[i] for i in range(len(cache))), strict=True)
            yield checks.normalised([x.float() for x in latents])
            text = made.objective.text
            learns = isinstance(text, nn.Module) and any(p.requires_grad for p in text.parameters())
            words = [made.pipe.parts.tokenizer.words(caption) for caption in captions]
            yield captions_heard(words, frozen=not learns)
            yield captions_tell([x.float() for x in latents], captions)
            if isinstance(text, nn.Module):  # not one that comes with its model and stays as it is
                yield order_counts(made.pipe.encode, captions)

    def loss(self, made: Made) -> float:
        """Of the first steps' clips, as the networks are now."""
        steps = min(checks.SEVERAL, self.cfg.doctor.first_steps)
        batches = (batch for step in range(steps) for batch in made.batches[step])
        return checks.mean_loss(made.objective, batches, self.mesh, self.precision)

    def in_time(self, short: DictConfig) -> Finding:
        """Whether the first steps had to wait for their clips."""
        waits, rates = (column(Path(short.run_dir), name)[1:] for name in ("data wait", "tokens/s"))
        return checks.in_time(waits, rates, peak_memory(self.mesh.device))

    def ranks(self, short: DictConfig) -> Finding:
        """The first steps on two processes, beside those on this one."""
        if self.mesh.device.type != "cpu" and torch.cuda.device_count() < 2:
            return Finding(checks.AGREE, "unknown", "there is one GPU")
        one = column(Path(short.run_dir), "loss")
        other = short.copy()
        other.run_dir = str(self.scratch / "on-2")
        run_on(2, other)
        return checks.ranks_agree(one, column(Path(other.run_dir), "loss"))

    def learning(self, made: Made) -> Iterator[Finding]:
        """After the first steps many on one clip."""
        objective, batch = made.objective, copies(made)
        steps, floor = self.cfg.doctor.steps, self.cfg.optim.floor
        curve = warmup_decay(warmup=steps // 15, steps=steps, decay=steps // 3, floor=floor)
        found = checks.overfit(
            objective,
            make(self.cfg.optim.make)(objective.module, curve=curve),
            batch,
            steps,
            mesh=self.mesh,
            clip_norm=self.cfg.loop.clip_norm,
            precision=self.precision,
        )
        self.pictures.losses = found.losses
        yield checks.gradients_reach(objective.module, self.meant(objective), found)
        begun = made.pipe is None or self.cfg.init  # a VAE begins with principal components
        yield checks.learns(found, checks.BEGUN_GOAL if begun else checks.NEW_GOAL)
        objective.module.eval()
        with torch.no_grad(), autocast(self.mesh.device, self.precision):
            if made.pipe is None:
                yield self.restored(objective.vae, batch)
            else:
                yield self.sampled(made.pipe, batch)
                yield self.packed(objective, made)

    def restored(self, vae: VideoVAE, batch: ClipBatch) -> Finding:
        """The clip through the VAE that has learnt it."""
        clips = batch.clips.to(self.mesh.device)
        back = vae.reconstruct(vae.posterior(clips)[0]).float().clamp(-1, 1)
        self.pictures.add("the clip", clips[0])
        self.pictures.add("restored after learning it", back[0])
        return checks.comes_back(back, clips, checks.RESTORED)

    def sampled(self, pipe: Pipe, batch: LatentBatch) -> Finding:
        """The clip from its caption and noise, by the DiT that has learnt it."""
        wanted, caption = batch.latents[0], batch.captions[0]
        shape = LatentShape(*wanted.shape[1:])
        times = [linear(SAMPLING, pipe.shift(shape))]
        visited = pipe.path.own(visits("euler", times))
        velocity = rectified(pipe.path, pipe.network("dit", pipe.encode([caption]), visited))
        made = sampler("euler")(velocity, [pipe.noise(0, shape).to(self.mesh.device)], times)[0]
        for label, latents in (("the clip", wanted), ("sampled after learning it", made)):
            clip = pipe.parts.network("vae").decode(latents[None].to(self.mesh.device))[0]
            self.pictures.add(f"{label}: {caption}", clip)
        return checks.comes_back(made.cpu(), wanted, checks.SAMPLED)

    def packed(self, objective: FlowObjective, made: Made) -> Finding:
        """Clips of a step together and one by one, by a DiT whose blocks have learnt to see."""
        batch = made.batches[1][0]
        few = LatentBatch(batch.latents[:CLIPS], batch.captions[:CLIPS], batch.indices[:CLIPS])
        alone = (LatentBatch([x], [c], [i]) for x, c, i in zip(few.latents, few.captions, few.indices, strict=True))
        return checks.packed_is_single(lambda b: objective.errors(b, 0)[0], few, alone, self.precision)

    def meant(self, objective: Objective) -> set[str]:
        """Names of what should train: all that `freeze` does not name, or the adapter."""
        names = named(objective.module).keys()
        if not objective.complete:
            return {name for name in names if is_adapter(name)}
        return {n for n in names if not any(n == part or n.startswith(f"{part}.") for part in self.cfg.freeze)}


def copies(made: Made) -> ClipBatch | LatentBatch:
    """A batch of one clip: for a DiT several times, each with its own noise and time."""
    if made.pipe is None:
        batch = made.batches[0][0]
        return ClipBatch(batch.clips[:1], [0])
    cache, batches = made.batches.cache, made.batches
    size, index = min((batches.size(i, cache.shape(i).frames), i) for i in range(len(cache)))
    many = max(1, TOKENS // size)
    latents, caption = cache[index]
    return LatentBatch([latents.float()] * many, [caption] * many, list(range(many)))
