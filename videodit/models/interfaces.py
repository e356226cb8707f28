"""What the rest of the house asks of a network, so that it need not know which one it is.

B clips, L tokens in all; l of them in this process
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from videodit.models.pack import Context, Lengths, Pack, Times
from videodit.nn.kernels import AUTO, Use, attend
from videodit.shapes import Triple

State = Tensor | tuple[Tensor, ...]  # what goes from block to block
Step = Callable[[nn.Module, int, State], State]  # a block, its number, the state -> the state behind it
Runner = Callable[[str, Sequence[nn.Module], State, Step], State]


def run_blocks(name: str, blocks: Sequence[nn.Module], state: State, step: Step) -> State:
    """Run the blocks of a stack one after the other; another runner may skip some."""
    for number, block in enumerate(blocks):
        state = step(block, number, state)
    return state


DENOISER, TEXT_ENCODER, VAE = "denoiser", "text encoder", "VAE"  # what a network is for


class Stacked(nn.Module):
    """A network that says which stacks of alike blocks it has: they are compiled, offloaded and planned block by block.

    ROLE: what it is for. STACKS: where the stacks are, each with the argument that says how many blocks it has.
    KEEP_FP32: what stays in float32 where the rest is in half precision: how the names begin or end.
    """

    ROLE: ClassVar[str]
    STACKS: ClassVar[Mapping[str, str]] = {}
    KEEP_FP32: ClassVar[Sequence[str]] = ()

    def stacks(self) -> dict[str, nn.ModuleList]:
        """The stacks by their names."""
        return {name: self.get_submodule(name) for name in self.STACKS}

    def blocks_of_all(self) -> list[nn.Module]:
        """The blocks of all stacks."""
        return [block for stack in self.stacks().values() for block in stack]


class Stream(NamedTuple):
    """A stream of the context as a denoiser attends to it.

    width: of its states. length: states of a prompt, whatever its own number; 0: its own alone.
    """

    width: int
    length: int = 0


class Denoiser(Stacked):
    """A network that denoises packs.

    ADAPTABLE: names, inside a block, of the linears that an adapter may change.
    channels, out_channels: of latents, in and out.
    patch: latent frames, rows and columns of one token.
    streams: those of the context that it attends to, by their names.
    width: values of a token between the blocks.
    heads: of every attention.
    kernel: of attention, a name of `nn.kernels.KERNELS` or "auto".
    sharing: how processes share the tokens of a pack, if they do.
    steady: whether all weights are there at any time, or come only as blocks run.
    """

    ROLE = DENOISER
    ADAPTABLE: ClassVar[Sequence[str]] = ()
    channels: int
    out_channels: int
    patch: Triple
    streams: Mapping[str, Stream]
    width: int
    heads: int
    kernel: str = AUTO
    sharing: Sharing | None = None
    steady: bool = True

    def prepare(
        self, context: Context, pack: Pack, *, times: Tensor | None = None, keep: bool = False,
        run: Runner = run_blocks, kernel: str = "",
    ) -> Any:  # fmt: skip
        """What stays the same for all packs of this one's layout: a session, for `forward`. No weight is used.

        times: all that will come, (n,), if they are known. keep: forward may keep in the session what it computes from
        weights; not where blocks' weights come and go. run: how the blocks of a stack are run. kernel: of attention,
        if not the network's own.
        """
        raise NotImplementedError

    def forward(self, pack: Pack, times: Times, session: Any) -> Tensor:
        """Noisy clips at these times -> velocity tokens (L,D_out)."""
        raise NotImplementedError

    def flops(self, tokens: int, states: int) -> float:
        """Floating-point operations of the matmuls of one forward pass over a clip with so many tokens, and so many
        states in each stream.
        """
        raise NotImplementedError

    def kept(self, lengths: Lengths) -> int:
        """Numbers that a session keeps for prompts of these lengths."""
        raise NotImplementedError

    def attention(self, device: torch.device, dtype: torch.dtype, *, grad: bool) -> Use:
        """What its attention asks of a kernel."""
        return Use(device, dtype, self.width // self.heads, grad)

    def span(self, lengths: Sequence[int]) -> Span:
        """This process's part of a pack of clips with so many tokens."""
        return Span(lengths=tuple(lengths)) if self.sharing is None else self.sharing.span(tuple(lengths))


class Sharing(Protocol):
    """How several processes share the tokens of packs (`parallel.sequence`)."""

    def span(self, lengths: tuple[int, ...]) -> Span:
        """This process's part."""
        ...


class Span:
    """The tokens of a pack that this process computes: here all of them.

    lengths: tokens of each of this process's clips. clips: the numbers of these clips.
    """

    def __init__(self, *, lengths: tuple[int, ...]) -> None:
        self.lengths, self.clips = lengths, tuple(range(len(lengths)))

    def split(self, x: Tensor) -> Tensor:
        """Of something for every token (L,…) this process's (l,…)."""
        return x

    def gather(self, x: Tensor) -> Tensor:
        """The other way round, on every process."""
        return x

    def attend(self, q: Tensor, k: Tensor, v: Tensor, kernel: str) -> Tensor:
        """Self-attention of the pack, q, k, v each (l,H,K) -> (l,H,K)."""
        return attend(q, k, v, self.lengths, self.lengths, kernel=kernel)
