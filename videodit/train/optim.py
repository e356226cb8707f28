"""Optimizers and lr curves.

AdamW for everything, or Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) for the matrices of the blocks
and AdamW for the rest. Both are torch's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn

from videodit.checkpoint.parts import ROLES
from videodit.errors import InputError
from videodit.models.interfaces import TEXT_ENCODER, Denoiser
from videodit.parallel.mesh import Mesh
from videodit.parallel.muon import muons
from videodit.parallel.shard import held, like, local, named, square_norms, sum_gradients

Curve = Callable[[int], float]  # step -> factor on the learning rate

# What the state of a parameter consists of.
ENTRIES = MappingProxyType(
    {torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"}, torch.optim.Muon: {"momentum_buffer"}}
)

Make = Callable[[dict[str, nn.Parameter]], list[torch.optim.Optimizer]]


class Optimizer:
    """Torch's optimizers over the trained parameters of a module, their lr curve, and their state as named tensors.

    Where parameters are sharded they step on what this process holds of each. `make`: of those, by name.
    """

    def __init__(self, *, module: nn.Module, make: Make, curve: Curve) -> None:
        self.parameters = {name: p for name, p in named(module).items() if p.requires_grad}
        self.parts = {name: held(p) for name, p in self.parameters.items()}
        self.names = {id(part): name for name, part in self.parts.items()}
        self.optimizers = make(self.parts)
        self.curve = curve
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["peak_lr"] = group["lr"]

    def norms(self, mesh: Mesh) -> dict[str, float]:
        """Take over the gradients, summed over all processes; the norm of each parameter's."""
        sum_gradients(self.parameters.values(), mesh)
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                self.parts[name].grad = local(parameter.grad)
        grads = [part.grad for part in self.parts.values()]
        squares = square_norms(list(self.parameters.values()), grads, mesh)
        return dict(zip(self.parts, squares.sqrt().tolist(), strict=True))

    def scale(self, factor: float) -> None:
        """Multiply the gradients."""
        torch._foreach_mul_([part.grad for part in self.parts.values() if part.grad is not None], factor)

    def step(self, step: int) -> dict[str, float]:
        """Update the parameters with the learning rates of this step, which it gives."""
        factor, rates = self.curve(step), {}
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
                rates[f"lr/{group.get('label', 'muon')}"] = group["lr"]
            optimizer.step()
        return rates

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for group in (self.parameters, self.parts):
            for parameter in group.values():
                parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """Every tensor of the optimizers' state, as "parameter name:state name"."""
        return {
            f"{self.names[id(part)]}:{key}": self._sharded(self.names[id(part)], value)
            for optimizer in self.optimizers
            for part, values in optimizer.state.items()
            for key, value in values.items()
            if isinstance(value, Tensor)
        }

    def blank(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """Tensors to fill with a state saved earlier, whose names and shapes these are. It becomes the optimizers'.

        Raises InputError where it is of another kind of optimizer.
        """
        entries: dict[str, set[str]] = {}
        for key in shapes:
            name, _, entry = key.rpartition(":")
            entries.setdefault(name, set()).add(entry)
        found = {}
        for optimizer in self.optimizers:
            for part in (part for group in optimizer.param_groups for part in group["params"]):
                name = self.names[id(part)]
                if name not in entries:
                    continue
                if entries[name] != next(own for kind, own in ENTRIES.items() if isinstance(optimizer, kind)):
                    raise InputError(
                        f"the checkpoint's optimizer is not {type(optimizer).__name__} ({name}): resume with the "
                        "optim= it was made with, or start over with fresh=true"
                    )
                values = {}
                for entry in entries[name]:
                    scalar = shapes[f"{name}:{entry}"] == ()
                    values[entry] = torch.zeros((), device=part.device) if scalar else torch.zeros_like(part)
                    found[f"{name}:{entry}"] = self._sharded(name, values[entry])
                optimizer.state[part] = values
        return found

    def _sharded(self, name: str, value: Tensor) -> Tensor:
        return like(value, self.parameters[name]) if value.dim() else value


def adamw(
    module: nn.Module, *, lr: float, text_lr: float, betas: Sequence[float], weight_decay: float, curve: Curve
) -> Optimizer:
    """AdamW (Loshchilov & Hutter 2017); matrices and kernels decay, vectors do not.

    `text_lr` is the text encoders'. T5 does not scale its queries and keys: at a rate that a DiT likes they grow until
    a token attends to one other alone, and the states of a caption no longer tell which word belongs to which.
    """

    def make(parts: dict[str, nn.Parameter]) -> list[torch.optim.Optimizer]:
        return [_adamw(parts, lr, text_lr, betas, weight_decay)]

    return Optimizer(module=module, make=make, curve=curve)


def muon(
    module: nn.Module,
    *,
    lr: float,
    text_lr: float,
    muon_lr: float,
    betas: Sequence[float],
    weight_decay: float,
    curve: Curve,
) -> Optimizer:
    """Muon for the matrices in a denoiser's blocks (`muon_lr`, scaled to AdamW's update size), `adamw` for the rest.

    Matrices are the weights of linears, not tables. A network without any, such as a VAE, has AdamW alone. So has T5,
    whose queries, keys and feed-forwards no norm keeps small.
    """
    blocks = [block for part in module.modules() if isinstance(part, Denoiser) for block in part.blocks_of_all()]
    linears = {id(part.weight) for block in blocks for part in block.modules() if isinstance(part, nn.Linear)}
    matrices = {name: p for name, p in named(module).items() if id(p) in linears}

    def make(parts: dict[str, nn.Parameter]) -> list[torch.optim.Optimizer]:
        chosen = {name: part for name, part in parts.items() if name in matrices}
        others = {name: part for name, part in parts.items() if name not in matrices}
        rest = _adamw(others, lr, text_lr, betas, weight_decay)
        how = {"lr": muon_lr, "weight_decay": weight_decay, "adjust_lr_fn": "match_rms_adamw"}
        return [*muons(chosen, matrices, how), rest]

    return Optimizer(module=module, make=make, curve=curve)


def warmup_decay(*, warmup: int, steps: int, decay: int, floor: float) -> Curve:
    """Rise linearly over `warmup` steps, stay at 1, fall as a cosine to `floor` over the last `decay` of `steps`."""

    def curve(step: int) -> float:
        rise = min(1.0, (step + 1) / max(1, warmup))
        fall = min(1.0, max(0.0, (step - (steps - decay)) / max(1, decay)))
        return rise * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * fall)))

    return curve


def _adamw(
    parts: Mapping[str, nn.Parameter], lr: float, text_lr: float, betas: Sequence[float], weight_decay: float
) -> torch.optim.Optimizer:
    groups, texts = [], {name for name in parts if ROLES.get(name.partition(".")[0]) == TEXT_ENCODER}
    for label, rate, chosen in (
        ("adamw", lr, [part for name, part in parts.items() if name not in texts]),
        ("text", text_lr, [part for name, part in parts.items() if name in texts]),
    ):
        for decay, those in (
            (weight_decay, [part for part in chosen if part.dim() >= 2]),
            (0.0, [part for part in chosen if part.dim() < 2]),
        ):
            groups += [{"params": those, "lr": rate, "weight_decay": decay, "label": label}] if those else []
    return torch.optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]), fused=True)
