"""What the sections of tools/gpu_page.py share: the page that they write to, sizes, clocks, random networks, plans."""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from videodit.checkpoint.parts import first
from videodit.config import conf_dir
from videodit.decode import Way
from videodit.errors import is_out_of_memory
from videodit.models.build import rebuild, with_depths
from videodit.models.interfaces import Stacked
from videodit.models.pack import Context, Ragged, Times, patchify, unpatchify
from videodit.plan.generation import Job, Planner, Setup
from videodit.plan.machine import GIB, Limit
from videodit.shapes import LatentShape

CHUNK = 4  # latent frames decoded at a time, as `generate` does
SEEN = 64 * 2**20  # bytes of a process's memory: less is lost among what else it takes and gives back
OWN = ("videodit", "tests", "tools")  # modules whose lack is no matter of the machine
PROMPTS = (40, 12)  # states of a prompt and of a negative one

Lengths = tuple[int, ...]
Shape = tuple[int, int, int]  # latent frames, rows, columns


@dataclass(frozen=True)
class Model:
    """A public model's transformer, with so many of its blocks (0: all), and the latents of a clip."""

    name: str
    family: str
    blocks: int
    shape: Shape


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    heads: of attention, how many and of how many channels. packs: by what they are called, tokens and keys of clips.
    change: arguments of the networks that are other than the public models'. batch: latents of a training step.
    clips: shapes of clips for packs and buckets. budget: tokens of their steps. layers: blocks of their DiT.
    rounds: how often each is timed. least: seconds that a kernel is timed. backend: of torch.compile.
    """

    heads: tuple[int, int]
    packs: Mapping[str, tuple[Lengths, Lengths]]
    models: tuple[Model, ...]
    change: Mapping[str, Mapping[str, Any]]
    batch: tuple[Shape, ...]
    clips: tuple[Shape, ...]
    count: int
    budget: int
    layers: int
    rounds: int
    least: float
    backend: str


VIDEO = 21, 60, 104  # 81 frames of 832x480
FULL = Scale(
    heads=(12, 128),
    packs={
        "self, mixed": ((32760, 14040, 14040, 7800, 1560, 1560),) * 2,
        "self, equal": ((32760, 32760),) * 2,
        "self, short": ((1560, 390, 390, 1170, 1560, 780, 390, 1560),) * 2,
        "cross, mixed": ((32760, 14040, 14040, 7800, 1560, 1560), (41, 13, 90, 25, 121, 8)),
    },
    models=(
        Model("1.3B", "wan2.1-t2v-1.3b", 0, VIDEO),
        Model("14B", "wan2.1-t2v-14b", 8, VIDEO),
    ),
    change={"dit": {}, "vae": {}},
    batch=((13, 60, 104), (9, 60, 104), (5, 104, 60), (1, 60, 104), (1, 104, 60)),
    clips=tuple((t, h, w) for t in (1, 3, 5, 9) for h, w in ((30, 52), (52, 30), (40, 40))),
    count=60, budget=16384, layers=8, rounds=3, least=0.2, backend="inductor",
)  # fmt: skip
TINY = Scale(
    heads=(2, 16),
    packs={"self, mixed": ((24, 9, 40, 16),) * 2, "cross, mixed": ((24, 9, 40, 16), (5, 9, 1, 7))},
    models=(Model("1.3B", "wan2.1-t2v-1.3b", 0, (2, 4, 6)), Model("14B", "wan2.1-t2v-14b", 1, (2, 4, 6))),
    change={
        "dit": {"dim": 32, "layers": 2, "heads": 2, "ffn": 64, "text_dim": 16, "frequency_dim": 16},
        "vae": {"base": 4, "decoder_base": 4},
    },
    batch=((3, 4, 6), (1, 6, 4)),
    clips=((1, 4, 4), (3, 4, 4), (2, 4, 6)),
    count=9, budget=48, layers=1, rounds=1, least=0.01, backend="eager",
)  # fmt: skip
SCALES = {"full": FULL, "tiny": TINY}


class Page:
    """What a section knows and writes: each row and line goes to a file at once, as a section may be stopped."""

    def __init__(self, scale: str, seconds: float, file: Path) -> None:
        self.scale, self.file, self.ends = SCALES[scale], file, time.monotonic() + seconds
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = torch.bfloat16 if self.cuda else torch.float32
        self.told: set[str] = set()

    @property
    def cuda(self) -> bool:
        """Whether there is a GPU."""
        return self.device.type == "cuda"

    @property
    def left(self) -> float:
        """Seconds that the section still has."""
        return self.ends - time.monotonic()

    def row(self, table: str, **values: Any) -> None:
        """A row of a table; the first value tells it from the others."""
        self._write("row", table, values)

    def leave_out(self, line: str) -> None:
        """Say what is not measured, and why; once."""
        if line not in self.told:
            self.told.add(line)
            self._write("left_out", "", line)

    def note(self, line: str) -> None:
        """Say what the rows stand for."""
        self._write("notes", "", line)

    def fail(self, line: str) -> None:
        """Say what went wrong."""
        self._write("failed", "", line)

    def has(self, module: str, for_what: str) -> bool:
        """Whether a library is there; a line says what its lack leaves out."""
        try:
            found = util.find_spec(module) is not None
        except ImportError:
            found = False
        if not found:
            self.leave_out(f"{for_what}: {module} is missing")
        return found

    @contextmanager
    def case(self, name: str) -> Iterator[None]:
        """Around one thing to measure: too little memory leaves it out, an error fails it, and the others go on."""
        self.free()
        try:
            yield
        except Exception as error:
            line = (str(error).strip() or "no message").splitlines()[0][:300]
            if is_out_of_memory(error):
                self.leave_out(f"{name}: too little memory ({line})")
            elif isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] not in OWN:
                self.leave_out(f"{name}: {error.name} is missing")
            else:
                self.fail(f"{name}: {type(error).__name__}: {line}")

    def enough(self, name: str, seconds: float) -> bool:
        """Whether so many seconds are left; a line says so where they are not. Nothing is too long on a CPU's scale."""
        if self.left < (seconds if self.scale is FULL else 1.0):
            self.leave_out(f"{name}: {max(0.0, self.left):.0f} s are left, it needs about {seconds:.0f}")
            return False
        return True

    def free(self) -> None:
        """Give back what nothing refers to."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def now(self) -> float:
        """Seconds, when all that was asked of a GPU is done."""
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def timed(self, work: Callable[[], object]) -> float:
        """The median time of a call, of at least three after one that warms up."""
        seconds: list[float] = []
        work()
        while len(seconds) < 3 or sum(seconds) < self.scale.least:
            began = self.now()
            work()
            seconds.append(self.now() - began)
        return statistics.median(seconds)

    def in_turns(self, works: Sequence[Callable[[], Any]]) -> tuple[list[float], list[Any]]:
        """The median time of each, which take turns, and what each gave in the round that warms up."""
        given = [work() for work in works]
        seconds: list[list[float]] = [[] for _ in works]
        for _ in range(self.scale.rounds):
            for work, own in zip(works, seconds, strict=True):
                began = self.now()
                work()
                own.append(self.now() - began)
        return [statistics.median(own) for own in seconds], given

    def held(self) -> int:
        """Bytes of the device's memory in tensors; on a CPU those of the process."""
        return torch.cuda.memory_allocated() if self.cuda else _status("VmRSS")

    def peak(self, work: Callable[[], object]) -> int:
        """The most bytes that were held during a call."""
        self.free()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")
        work()
        return torch.cuda.max_memory_allocated() if self.cuda else _status("VmHWM")

    def beside_plan(self, case: str, planned: int, measured: int) -> None:
        """A row of memory: tensors alone on both sides."""
        ratio = planned / measured if measured > (0 if self.cuda else SEEN) else None
        sizes = {"planned, GiB": planned / GIB, "measured, GiB": measured / GIB}
        self.row("memory", case=case, **sizes, ratio=ratio)

    def _write(self, kind: str, name: str, value: Any) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps([kind, name, value]) + "\n")


def _status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def family(page: Page, model: Model) -> dict[str, Any]:
    """The numbers of a public model in conf/pretrained, read without hydra, at the page's scale."""
    folder = conf_dir() / "pretrained"
    found = yaml.safe_load((folder / f"{model.family}.yaml").read_text())
    for part in ("vae", "text"):
        found[part] = yaml.safe_load((folder / "parts" / f"{found[part]}.yaml").read_text())
    for part, change in page.scale.change.items():
        found[part]["arguments"].update(change)
    found["layers"] = found["dit"]["arguments"]["layers"]
    if model.blocks:
        found["dit"]["arguments"]["layers"] = model.blocks
    return found


def random_network(spec: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A network with random weights, made where it computes; what it names KEEP_FP32 is in float32."""
    with torch.device("meta"):
        network = rebuild(spec["architecture"], spec["arguments"])
    exact = network.KEEP_FP32 if isinstance(network, Stacked) else ()
    torch.manual_seed(0)
    state = {}
    for name, value in network.state_dict().items():
        own = torch.float32 if any(name.startswith(one) or name.endswith(one) for one in exact) else dtype
        if name in ("mean", "std"):  # a VAE's statistics
            state[name] = torch.full(value.shape, float(name == "std"), device=device, dtype=own)
        elif value.dim() == 1 and name.endswith("weight"):
            state[name] = torch.ones(value.shape, device=device, dtype=own)
        else:
            state[name] = torch.empty(value.shape, device=device, dtype=own).normal_(std=0.02)
    network.load_state_dict(state, strict=True, assign=True)
    return network


class Guided:
    """A step with guidance of a DiT: prompt and negative in one pack, as `generate` makes it."""

    def __init__(self, page: Page, dit: Any, shape: Shape, *, keep: bool = True) -> None:
        self.dit, self.shapes = dit, [LatentShape(*shape)] * 2
        of = torch.Generator().manual_seed(0)
        self.x = torch.randn(dit.channels, *shape, generator=of).to(page.device, page.dtype)
        states = torch.randn(sum(PROMPTS), dit.streams["text"].width, generator=of)
        self.context = Context({"text": Ragged(states.to(page.device, page.dtype), PROMPTS)})
        self.times = Times(torch.tensor([0.613], dtype=torch.float64), (0, 0))
        self.keep, self.session = keep, None

    @torch.no_grad()
    def __call__(self) -> Tensor:
        """The velocities of both (2,C,t,h,w)."""
        pack = patchify([self.x, self.x], self.dit.patch)
        if self.session is None:
            times = self.times.values if self.keep else None
            self.session = self.dit.prepare(self.context, pack, times=times, keep=self.keep)
        return torch.stack(unpatchify(self.dit(pack, self.times, self.session), self.shapes, self.dit.patch))

    @property
    def flops(self) -> float:
        """Floating-point operations of its matmuls."""
        tokens = self.shapes[0].grid(self.dit.patch).count
        return sum(self.dit.flops(tokens, self.dit.attended(length)) for length in PROMPTS)


@dataclass(frozen=True)
class Sketch:
    """A network as a plan sees it: what it is, and no weights."""

    spec: Mapping[str, Any]

    @cached_property
    def skeleton(self) -> Any:
        """Without values."""
        with torch.device("meta"):
            return rebuild(self.spec["architecture"], self.spec["arguments"]).eval().requires_grad_(False)

    @cached_property
    def outline(self) -> Any:
        """With one block in each stack."""
        return Sketch(with_depths(self.spec)).skeleton


def planned(page: Page, found: Mapping[str, Any], shape: Shape, vae_dtype: torch.dtype, offload: str) -> dict[str, int]:
    """Bytes by stage that the plan of a generation says of one network at a time, without what the process holds."""
    parts = {}
    for name in ("dit", "text", "vae"):
        parts[name] = Sketch({key: found[name][key] for key in ("architecture", "arguments")})
    sizes = {"sizes": lambda role: first(parts, role).outline}
    model = SimpleNamespace(parts=parts, experts=["dit"], device=page.device, **sizes)
    planner = Planner(model, Limit("none", 2**60), base=0)
    prompts, negatives = ({"text": one} for one in (PROMPTS[:1], PROMPTS[1:]))
    job = Job(shapes=(LatentShape(*shape),), prompts=prompts, negatives=negatives, calls=1, guided=True)
    setup = Setup("block" if offload == "block" else "model", page.dtype, Way(CHUNK), vae_dtype=vae_dtype)
    return {stage.name: stage.memory for stage in planner.plan(job, setup).stages}
