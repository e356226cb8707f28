"""Optimizers and lr curves.

AdamW for everything, or Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) for the matrices of the blocks
and AdamW for the rest. Both are torch's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn

from videodit.errors import InputError

Curve = Callable[[int], float]  # step -> factor on the learning rate

# What the state of a parameter consists of.
ENTRIES = MappingProxyType(
    {torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"}, torch.optim.Muon: {"momentum_buffer"}}
)


class Optimizer:
    """One or two torch optimizers over named parameters, their lr curve, and their state as named tensors."""

    def __init__(self, *, module: nn.Module, optimizers: Sequence[torch.optim.Optimizer], curve: Curve) -> None:
        self.names = {id(parameter): name for name, parameter in module.named_parameters()}
        self.optimizers = list(optimizers)
        self.curve = curve
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["peak_lr"] = group["lr"]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that is trained."""
        return [p for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"]]

    def step(self, step: int) -> float:
        """Update the parameters with the learning rate of this step; gives the factor of the curve."""
        factor = self.curve(step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            optimizer.step()
        return factor

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Every tensor of the optimizers' state, as "parameter name:state name"."""
        return {
            f"{self.names[id(parameter)]}:{key}": value
            for optimizer in self.optimizers
            for parameter, values in optimizer.state.items()
            for key, value in values.items()
            if isinstance(value, Tensor)
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over a state saved earlier. Raises InputError where it is of another kind of optimizer."""
        values: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            name, _, entry = key.rpartition(":")
            values.setdefault(name, {})[entry] = tensor
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    name = self.names[id(parameter)]
                    if name not in values:
                        continue
                    if values[name].keys() != ENTRIES[type(optimizer)]:
                        raise InputError(
                            f"the checkpoint's optimizer is not {type(optimizer).__name__} ({name}): resume with the "
                            "optim= it was made with, or start over with fresh=true"
                        )
                    copies = {entry: v.to(parameter.device, copy=True) for entry, v in values[name].items()}
                    optimizer.state[parameter] = copies


def adamw(
    module: nn.Module, *, lr: float, betas: Sequence[float], weight_decay: float, curve: Curve
) -> Optimizer:
    """AdamW (Loshchilov & Hutter 2017); matrices and kernels decay, vectors do not."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    return Optimizer(module=module, optimizers=[_adamw(parameters, lr, betas, weight_decay)], curve=curve)


def muon(
    module: nn.Module, *, lr: float, muon_lr: float, betas: Sequence[float], weight_decay: float, curve: Curve
) -> Optimizer:
    """Muon for the matrices inside blocks (`muon_lr`, scaled to AdamW's update size), AdamW (`lr`) for the rest.

    Matrices are the weights of linears, not tables. A network without any, such as a VAE, has AdamW alone.
    """
    linears = [part for name, part in module.named_modules() if isinstance(part, nn.Linear) and _inside_block(name)]
    matrices = [linear.weight for linear in linears if linear.weight.requires_grad]
    chosen = {id(p) for p in matrices}
    rest = _adamw([p for p in module.parameters() if p.requires_grad and id(p) not in chosen], lr, betas, weight_decay)
    if not matrices:
        return Optimizer(module=module, optimizers=[rest], curve=curve)
    blocks = torch.optim.Muon(matrices, lr=muon_lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
    return Optimizer(module=module, optimizers=[blocks, rest], curve=curve)


def warmup_decay(*, warmup: int, steps: int, decay: int, floor: float) -> Curve:
    """Rise linearly over `warmup` steps, stay at 1, fall as a cosine to `floor` over the last `decay` of `steps`."""

    def curve(step: int) -> float:
        rise = min(1.0, (step + 1) / max(1, warmup))
        fall = min(1.0, max(0.0, (step - (steps - decay)) / max(1, decay)))
        return rise * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * fall)))

    return curve


def _adamw(
    parameters: Sequence[nn.Parameter], lr: float, betas: Sequence[float], weight_decay: float
) -> torch.optim.Optimizer:
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]), fused=True)


def _inside_block(name: str) -> bool:
    return ".blocks." in f".{name}" or ".block." in f".{name}"
