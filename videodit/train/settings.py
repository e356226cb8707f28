"""What a training is told: every key of `videodit train` and `videodit doctor`, with its type, default and limits.

What has `_target_` in a config is a `factory.Factory` here, which makes the object when it is called, and each run of
`after` a `settings.Before`. Groups (model, vae, text, data, flow, optim, parallel, tracker, adapter) have no default
here: theirs are the files in conf/.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from videodit.factory import Factory
from videodit.settings import Number, group, key

FEW, SPARSE = 50, 20  # records of a short run, and steps between those of a long one


@dataclass(frozen=True, kw_only=True)
class Loop:
    """Numbers of the loop."""

    steps: int = key("how many in all", 20000, ge=1)
    clip_norm: Number = key("gradient norm above which gradients are scaled down", 1.0, gt=0)
    max_bad: int = key("consecutive steps with a non-finite loss or gradient after which the run stops", 5, ge=1)
    log_every: int | None = key("steps between records, else 50 in a short run, or one every 20 steps", None, ge=1)
    save_every: int = key("steps between checkpoints", 500, ge=1)
    sample_every: int = key("steps between samples", 2000, ge=1)

    def is_logged(self, step: int) -> bool:
        """Whether this many steps end with a record; the last ones do."""
        every = self.log_every or min(SPARSE, max(1, self.steps // FEW))
        return step % every == 0 or step == self.steps


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """What a run is called by services such as wandb; with -m: the job's own choices, and the sweep."""

    name: str = key("the run's name for trackers", "${name}")
    group: str = key("the group of runs that it is in", "")


@dataclass(frozen=True, kw_only=True)
class Crops:
    """A VAE's batches."""

    crops: list[Factory] = key("kinds of crops: frames, height, width, and how often (weight)", [
        {"_target_": "videodit.data.batches.Crop", "frames": 9, "height": 32, "width": 32, "weight": 0.6},
        {"_target_": "videodit.data.batches.Crop", "frames": 17, "height": 64, "width": 64, "weight": 0.3},
        {"_target_": "videodit.data.batches.Crop", "frames": 1, "height": 64, "width": 64, "weight": 0.1},
    ], min_length=1)  # fmt: skip
    pixels: int = key("of a step", 150000, ge=1)
    most: int | None = key("of a batch, where memory needs several a step", None, ge=1)
    per_clip: int = key("crops of one clip", 4, ge=1)


@dataclass(frozen=True, kw_only=True)
class VAELoss:
    """Weights of a VAE's losses; the last two need a critic."""

    absolute: Number = key("weight of the absolute error beside the squared one", 0.1, ge=0)
    structure: Number = key("weight of the structural similarity", 0, ge=0)
    kl: Number = key("weight of the divergence from a normal distribution", 5.0e-4, ge=0)
    noise: Number = key("deviation of the noise on latents, at the start", 0.1, ge=0)
    learn_noise: bool = key("whether that deviation is learnt", False)
    adversarial: Number = key("weight of the critic's opinion", 0, ge=0)
    perceptual: Number = key("weight of the distance between the critic's features", 0, ge=0)


@dataclass(frozen=True, kw_only=True)
class Packs:
    """A DiT's steps."""

    tokens: int = key("of a step", 4096, ge=1)
    most: int | None = key("of a batch, where memory needs several a step", None, ge=1)
    image: Number = key("share of clips of which one frame is taken", 0.25, ge=0, le=1)
    whole: Number = key("share of clips that are taken whole; others are cut to fewer frames", 0.5, ge=0, le=1)


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What is sampled every loop.sample_every steps, with averaged weights."""

    prompts: list[str] | None = key("else two of the data's captions", None)
    seed: int = key("of the samples' noise", 0, ge=0, lt=2**63)


@dataclass(frozen=True, kw_only=True)
class Teaching:
    """The model whose way a student goes in request.steps."""

    model: str = key("the teacher")
    steps: int = key("of the teacher", ge=1)
    guidance: Number = key("of the teacher")


@dataclass(frozen=True, kw_only=True)
class Flow:
    """The path between data and noise, and the times at which a training visits it."""

    name: str = key("the path's name")
    path: Factory = key("the path")
    times: Factory = key("the times")


@dataclass(frozen=True, kw_only=True)
class Optim:
    """The optimizer and its learning rate's curve."""

    make: Factory = key("the optimizer")
    warmup: int = key("steps", ge=0)
    decay: int = key("steps at the end that fall to the floor", ge=0)
    floor: Number = key("of the peak", ge=0, le=1)


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """How processes share a training."""

    replicate: int = key("copies of the weights")
    shard: int = key("processes that share the weights; -1: all that are left")
    context: int = key("processes that share a clip's tokens")
    recompute: Literal["nothing", "cheap", "blocks"] = key("what the backward pass computes again")
    compile: bool = key("torch.compile for the blocks")
    offload: bool = key("keep weights and optimizer in the CPU's memory between uses")


@dataclass(frozen=True, kw_only=True)
class Trackers:
    """Where a run's numbers go."""

    trackers: list[Factory] = key("the trackers")


@dataclass(frozen=True, kw_only=True)
class Train:
    """`videodit train`."""

    model: Factory = group("the DiT")
    vae: Factory = group("the VAE")
    text: Factory = group("the text encoder")
    data: dict[str, Any] = group("the data sets: train and heldout, lists")
    flow: Flow = group("the path")
    optim: Optim = group("the optimizer")
    parallel: Parallel = group("the processes")
    tracker: Trackers = group("the trackers")
    adapter: Any = group("what trains instead of the weights")

    name: str = key("of the run", "${stage}")
    run_dir: str = key("the run's folder", "runs/${name}")
    tracked: Tracked = key("for services such as wandb")
    stage: Literal["dit", "vae"] = key("what is trained: dit or vae", "dit")
    after: Any = key("runs that must be complete first, each a list of overrides", [])
    init: str = key("a model to start from, ours or a public one, as model= takes it elsewhere", "")
    vae_from: str = key(
        "the DiT's VAE: a model, the folder of a VAE run or a file; else that of init, or the toy's", ""
    )
    cache: str = key(
        "of latents and text states: ../cache, that of a set in the set; safe to delete, then made anew",
        "${data.cache}",
    )
    seed: int = key("of everything that is random", 0, ge=0, lt=2**63)
    limit: int | str | None = key(
        "at most so many clips of each data set, evenly spread; with plan=true a size: memory, as 24GiB", None
    )
    fresh: bool = key("start over instead of resuming", False)
    plan: bool = key("only say what a step will need: memory, time, a checkpoint's size", False)
    memory: Literal["check", "off"] = key("refuse, before any step, what cannot fit; off: try", "check")
    device: str = key("or cpu, cuda", "auto")
    precision: str = key("fp32, bf16, or bf16 where it is faster", "auto")
    kernel: str = key(
        "of attention: sdpa, varlen, flex, xformers; auto: on a GPU varlen for packs of unequal clips, else sdpa",
        "auto",
    )
    workers: int = key("processes that prepare batches", 1, ge=0)
    ema: Number = key("decay of the average that is sampled and published", 0.999, ge=0, lt=1)
    keep: int = key("checkpoints, two at least: whether the newest is sound shows in what comes of it", 2, ge=1)
    loop: Loop = key("numbers of the loop")
    crops: Crops = key("the VAE's batches")
    shared_std: bool = key("one deviation for all latent channels", True)
    vae_loss: VAELoss = key("weights of the VAE's losses")
    critic: Factory | None = key("or a videodit.models.critic.PatchCritic, for the last two of vae_loss", None)
    freeze: list[str] = key("parts that are not trained, such as encoder or text", [])
    packs: Packs = key("the DiT's steps, and batches of at most so many tokens")
    drop: Number = key("share of captions left out, for guidance", 0.1, ge=0, le=1)
    teacher: Teaching | None = key(
        "or {model: toy, steps: 20, guidance: 2.5}, whose way a student goes in request.steps", None
    )
    samples: Samples = key("what is sampled meanwhile")
    request: dict[str, Any] = key("the model's defaults of a request", {
        "height": 64, "width": 64, "frames": 17, "fps": "${data.fps}", "steps": 20, "guidance": 2.5, "sampler": "euler",
    })  # fmt: skip
    shift: Any = key(
        "towards the noise, of the training and the inference times", {"base_tokens": 80, "base_shift": 3.0}
    )
    area: list[int] = key(
        "pixels a frame that the model knows, least and most", [4096, 6144], min_length=2, max_length=2
    )


@dataclass(frozen=True, kw_only=True)
class Checks:
    """How long the doctor looks."""

    first_steps: int = key("as the run would begin, with smaller steps", 20, ge=1)
    ranks: bool = key("the same on two processes, which should agree with one", True)
    steps: int = key("then on one clip, which should be learnt to a small loss and sampled back", 60, ge=1)


@dataclass(frozen=True, kw_only=True)
class Doctor(Train):
    """`videodit doctor`."""

    limit: int | str | None = key("clips of each data set that it looks at, evenly spread", 48)
    out: str = key("an HTML page of the findings, with pictures", "")
    doctor: Checks = key("how long it looks")


@dataclass(frozen=True, kw_only=True)
class Encode:
    """`videodit encode`."""

    data: dict[str, Any] = group("the data sets")
    model: Factory = group("the DiT that the clips' sizes are for, without init=")
    init: str = key("the model that a training will start from", "")
    vae_from: str = key("the VAE: a model, the folder of a VAE run or a file; else that of init, or the toy's", "")
    cache: str = key("where latents are kept", "${data.cache}")
    device: str = key("or cpu, cuda", "auto")
    limit: int | None = key("at most so many clips of each data set, evenly spread", None, ge=1)
    workers: int = key("processes that read or render clips", 1, ge=0)
