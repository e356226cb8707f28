"""The checks of one training before a long run: each made in turn, of what the training would be."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, redirect_stderr
from dataclasses import replace
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from videodit.alive import doing
from videodit.config import Launch
from videodit.data.batches import ClipBatch, LatentBatch, fetch
from videodit.doctor import checks
from videodit.doctor.captions import captions_heard, captions_tell, order_counts
from videodit.doctor.finding import Finding
from videodit.doctor.page import Pictures
from videodit.doctor.ranks import column, run_on, shortened
from videodit.errors import InputError
from videodit.flow.path import rectified
from videodit.flow.samplers import sampler, visits
from videodit.flow.schedules import linear
from videodit.nn.device import pick_device
from videodit.parallel.mesh import Mesh
from videodit.parallel.shard import named
from videodit.plan.machine import GIB, limits, resident, room
from videodit.printable import note
from videodit.shapes import LatentShape
from videodit.train.adapter import is_adapter
from videodit.train.build import Made, Prepared, prepare, stand_ins
from videodit.train.init import base_named, inherits
from videodit.train.inputs import datasets_of, sizes_of
from videodit.train.loop import Objective
from videodit.train.machine import PRECISIONS, autocast, peak_memory, pick_precision
from videodit.train.optim import warmup_decay
from videodit.train.run import fit
from videodit.train.settings import Doctor

TOKENS, FEWEST = 960, 8  # of the copies of one clip in a step, about, words among them; and how many at least
LOT = 8  # clips that are read between two words
CLIPS = 8  # that are compared packed and one by one
SAMPLING = 20  # steps


class Check(NamedTuple):
    """What is looked at, and how. loud: what it prints on the way is for the user."""

    what: str
    find: Callable[[], Finding]
    loud: bool = False


class Visit:
    """The checks of one training, in the order in which each can rely on those before.

    What a check needs is made when it is first asked for, in the scratch folder, and prints nothing.
    """

    def __init__(self, cfg: Doctor, scratch: Path) -> None:
        self.scratch, self.pictures = scratch, Pictures()
        device = pick_device(cfg.device)
        self.mesh = Mesh(launch=Launch(), device=device, sizes=(1, 1, 1))
        self.cfg = replace(cfg, precision=pick_precision(cfg.precision, device))
        self.precision = PRECISIONS[self.cfg.precision]
        self.at = ""  # the present check, in words

    def findings(self) -> Iterator[Finding]:
        """All of them, each announced before it begins; where one check cannot be made, none after it can."""
        try:
            yield from self.announced(self.todo())
        except InputError as error:
            yield Finding("it can be built and run", "FAULT", str(error))

    def announced(self, todo: Sequence[Check]) -> Iterator[Finding]:
        """What checks find, after a line that says which one begins."""
        for number, check in enumerate(todo, 1):
            told = f"check {number} of {len(todo)}: {check.what}"
            note(__name__, told)
            self.at = told
            with doing(lambda: self.at), nullcontext() if check.loud else redirect_stderr(StringIO()):
                found = check.find()
            yield found

    def todo(self) -> list[Check]:
        """What is looked at of this training, in words, and how."""
        cfg, dit = self.cfg, self.cfg.stage == "dit"
        first = f"its first {cfg.doctor.first_steps} steps"
        return [
            Check("read the clips", self.readable, loud=True),  # what is told of the data is told once
            *([Check("what comes before it", self.before)] if cfg.after else []),
            Check("the memory that a step needs", self.fits),
            *(self.of_latents() if dit else []),
            Check(first, self.in_time),
            Check("the loss after them", self.harm),
            *([Check(f"{first} on two processes", self.ranks)] if cfg.doctor.ranks else []),
            Check(f"{cfg.doctor.steps} steps on one clip", self.gradients),
            Check("what it has learnt", lambda: checks.learns(self.learnt, self.goal)),
            *([Check("sample that clip", self.sampled), Check("clips together and alone", self.packed)] if dit else
              [Check("restore that clip", self.restored)]),
        ]  # fmt: skip

    def of_latents(self) -> list[Check]:
        """The checks of a DiT's latents and captions. Those of a VAE that trains are normalised when published."""
        return [
            Check("latents", lambda: checks.normalised([x.float() for x, _ in self.data])),
            Check("what is heard of the captions", self.heard),
            Check("captions and clips", self.told),
            *([] if self.remembers else [Check("the order of words", self.order)]),
        ]

    @cached_property
    def remembers(self) -> bool:
        """Whether the text encoder comes with its model and stays as it is."""
        return bool(self.cfg.init) and inherits(self.cfg, base_named("init", self.cfg.init))

    @cached_property
    def prepared(self) -> Prepared:
        """The training as it is meant, in a folder of its own."""
        self.cfg = replace(self.cfg, run_dir=str(self.scratch / "run"), after=[], fresh=False)
        return prepare(self.cfg, self.scratch / "run", self.mesh)

    @cached_property
    def short(self) -> Doctor:
        """The settings of its first steps."""
        short = self.first_steps("on-1")
        Path(short.run_dir).mkdir()
        return short

    def first_steps(self, name: str) -> Doctor:
        """The same in a folder of this name."""
        return shortened(self.cfg, self.scratch / name, self.prepared.largest, self.cfg.doctor.first_steps)

    @cached_property
    def made(self) -> Made:
        """Its networks and batches; from the first steps on as these have left them."""
        return prepare(self.short, Path(self.short.run_dir), self.mesh).make()

    @cached_property
    def data(self) -> list[tuple[Tensor, str]]:
        """Latents and captions."""
        cache = self.made.batches.cache
        return [cache[i] for i in range(len(cache))]

    @cached_property
    def begun(self) -> tuple[float, Path]:
        """The loss before the first steps, and the folder of these."""
        before, folder = self.loss(self.made), Path(self.short.run_dir)
        fit(self.short, folder, self.made, self.mesh)
        return before, folder

    def readable(self) -> Finding:
        """Whether the clips can be read, as they are or for the first time."""
        skipped, count, began = [], 0, time.perf_counter()
        datasets = datasets_of(self.cfg, "train", sizes_of(self.cfg))
        with doing(lambda: f"read {count} of {sum(map(len, datasets))} clips"):
            for clips in datasets:
                for start in range(0, len(clips), LOT):
                    lot = range(start, min(start + LOT, len(clips)))
                    skipped, count = skipped + fetch(clips, lot)[1], count + len(lot)
        return checks.readable(count, skipped, time.perf_counter() - began)

    def before(self) -> Finding:
        """Whether the runs that must come first are there."""
        self.cfg, absent = stand_ins(self.cfg, self.scratch, self.mesh)
        told = f"{', '.join(absent)}: not there, untrained ones serve" if absent else "it is there"
        return Finding("what comes before", "unknown" if absent else "ok", told)

    def fits(self) -> Finding:
        """Whether a step fits into memory."""
        prepared = self.prepared
        base = resident() if self.mesh.device.type == "cpu" else 0
        limit, plan = room(limits(self.mesh.device)[0], base), prepared.plan()
        try:
            plan.check(base, limit)
        except InputError as error:
            return Finding("a step fits into memory", "FAULT", str(error))
        told = f"{plan.line(base, None)}; {limit.name} leaves {limit.free / GIB:.1f}"
        return Finding("a step fits into memory", "ok", told)

    def heard(self) -> Finding:
        """How much of the captions the text encoder knows, or that of several which knows most."""
        encoders = self.made.objective.text_encoders
        modules = [encoder.network for encoder in encoders if isinstance(encoder.network, nn.Module)]
        learns = any(parameter.requires_grad for network in modules for parameter in network.parameters())
        heard = ([encoder.tokenizer.words(caption) for encoder in encoders] for _, caption in self.data)
        best = [max(each, key=lambda words: sum(known for _, known in words)) for each in heard]
        return captions_heard(best, frozen=not learns)

    def told(self) -> Finding:
        """Whether captions are of their clips."""
        return captions_tell([x.float() for x, _ in self.data], [caption for _, caption in self.data])

    def order(self) -> Finding:
        """Whether the text encoder sees it."""
        return order_counts(self.made.pipe.encode, [caption for _, caption in self.data])

    def loss(self, made: Made) -> float:
        """Of the first steps' clips, as the networks are now."""
        steps = min(checks.SEVERAL, self.cfg.doctor.first_steps)
        batches = (batch for step in range(steps) for batch in made.batches[step])
        return checks.mean_loss(made.objective, batches, self.mesh, self.precision)

    def in_time(self) -> Finding:
        """Whether the first steps had to wait for their clips."""
        waits, rates = (column(self.begun[1], name)[1:] for name in ("data wait", "tokens/s"))
        return checks.in_time(waits, rates, peak_memory(self.mesh.device))

    def harm(self) -> Finding:
        """Whether the loss is no higher after them."""
        before, folder = self.begun
        rise = checks.VAE_RISE if self.made.pipe is None else checks.RISE
        return checks.harmless(before, self.loss(self.made), column(folder, "loss"), rise)

    def ranks(self) -> Finding:
        """The first steps on two processes, beside those on this one."""
        if self.mesh.device.type != "cpu" and torch.cuda.device_count() < 2:
            return Finding(checks.AGREE, "unknown", "there is one GPU")
        one, other = column(self.begun[1], "loss"), self.first_steps("on-2")
        run_on(2, other)
        return checks.ranks_agree(one, column(Path(other.run_dir), "loss"))

    @cached_property
    def one(self) -> ClipBatch | LatentBatch:
        """The batch of one clip that is learnt."""
        return copies(self.made)

    @cached_property
    def learnt(self) -> checks.Overfitted:
        """After the first steps many on one clip."""
        objective, steps, floor = self.made.objective, self.cfg.doctor.steps, self.cfg.optim.floor
        curve = warmup_decay(warmup=steps // 15, steps=steps, decay=steps // 3, floor=floor)
        found = checks.overfit(
            objective,
            self.cfg.optim.make()(objective.module, curve=curve),
            self.one,
            steps,
            mesh=self.mesh,
            clip_norm=self.cfg.loop.clip_norm,
            precision=self.precision,
            tell=self.tell,
        )
        self.pictures.losses = found.losses
        objective.module.eval()
        return found

    def tell(self, at: str) -> None:
        """Where in the check it is, for when that takes long."""
        self.at = f"{self.at.partition(', ')[0]}, {at}"

    @property
    def goal(self) -> float:
        """What part of its first loss one clip should be learnt to."""
        begun = self.made.pipe is None or self.cfg.init  # a VAE begins with principal components
        return checks.BEGUN_GOAL if begun else checks.NEW_GOAL

    def gradients(self) -> Finding:
        """Whether all that should has learnt."""
        objective, found = self.made.objective, self.learnt
        deaf = self.made.pipe is not None and not tokens(self.made, self.one.captions[0])
        return checks.gradients_reach(objective.module, self.meant(objective), found, deaf=deaf)

    @torch.no_grad()
    def restored(self) -> Finding:
        """The clip through the VAE that has learnt it."""
        vae, clips = self.made.objective.vae, self.one.clips.to(self.mesh.device)
        with autocast(self.mesh.device, self.precision):
            back = vae.reconstruct(vae.posterior(clips)[0]).float().clamp(-1, 1)
        self.pictures.add("the clip", clips[0])
        self.pictures.add("restored after learning it", back[0])
        return checks.comes_back(back, clips, checks.RESTORED)

    @torch.no_grad()
    def sampled(self) -> Finding:
        """The clip from its caption and noise, by the DiT that has learnt it."""
        pipe, wanted, caption = self.made.pipe, self.one.latents[0], self.one.captions[0]
        shape = LatentShape(*wanted.shape[1:])
        times = [linear(SAMPLING, pipe.shift(shape))]
        visited, [name] = pipe.path.own(visits("euler", times)), pipe.parts.experts
        with autocast(self.mesh.device, self.precision):
            velocity = rectified(pipe.path, pipe.network(name, pipe.encode([caption]), visited))
            made = sampler("euler")(velocity, [pipe.noise(0, shape).to(self.mesh.device)], times)[0]
            for label, latents in (("the clip", wanted), ("sampled after learning it", made)):
                clip = pipe.parts.vae.decode(latents[None].to(self.mesh.device))[0]
                self.pictures.add(f"{label}: {caption}", clip)
        return checks.comes_back(made.cpu(), wanted, checks.SAMPLED)

    @torch.no_grad()
    def packed(self) -> Finding:
        """Clips of a step together and one by one, by a DiT whose blocks have learnt to see."""
        objective, batch = self.made.objective, self.made.batches[1][0]
        few = LatentBatch(batch.latents[:CLIPS], batch.captions[:CLIPS], batch.indices[:CLIPS])
        alone = (LatentBatch([x], [c], [i]) for x, c, i in zip(few.latents, few.captions, few.indices, strict=True))
        with autocast(self.mesh.device, self.precision):
            return checks.packed_is_single(lambda b: objective.errors(b, 0)[0], few, alone, self.precision)

    def meant(self, objective: Objective) -> set[str]:
        """Names of what should train: all that `freeze` does not name, or the adapter."""
        names = named(objective.module).keys()
        if not objective.complete:
            return {name for name in names if is_adapter(name)}
        return {n for n in names if not any(n == part or n.startswith(f"{part}.") for part in self.cfg.freeze)}


def copies(made: Made) -> ClipBatch | LatentBatch:
    """A batch of one clip: for a DiT several times, each with its own noise and time.

    Of the clips that have a caption the one that costs least, or of all where none has.
    """
    if made.pipe is None:
        batch = made.batches[0][0]
        return ClipBatch(batch.clips[:1], [0])
    cache, batches = made.batches.cache, made.batches
    heard = [tokens(made, entry.caption) for entry in cache.entries]
    costs = [batches.size(i, cache.shape(i).frames) + words for i, words in enumerate(heard)]
    index = min(range(len(cache)), key=lambda i: (not heard[i], costs[i]))
    many = max(FEWEST, TOKENS // costs[index])
    latents, caption = cache[index]
    return LatentBatch([latents.float()] * many, [caption] * many, list(range(many)))


def tokens(made: Made, caption: str) -> int:
    """How many a caption has beside the ones that end it: without any there is nothing to attend to by choice."""
    return sum(encoder.tokenizer([caption])[1][0] - 1 for encoder in made.pipe.parts.text_encoders)
