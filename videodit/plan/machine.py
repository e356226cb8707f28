"""What the machine has: the memory limits that bind, and how fast it multiplies, convolves, attends and copies."""

from __future__ import annotations

import re
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from videodit.checkpoint.store import write_json
from videodit.config import cache_dir
from videodit.errors import InputError
from videodit.models.vae import VideoVAE
from videodit.nn import winograd
from videodit.nn.linear import Linear
from videodit.plan.trace import Trace
from videodit.untrusted import read_json

GIB = 2**30
UNLIMITED = 2**60
UNITS = {"": GIB, "gib": GIB, "gb": 10**9, "mib": 2**20, "mb": 10**6}


@dataclass(frozen=True)
class Limit:
    """Bytes that may still be taken, and by whom they are limited."""

    name: str
    free: int


def limits(device: torch.device) -> list[Limit]:
    """The limits on the memory of a device, the tightest first."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what torch keeps for itself is free as well
        free, _ = torch.cuda.mem_get_info(device)
        return [Limit(torch.cuda.get_device_name(device), free)]
    found = [Limit("the machine's memory", _proc("/proc/meminfo", "MemAvailable"))]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        found.append(Limit("RLIMIT_AS (ulimit -v)", max(0, soft - _proc("/proc/self/status", "VmSize"))))
    found += _cgroup(Path("/sys/fs/cgroup"))
    return sorted(found, key=lambda limit: limit.free)


def resident() -> int:
    """Bytes of memory that this process holds now."""
    return _proc("/proc/self/status", "VmRSS", missing=0)


def _proc(path: str, key: str, *, missing: int = UNLIMITED) -> int:
    """Bytes under that key of a file below /proc; `missing` where a system has no such file or key."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return missing
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), missing)


def _cgroup(root: Path) -> list[Limit]:
    """The limit of this process's control group and of those above it, version 2 or 1."""
    found = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = root / controllers if controllers else root
        most, used = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else (
            "memory.max", "memory.current"
        )  # fmt: skip
        folder = top / place.lstrip("/")
        for here in (folder, *folder.parents):
            if (here / most).is_file():
                text = (here / most).read_text().strip()
                if text.isdigit() and int(text) < UNLIMITED:
                    found.append(Limit("the control group", max(0, int(text) - int((here / used).read_text()))))
            if here == root:
                break
    return found


@dataclass(frozen=True)
class Rates:
    """Operations a second by kind, bytes a second, and seconds that any operation costs."""

    matmul: float
    conv: float
    winograd: float
    attention: float
    bytes: float
    call: float

    def seconds(self, work: dict[str, float], calls: int) -> float:
        """How long that work takes."""
        return sum(amount / getattr(self, kind) for kind, amount in work.items()) + calls * self.call


def rates(device: torch.device, dtype: torch.dtype) -> Rates:
    """Measured the first time, then remembered for this machine."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu-{torch.get_num_threads()}"
    key = "-".join([name, str(dtype).split(".")[-1], torch.__version__]).replace(" ", "-").replace("/", "-")
    path = cache_dir() / "rates" / f"{key}.json"
    try:
        return Rates(**read_json(path, dict[str, float]))
    except (InputError, TypeError):
        measured = _measure(device, dtype)
        write_json(path, asdict(measured))
        return measured


@torch.inference_mode()
def _measure(device: torch.device, dtype: torch.dtype) -> Rates:
    big = 8192 if device.type == "cuda" else 1024
    a, layer = torch.randn(big, big, device=device, dtype=dtype), Linear(big, big).to(device, dtype)
    space = (180, 320) if device.type == "cuda" else (60, 104)
    x = torch.randn(1, 192, 4, *space, device=device, dtype=dtype).to(memory_format=torch.channels_last_3d)
    w = torch.randn(192, 192, 3, 3, 3, device=device, dtype=dtype).to(memory_format=torch.channels_last_3d)
    past, row = x[:, :, :2].contiguous(memory_format=torch.channels_last_3d), torch.ones_like(w[0, :, 0, 0, 0])
    length = 8192 if device.type == "cuda" else 1024
    q = torch.randn(1, 8, length, 128, device=device, dtype=dtype)
    y = torch.randn(2**28 if device.type == "cuda" else 2**24, device=device, dtype=dtype)
    return Rates(
        matmul=2 * big**3 / _best(lambda: layer(a), device),
        winograd=winograd.flops(x, w) / _best(lambda: winograd.conv(x, past, w, row, row, x), device)
        if winograd.suits(x, w)
        else 1.0,
        conv=2 * 27 * 192**2 * 4 * space[0] * space[1] / _best(lambda: F.conv3d(x, w, padding=1), device),
        attention=4 * 8 * length**2 * 128 / _best(lambda: F.scaled_dot_product_attention(q, q, q), device),
        bytes=3 * y.numel() * y.element_size() / _best(lambda: y + y, device),
        call=_overhead(device, dtype),
    )


def _overhead(device: torch.device, dtype: torch.dtype) -> float:
    """Seconds that an operation costs however small it is: those of a network whose operations all are."""
    sizes = {"latent_channels": 4, "base": 8, "decoder_base": 8, "multipliers": (1, 2), "blocks": 2, "patch": 1}
    kind = {"spatial": (True,), "temporal": (True,), "shortcuts": True, "linear": False}
    vae = VideoVAE(**sizes, **kind).to(device, dtype).eval()
    latents = torch.zeros(1, 4, 2, 4, 4, device=device, dtype=dtype)
    with Trace() as trace:
        vae.decode(latents)
    return _best(lambda: vae.decode(latents), device) / trace.calls


def _best(work: Callable[[], object], device: torch.device, least: float = 0.3) -> float:
    """Seconds of the fastest of several tries, for as long as it takes to see one that nothing disturbed."""
    seconds: list[float] = []
    while len(seconds) < 4 or sum(seconds) < least:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def room(limit: Limit, base: int) -> Limit:
    """The limit counted from nothing, as stages are, which hold what the process holds already."""
    return Limit(limit.name, limit.free + base)


def size_of(text: str) -> int:
    """Bytes of a size such as 24GiB."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)\s*", str(text))
    if not match or match[2].lower() not in UNITS:
        raise InputError(f"limit={text}: expected a size such as 24GiB or 800MB")
    return int(float(match[1]) * UNITS[match[2].lower()])
