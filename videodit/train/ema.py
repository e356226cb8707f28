"""An exponential moving average of the weights: what is sampled, published and evaluated."""

from __future__ import annotations

import torch
from torch import nn

from videodit.parallel.mesh import Mesh
from videodit.parallel.shard import local, named, square_norms


class EMA:
    """The average of what is trained over roughly the last 1/(1-decay) steps, and a copy of all else that may change.

    Early on, while that is longer than the run so far, over a tenth of the run. Weights that are not trained have no
    copy.
    """

    def __init__(self, *, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = module
        parameters = named(module)
        self.moving = [name for name, parameter in parameters.items() if parameter.requires_grad]
        frozen = parameters.keys() - self.moving
        state = module.state_dict()
        self.averages = {name: value.detach().clone() for name, value in state.items() if name not in frozen}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step number `step` (from 0)."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        state = self.module.state_dict()
        averages, weights = ([local(source[n]) for n in self.moving] for source in (self.averages, state))
        torch._foreach_lerp_(averages, weights, weight)
        for name in self.averages.keys() - self.moving:
            local(self.averages[name]).copy_(local(state[name]))

    @torch.no_grad()
    def distance(self, mesh: Mesh) -> float:
        """How far the averages are from the weights, as a share of the weights' own norm."""
        parameters = [parameter for parameter in named(self.module).values() if parameter.requires_grad]
        weights = [local(parameter) for parameter in parameters]
        left = torch._foreach_sub(weights, [local(self.averages[name]) for name in self.moving])
        apart, norm = (square_norms(parameters, tensors, mesh).sum() for tensors in (left, weights))
        return (apart / norm).sqrt().item() if norm else 0.0

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange averages and weights; a second call puts them back."""
        state = self.module.state_dict()
        for name, average in self.averages.items():
            value, mean = local(state[name]), local(average)
            held = value.clone()
            value.copy_(mean)
            mean.copy_(held)
