"""The toy world as a data set: endless captioned clips that are computed, not stored."""

from __future__ import annotations

from collections.abc import Sequence

from torch.utils.data import Dataset

from videodit.data.sample import Sample
from videodit.shapes import Sizes, VideoShape
from videodit.toy.grammar import caption
from videodit.toy.render import render
from videodit.toy.scenes import SPLITS, check_word, scene

VERSION = 1  # of the pixels and captions: raise it when either changes, so that no cached latents outlive the change


class ToyWorld(Dataset):
    """The toy world as a map-style dataset: item i is rendered when it is asked for, always the same."""

    def __init__(
        self,
        *,
        seed: int,
        size: int,
        frames: int,
        height: int,
        width: int,
        fps: float,
        split: str = "train",
        bodies: int | None = None,
    ) -> None:
        """size: number of clips; frames, height, width: of each; split and bodies as in `scene`.

        Raises InputError at an unknown split or an empty shape.
        """
        check_word("split", split, SPLITS)
        self.shape = VideoShape(frames, height, width)  # says what is wrong with a bad one
        self.seed, self.size, self.split, self.bodies = seed, size, split, bodies
        self.frames, self.height, self.width, self.fps = frames, height, width, fps

    def __len__(self) -> int:
        return self.size

    def check(self, sizes: Sizes, name: str) -> None:
        """InputError, which begins with `name`, where networks of these sizes do not take the clips."""
        sizes.check(self.shape, name)

    def fingerprint(self, index: int) -> str:
        """What the pixels of item `index` depend on."""
        shape = f"{self.frames}x{self.height}x{self.width}@{self.fps:g}"
        return f"toy-v{VERSION}-{self.seed}-{self.split}-{self.bodies}-{index}-{shape}"

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Several clips rendered together, which a DataLoader asks for by itself: three times as fast as one by one."""
        if not all(0 <= index < self.size for index in indices):
            raise IndexError(f"clips {list(indices)} of a toy world of {self.size}")
        drawn = [scene(self.seed, index, split=self.split, bodies=self.bodies) for index in indices]
        clips = render(drawn, frames=self.frames, height=self.height, width=self.width, fps=self.fps)
        return [
            Sample(clip, caption(each, self.seed, index), self.fps, f"toy-{self.seed}-{self.split}-{index}")
            for clip, each, index in zip(clips, drawn, indices, strict=True)
        ]
