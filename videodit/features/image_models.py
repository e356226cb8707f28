"""Measure a clip by image models of transformers: scores, and an embedding by which duplicates are known.

D values of an embedding
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from videodit.errors import Stop
from videodit.features.hub import found, opened

if TYPE_CHECKING:
    from torch import Tensor

DIGITS = 4  # of an embedding's values that are kept


@dataclass(frozen=True, kw_only=True)
class ImageModel:
    """An image network, which is opened when it sees its first frames.

    Args:
        model: a folder or a hub id. Weights are read from safetensors only, and code from neither.
        revision: a branch, tag or commit of a hub id; a folder has none.
        device: cpu or cuda; "" is cuda where there is one.
    """

    model: str = field(repr=False)
    revision: str = field(default="main", repr=False)
    device: str = field(default="", repr=False)
    fingerprint: str = field(default="", init=False)  # of the weights, so that what is remembered is theirs

    key = "measure"  # of the config, in errors
    kind = "AutoModel"

    def __post_init__(self) -> None:
        object.__setattr__(self, "fingerprint", self._source[1])

    @cached_property
    def _source(self) -> tuple[str | None, str]:
        return found(self.model, self.revision, self.key)

    @cached_property
    def _opened(self) -> tuple[Any, Any]:
        """The network and its processor."""
        how = {"processor": "AutoImageProcessor", "device": self.device, "dtype": "float32", "key": self.key}
        return opened(self.model, self._source[0], network=self.kind, **how)

    def _seen(self, frames: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """Frames, uint8 (H,W,3) each, as the network takes them."""
        from PIL import Image

        network, processor = self._opened
        images = [Image.fromarray(frame) for frame in frames]
        return dict(processor(images=images, return_tensors="pt").to(network.device))


@dataclass(frozen=True, kw_only=True)
class ImageEmbedding(ImageModel):
    """Frames -> one direction for the clip: of CLIP, SigLIP, DINOv2 or another model with an embedding of an image."""

    key = "embedder.model"
    looks = True

    def __call__(self, frames: Sequence[np.ndarray]) -> list[float]:
        """The mean of the frames' directions, (D,) of length 1."""
        import torch

        from videodit.nn.device import threads

        network, inputs = self._opened[0], self._seen(frames)
        with torch.inference_mode(), threads(1):
            told = network.get_image_features(**inputs) if hasattr(network, "get_image_features") else network(**inputs)
            states = getattr(told, "pooler_output", told)
            states = told.last_hidden_state[:, 0] if states is None else states
            mean = torch.nn.functional.normalize(states.float(), dim=-1).mean(0)
            return [round(x, DIGITS) for x in torch.nn.functional.normalize(mean, dim=0).tolist()]


@dataclass(frozen=True, kw_only=True)
class ImageClassifier(ImageModel):
    """A score by a model that classifies images, such as one for safety or for aesthetics (`measures.Scorer`).

    Args:
        name: of the score.
        label: the class whose probability it is, the mean over the frames.
    """

    name: str
    label: str

    key = "measure.scorers"
    kind = "AutoModelForImageClassification"

    @property
    def meaning(self) -> str:
        """What the score says, its range."""
        return f"mean probability of {self.label} in a few frames, 0 to 1"

    def __call__(self, frames: Sequence[np.ndarray]) -> float:
        """The probability of the label, 0 to 1."""
        import torch

        from videodit.nn.device import threads

        network, inputs = self._opened[0], self._seen(frames)
        known = {str(name): place for place, name in network.config.id2label.items()}
        if self.label not in known:
            raise Stop(f"{self.key}: {self.model} knows no label {self.label}, but {', '.join(sorted(known))}")
        with torch.inference_mode(), threads(1):
            return float(network(**inputs).logits.float().softmax(-1)[:, int(known[self.label])].mean())
