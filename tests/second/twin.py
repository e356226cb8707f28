"""A second network, as unlike the DiT as packs allow: other names, two stacks, a state of two tensors, text inside.

    B clips, L tokens in all, T text states in all; M = L + T rows, m of them in this process; N model width

The states of a clip's texts, of which there may be several, join its run of the pack inside forward. Blocks hand on
(x, memory), a running mean of what they gave. The first stack sees only its clip's tokens one by one, the second has
attention. Time is added to every row.
Nothing but this file and its YAML knows of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn
from typing_extensions import TypedDict

from videodit.checkpoint.parts import NAMES
from videodit.models.interfaces import TEXT_ENCODER, Denoiser, Runner, Span, State, Stream, run_blocks
from videodit.models.pack import Context, Lengths, Pack, Ragged, Times

Small = Annotated[int, Ge(1), Le(2**12)]


class Arguments(TypedDict):
    """What a file may say."""

    latents: Small
    patch: list[Small]
    size: Small
    early: Small
    late: Small
    groups: Small
    words: list[Small]


@dataclass(eq=False)
class TwinSession:
    """Of one layout: rows of this process, the texts, how many states each clip has of all together, where in a clip's
    run each row stands (m, 3), the runner.
    """

    span: Span
    texts: Mapping[str, Ragged]
    states: Sequence[int]
    places: Tensor
    run: Runner
    kernel: str


class Mixer(nn.Module):
    """Attention of all rows of a clip to each other."""

    def __init__(self, *, size: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.qkv, self.join = nn.Linear(size, 3 * size), nn.Linear(size, size)

    def forward(self, x: Tensor, span: Span, kernel: str) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.groups, -1)).unbind(1)
        return self.join(span.attend(q, k, v, kernel).flatten(1))


class Step(nn.Module):
    """(x, memory), each (m,N) -> the same."""

    def __init__(self, *, size: int, groups: int, mixes: bool) -> None:
        super().__init__()
        self.calm = nn.LayerNorm(size)
        self.mixer = Mixer(size=size, groups=groups) if mixes else None
        self.think = nn.Sequential(nn.Linear(size, 2 * size), nn.SiLU(), nn.Linear(2 * size, size))

    def forward(self, state: tuple[Tensor, Tensor], span: Span, kernel: str) -> tuple[Tensor, Tensor]:
        x, memory = state
        if self.mixer is not None:
            x = x + self.mixer(self.calm(x), span, kernel)
        x = x + self.think(self.calm(x) + 0.5 * memory)
        return x, 0.5 * (memory + x)


class Twin(Denoiser):
    """Args: latents: channels. size: N. early, late: blocks of both stacks. groups: heads. words: widths of texts."""

    STACKS = {"opening": "early", "closing": "late"}
    KEEP_FP32 = ("clock.",)
    ADAPTABLE = ("mixer.qkv", "mixer.join", "think.0", "think.2")

    def __init__(
        self, *, latents: int, patch: Sequence[int], size: int, early: int, late: int, groups: int,
        words: Sequence[int],
    ) -> None:
        super().__init__()
        self.patch = (patch[0], patch[1], patch[2])
        self.channels = self.out_channels = latents
        self.streams = dict(zip(NAMES[TEXT_ENCODER], map(Stream, words), strict=False))
        self.width, self.heads = size, groups
        volume = latents * patch[0] * patch[1] * patch[2]
        self.inlet = nn.Linear(volume, size)
        self.readers = nn.ModuleDict({name: nn.Linear(one.width, size) for name, one in self.streams.items()})
        self.clock, self.where = nn.Linear(4, size), nn.Linear(6, size)
        self.opening = nn.ModuleList(Step(size=size, groups=groups, mixes=False) for _ in range(early))
        self.closing = nn.ModuleList(Step(size=size, groups=groups, mixes=True) for _ in range(late))
        self.outlet = nn.Linear(2 * size, volume)

    def prepare(
        self, context: Context, pack: Pack, *, times: Tensor | None = None, keep: bool = False,
        run: Runner = run_blocks, kernel: str = "",
    ) -> TwinSession:  # fmt: skip
        """See `Denoiser.prepare`."""
        texts = {name: context.streams[name] for name in self.streams}
        states = [sum(each) for each in zip(*(text.lengths for text in texts.values()), strict=True)]
        span = self.span([tokens + more for tokens, more in zip(pack.lengths, states, strict=True)])
        far = [torch.arange(1, n + 1, device=pack.positions.device)[:, None] * -pack.positions.new_ones(3)
               for n in states]  # fmt: skip
        places = torch.cat([one for pair in zip(pack.positions.split(pack.lengths), far, strict=True) for one in pair])
        return TwinSession(span, texts, states, span.split(places), run, kernel or self.kernel)

    def forward(self, pack: Pack, times: Times, session: TwinSession) -> Tensor:
        """See `Denoiser.forward`."""
        span = session.span
        tokens = self.inlet(pack.tokens.to(self.inlet.weight.dtype)).split(pack.lengths)
        words = [
            self.readers[name](text.states.to(self.inlet.weight.dtype)).split(text.lengths)
            for name, text in session.texts.items()
        ]
        x = span.split(torch.cat([one for run in zip(tokens, *words, strict=True) for one in run]))  # (m, N)
        time = self._time(times, pack.lengths, session)  # (m, N)
        x = x + (time + self.where(_waves(session.places).to(time.dtype))).to(x.dtype)

        def step(block: nn.Module, number: int, state: State) -> State:
            return block(state, span, session.kernel)

        state = session.run("opening", self.opening, (x, torch.zeros_like(x)), step)
        x, memory = session.run("closing", self.closing, state, step)
        out = span.gather(self.outlet(torch.cat([x, memory], dim=-1)))  # (M, D)
        parts = out.split([n for pair in zip(pack.lengths, session.states, strict=True) for n in pair])
        return torch.cat(parts[::2])

    def _time(self, times: Times, lengths: Sequence[int], session: TwinSession) -> Tensor:
        """Of this process's rows; a text's is its clip's."""
        clip = torch.tensor(times.clip)
        own = (
            clip.repeat_interleave(torch.tensor(lengths), output_size=sum(lengths)) if times.row is None else times.row
        )
        pairs = zip(own.split(list(lengths)), clip, session.states, strict=True)
        rows = torch.cat([part for run, one, states in pairs for part in (run, one.expand(states))])
        t = times.values.to(self.clock.weight)
        embedded = self.clock(torch.stack([t, t.square(), (3 * t).sin(), (9 * t).cos()], dim=-1))  # (R, N)
        return embedded.index_select(0, session.span.split(rows).to(embedded.device))

    def kept(self, lengths: Lengths) -> int:
        """Nothing."""
        return 0

    def flops(self, tokens: int, states: int) -> float:
        """See `Denoiser.flops`."""
        rows, n = tokens + states * len(self.streams), self.width
        thinking = 8 * n * n * rows * (len(self.opening) + len(self.closing))
        mixing = (8 * n * n * rows + 4 * n * rows * rows) * len(self.closing)
        ends = 2 * self.inlet.weight.numel() * tokens + 2 * (self.outlet.weight.numel() + 6 * n) * rows
        reading = 2 * sum(reader.weight.numel() for reader in self.readers.values()) * states
        return float(thinking + mixing + ends + reading)


def _waves(places: Tensor) -> Tensor:
    """Positions (m,3) -> (m,6)."""
    return torch.cat([(places * 0.7).sin(), (places * 0.31).cos()], dim=-1)
