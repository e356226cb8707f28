"""The networks of a model: where each one's weights lie, and how and when they are opened.

A `Part` says what a network is and where its tensors are; nothing of it is read before `Part.load`. `Components` opens
parts as they are asked for.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from hashlib import sha256
from math import prod
from pathlib import Path
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn

from videodit.accel.compiling import compile_blocks
from videodit.accel.int8 import suits_int8, to_int8
from videodit.accel.offload import stream
from videodit.alive import doing
from videodit.checkpoint.keymap import Table, match
from videodit.checkpoint.parts import ROLES, name_of, of_role
from videodit.checkpoint.store import HEADER, spec_of
from videodit.checkpoint.weights import Weights
from videodit.errors import InputError
from videodit.models.build import checked, role_of, with_depths, without_weights
from videodit.models.interfaces import DENOISER, TEXT_ENCODER, VAE, Denoiser
from videodit.models.pack import Ragged
from videodit.models.text import TextEncoder, Tokenizer
from videodit.models.vae import VideoVAE

Delta = Callable[[Tensor], Tensor]  # a weight as the file has it, exact -> what is added to it


@dataclass(frozen=True)
class Part:
    """One network on disk.

    Args:
        spec: its architecture and arguments (models/build.py).
        weights: its files.
        table: what the files call our weights; None if they use our names.
        constants: values that the files lack, such as a VAE's statistics.
        added: what adapters (checkpoint/adapters.py) add to the weights of these names, as these are read.
        adapters: fingerprint and strength of each of them.
        step: of the training that wrote it, where the file says so.
    """

    spec: Mapping[str, Any]
    weights: Weights
    table: Table | None = None
    constants: Mapping[str, Any] = field(default_factory=dict)
    added: Mapping[str, Sequence[Delta]] = field(default_factory=dict)
    adapters: tuple[str, ...] = ()
    step: int | None = None

    def __post_init__(self) -> None:
        """Complete the architecture's arguments. Raises InputError for what no network of this version has."""
        object.__setattr__(self, "spec", checked(self.spec, self.weights.source))

    @classmethod
    def own(cls, path: Path) -> Part:
        """A file of ours, whose header says what it is."""
        weights = Weights([path])
        spec = spec_of(weights.metadata.get(HEADER), path)
        step = spec.pop("step", None)
        return cls(spec, weights, step=step if isinstance(step, int) else None)

    @cached_property
    def skeleton(self) -> nn.Module:
        """The network without weights, on the meta device, for its sizes."""
        return without_weights(self.spec).eval().requires_grad_(False)

    @cached_property
    def outline(self) -> nn.Module:
        """The network with one block in each stack, for sizes that do not depend on their number."""
        return replace(self, spec=with_depths(self.spec)).skeleton

    @cached_property
    def sources(self) -> dict[str, tuple[str, Any]]:
        """For each of our names, the files' name and what makes its values ours. Checks names and shapes."""
        wanted = {name: tensor.shape for name, tensor in self.skeleton.state_dict().items()}
        names, source = self.weights.names, self.weights.source
        if self.table is None:
            missing, unexpected = sorted(wanted.keys() - set(names)), sorted(set(names) - wanted.keys())
            if missing or unexpected:
                raise InputError(f"{source}: missing tensors {missing[:5]}, unexpected tensors {unexpected[:5]}")
            found = {name: (name, _same) for name in names}
        else:
            found = match(names, self.table, wanted.keys() - self.constants.keys(), source=source)
        for ours, (theirs, change) in found.items():
            self.weights.check_floats(theirs)
            try:
                shape = change(torch.empty(self.weights.shapes[theirs], device="meta")).shape
            except (RuntimeError, ValueError, IndexError):  # of torch and einops, for what cannot be arranged so
                shape = None
            if shape != wanted[ours]:
                given = self.weights.shapes[theirs] if shape is None else tuple(shape)
                order = "" if self.table is None or shape is None else " in our order"
                raise InputError(f"{source}: {theirs} is {given}{order}, expected {tuple(wanted[ours])}")
        return found

    def read(self, name: str, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Tensor:
        """One tensor by our name, with what adapters add."""
        tensor = self._of_file(name)
        return self._sum(name, tensor, device, dtype) if name in self.added else _to(tensor, dtype, device)

    def _of_file(self, name: str) -> Tensor:
        theirs, change = self.sources[name]
        return change(self.weights.read(theirs))

    def _sum(self, name: str, tensor: Tensor, device: str | torch.device, dtype: torch.dtype | None) -> Tensor:
        """A tensor of the files and what adapters add: made in float32 (or float64), rounded once."""
        exact = tensor.to(device, torch.promote_types(tensor.dtype, torch.float32))
        total = exact.clone()
        for delta in self.added[name]:
            total += delta(exact)
        return total.to(dtype or tensor.dtype)

    def load(
        self,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        streamed: bool = False,
        int8: bool = False,
    ) -> nn.Module:
        """The network with its weights: mapped where the files' type is the one asked for, else converted once.

        `streamed`: the weights of its blocks stay in the files until a block runs, and go after it. `int8`: else the
        matrices of its blocks become 8-bit numbers.
        """
        with doing(f"load {self.weights.source}"):
            return self._load(device, dtype, streamed, int8)

    def _load(self, device: str | torch.device, dtype: torch.dtype | None, streamed: bool, int8: bool) -> nn.Module:
        self.sources  # noqa: B018 - the check comes before anything is read
        module = without_weights(self.spec)
        stacks, exact = module.stacks(), module.KEEP_FP32
        streamed = streamed and bool(stacks)
        state = {}
        for ours in self.sources:
            inside = ours.startswith(tuple(f"{stack}." for stack in stacks))
            wide = dtype is not None and any(ours.startswith(part) or ours.endswith(part) for part in exact)
            if inside and streamed:
                tensor = self._of_file(ours)
                if not self.weights.is_mapped(self.sources[ours][0]):  # it would stay, in more bytes than the file's
                    tensor = tensor.to(torch.float32 if wide else dtype or tensor.dtype)
            else:
                tensor = self.read(ours, device=device, dtype=torch.float32 if wide else dtype)
                tensor = to_int8(tensor) if inside and int8 and suits_int8(ours, tensor.shape) else tensor
            state[ours] = tensor
        self.weights.close()  # what is mapped now is what the network uses
        for name, values in self.constants.items():
            state[name] = torch.tensor(values, dtype=dtype or torch.float32, device=device)
        module.load_state_dict(state, strict=True, assign=True)
        for stack, blocks in stacks.items() if streamed else ():
            start = f"{stack}."
            sums = {n.removeprefix(start): partial(self._sum, n) for n in self.added if n.startswith(start)}
            stream(blocks, torch.device(device), dtype or torch.float32, exact, sums)
        return module.eval()

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits for what the network computes: its files and its adapters."""
        own = self.weights.fingerprint
        return sha256("/".join([own, *self.adapters]).encode()).hexdigest()[:16] if self.adapters else own

    @property
    def count(self) -> int:
        """Number of parameters."""
        return sum(prod(shape) for shape in self.weights.shapes.values())


def load_model(path: Path, *, device: str = "cpu", dtype: torch.dtype | None = None) -> nn.Module:
    """The network of a file of ours, as its header describes it."""
    return Part.own(path).load(device=device, dtype=dtype)


class Components:
    """A model's networks, opened when first asked for.

    With `offload` "model" only one is open at a time, with "block" also only one block of it. With `quantize` "int8"
    the text encoders and the DiTs have 8-bit matrices; with `compiled` the DiTs' blocks are compiled.

    Threads may share it: with `offload` "none" they use the networks at once, else one after the other (`in_use`).

    Args:
        name: what the user called it.
        pipeline: the flow, the shift, the sizes it knows, a request's defaults.
        tokenizers: of the text encoders, by their names.
        dtype: of the weights, but for the VAE's where the pipeline says another.
        parts: networks on disk.
        networks: networks that are open already and stay so.
        fingerprints: of the weights; those of `parts` are added.
        lora: the adapters that were asked for beside the model, with their strengths, for the record.
    """

    def __init__(
        self,
        *,
        name: str,
        pipeline: Mapping[str, Any],
        tokenizers: Mapping[str, Tokenizer],
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        parts: Mapping[str, Part] | None = None,
        networks: Mapping[str, nn.Module] | None = None,
        fingerprints: Mapping[str, str] | None = None,
        offload: str = "none",
        quantize: str = "",
        compiled: bool = False,
        lora: Mapping[str, float] | None = None,
    ) -> None:
        self.lora = dict(lora or {})
        self.name, self.pipeline, self.tokenizers = name, pipeline, tokenizers
        self.device, self.dtype, self.offload = device, dtype, offload
        self.vae_dtype = getattr(torch, pipeline.get("vae_dtype", ""), dtype)
        self.quantize, self.compiled = quantize, compiled
        self.parts, self._given = dict(parts or {}), dict(networks or {})
        self._open: dict[str, nn.Module] = {}
        self._fingerprints = dict(fingerprints or {})
        self._lock = RLock()

    def opened_as(self, *, offload: str, compiled: bool) -> Components:
        """The same model, of which nothing is open yet, with networks that are opened so."""
        how = {"offload": offload, "compiled": compiled, "quantize": self.quantize, "lora": self.lora}
        own = {"parts": self.parts, "networks": self._given, "fingerprints": self._fingerprints}
        return Components(name=self.name, pipeline=self.pipeline, tokenizers=self.tokenizers, device=self.device,
                          dtype=self.dtype, **own, **how)  # fmt: skip

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Networks are used inside of the `with` block: by one thread at a time where they, or their blocks, come and
        go, since a thread that opens one would close another's.
        """
        with nullcontext() if self.offload == "none" else self._lock:
            yield

    def network(self, name: str, device: str = "") -> Any:
        """The network of that name (`checkpoint.parts.NAMES`), on the device or on another one."""
        with self._lock:
            return self._network(name, device)

    def _network(self, name: str, device: str) -> Any:
        if name in self._given:
            return self._given[name]
        if device and device != self.device.type:
            self._close()
            return self.parts[name].load(device=device, dtype=torch.float32).requires_grad_(False)
        if name not in self._open:
            if self.offload != "none":
                self._close()
            how = {"streamed": self.offload == "block", "int8": self.quantize == "int8"}
            dtype = self.vae_dtype if ROLES[name] == VAE else self.dtype
            network = self.parts[name].load(device=self.device, dtype=dtype, **how)
            if isinstance(network, Denoiser) and self.compiled:
                for stack in network.stacks().values():
                    compile_blocks(stack)
            self._open[name] = network.requires_grad_(False)
        return self._open[name]

    def _close(self) -> None:
        self._open.clear()
        gc.collect()  # compiled blocks refer to themselves

    def names(self, role: str) -> list[str]:
        """The networks that do this, in order: of denoisers the one for the most noise first."""
        return of_role([*self._given, *self.parts], role)

    def sizes(self, role: str) -> Any:
        """The network that does this, the first of several, to ask for its sizes: perhaps without weights."""
        name = self.names(role)[0]
        return self._given[name] if name in self._given else self.parts[name].outline

    @property
    def keeps(self) -> bool:
        """Whether what is computed from a denoiser's weights may be kept while it denoises: they are all there."""
        return self.sizes(DENOISER).steady and self.offload != "block"

    @property
    def experts(self) -> list[str]:
        """The denoisers, the one for the most noise first."""
        return self.names(DENOISER)

    @property
    def dit(self) -> Denoiser:
        """The denoiser (for the most noise, if there are two)."""
        return self.network(self.experts[0])

    @property
    def text_encoders(self) -> list[TextEncoder]:
        """The text encoders, in order. Each network is opened as it is called."""
        names = self.names(TEXT_ENCODER)
        return [TextEncoder(name, self.tokenizers[name], partial(self._states, name)) for name in names]

    def _states(self, name: str, ids: Tensor, lengths: tuple[int, ...]) -> Ragged:
        return self.network(name)(ids.to(self.device), lengths)

    @property
    def vae(self) -> VideoVAE:
        """The VAE."""
        return self.network(self.names(VAE)[0])

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """A hash of each network's weights."""
        return self._fingerprints | {name: part.fingerprint for name, part in self.parts.items()}


def check_parts(parts: Mapping[str, Part]) -> None:
    """InputError where a part is another kind of network than its name says, lacks a tensor or does not fit the others.

    Files' headers alone are read: what is wrong with a VAE is told before a video is denoised for it.
    """
    for name, part in parts.items():
        if role_of(part.spec) != ROLES[name]:
            raise InputError(f"{part.weights.source}: it holds another architecture than its name says")
    if told := misfits(parts):
        raise InputError(told[0])
    for part in parts.values():
        part.sources  # noqa: B018 - the check is what is wanted


def lacking(parts: Mapping[str, Part]) -> list[str]:
    """What a model with these parts cannot do without, and is not there: of text encoders those that denoisers read."""
    denoisers = [one for one in (parts[name].outline for name in of_role(parts, DENOISER)) if isinstance(one, Denoiser)]
    read = [stream for network in denoisers for stream in network.streams]
    encoders = of_role(read, TEXT_ENCODER) or [name_of(TEXT_ENCODER)]
    return [name for name in (name_of(DENOISER), *encoders, name_of(VAE)) if name not in parts]


def misfits(parts: Mapping[str, Part]) -> list[str]:
    """What does not fit of the parts that are there, in words."""
    told, found = [], {name: part.outline for name, part in parts.items()}
    denoisers = [name for name in parts if ROLES[name] == DENOISER]

    def compare(name: str, key: str, mine: Any, other: str, its: str, theirs: Any) -> None:
        if mine != theirs:
            two = f"its {key} is {mine}, but {its} of {parts[other].weights.source} is {theirs}"
            told.append(f"{parts[name].weights.source}: {two}; they should be the same")

    for name in denoisers:
        network = found[name]
        for other, part in found.items():
            if ROLES[other] == VAE:
                compare(name, "channels", network.channels, other, "latent_channels", part.latent_channels)
                compare(name, "out_channels", network.out_channels, other, "latent_channels", part.latent_channels)
            elif ROLES[other] == TEXT_ENCODER:
                width = network.streams[other].width if other in network.streams else None
                compare(name, "text_dim", width, other, "dim", part.dim)
        compare(name, "patch", list(network.patch), denoisers[0], "patch", list(found[denoisers[0]].patch))
    return told


def _same(x: Tensor) -> Tensor:
    return x


def _to(x: Tensor, dtype: torch.dtype | None, device: str | torch.device) -> Tensor:
    return x.to(device, dtype if x.is_floating_point() else None)
