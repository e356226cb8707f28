"""An exponential moving average of the weights: what is sampled, published and evaluated."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class EMA:
    """The average of a module's parameters over roughly the last 1/(1-decay) steps, and a copy of its buffers.

    Early on, while that is longer than the run so far, over a tenth of the run.
    """

    def __init__(self, *, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = module
        self.averages = {name: value.detach().clone() for name, value in module.state_dict().items()}
        self.moving = [name for name, _ in module.named_parameters()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step number `step` (from 0)."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        state = self.module.state_dict()
        torch._foreach_lerp_([self.averages[n] for n in self.moving], [state[n] for n in self.moving], weight)
        for name in state.keys() - self.moving:
            self.averages[name].copy_(state[name])

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over averages saved earlier."""
        for name, average in self.averages.items():
            average.copy_(tensors[name])

    def swap(self) -> None:
        """Exchange averages and weights; a second call puts them back."""
        for name, value in self.module.state_dict().items():
            held = value.detach().clone()
            value.copy_(self.averages[name])
            self.averages[name].copy_(held)
