"""What trains in a fine-tuning that leaves the weights as they are: low-rank changes beside them, by PEFT."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from videodit.errors import InputError
from videodit.models.interfaces import Denoiser
from videodit.printable import quiet_torchao

NAME = "default"  # of the adapter, in PEFT's modules
ENDS = {
    **{f"lora_A.{NAME}.weight": "down", f"lora_B.{NAME}.weight": "up"},
    f"lora_magnitude_vector.{NAME}.weight": "magnitude",
}


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """W + alpha/rank * B·A, with A (rank,inputs) and B (outputs,rank), which starts at zero (Hu et al. 2021).

    Args:
        rank: of B·A.
        alpha: over the rank, the scale of B·A; `rslora`: over the rank's root (Kalajdzievski 2023, arXiv:2312.03732).
        targets: which of the blocks' matrices have one, of `Denoiser.ADAPTABLE`.
        dora: the rows' lengths train apart from their directions (Liu et al. 2024, arXiv:2402.09353).
    """

    rank: int
    alpha: float
    targets: Sequence[str]
    dora: bool
    rslora: bool

    def __post_init__(self) -> None:
        if not isinstance(self.rank, int) or isinstance(self.rank, bool) or self.rank < 1:
            raise InputError(f"adapter.rank={self.rank}: must be a whole number, at least 1")
        if not isinstance(self.alpha, int | float) or not self.alpha > 0:
            raise InputError(f"adapter.alpha={self.alpha}: must be a number above 0")
        if importlib.util.find_spec("peft") is None:
            raise InputError('adapter=lora needs peft: pip install "videodit[lora]"')

    def check(self, network: Denoiser | type[Denoiser]) -> None:
        """InputError where a network has no such targets."""
        wrong = [target for target in self.targets if target not in network.ADAPTABLE]
        if wrong or not self.targets:
            raise InputError(f"adapter.targets={','.join(wrong)}: they are some of {', '.join(network.ADAPTABLE)}")

    def inject(self, network: Denoiser) -> None:
        """Give a network that has its weights the adapter, in place; nothing else of it trains from now on."""
        self.check(network)
        quiet_torchao()
        import peft

        stacks = "|".join(map(re.escape, network.STACKS))
        config = peft.LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            target_modules=rf"({stacks})\.\d+\.({'|'.join(map(re.escape, self.targets))})",
            use_dora=self.dora,
            use_rslora=self.rslora,
        )
        peft.inject_adapter_in_model(config, network, adapter_name=NAME)
        for parameter in network.parameters():
            if parameter.requires_grad:  # PEFT gives it the base's type
                parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))

    def changes(self, state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """From a state dict of the network, what `checkpoint.adapters.save_adapter` writes: the scale is in B."""
        found: dict[str, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            for end, which in ENDS.items():
                if name.endswith(f".{end}"):
                    scaled = tensor * self.scale if which == "up" else tensor
                    found.setdefault(name.removesuffix(f".{end}"), {})[which] = scaled
        return found

    @property
    def scale(self) -> float:
        """Of B·A."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)


def is_adapter(name: str) -> bool:
    """Whether this is the name of one of an adapter's parameters."""
    return name.endswith(tuple(ENDS))
