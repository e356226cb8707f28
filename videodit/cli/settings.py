"""The keys of the commands that have no room of their own: names, defaults, limits and what `--help` says of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from videodit.settings import key


@dataclass(frozen=True, kw_only=True)
class Export:
    """`videodit export`."""

    model: str = key("a bundled or public name, a run folder, a folder or file of weights, a hub id")
    out: str = key("the folder; of an adapter a folder or a file")
    format: Literal["videodit", "diffusers", "adapter"] = key("how files and tensors are named", "videodit")
    lora: str = key("adapters to merge, and their strengths: a.safetensors:0.8,b.safetensors:0.5", "")
    dtype: str = key("float32, float16 or bfloat16: how the weights are stored", "float32")
    vae_from: str = key("another VAE with the same encoder, such as a run that trained the decoder further", "")
    base: str = key(
        "a model that goes with it: what is the same there is left out (format=videodit), and what it is a change of "
        "is taken from there, if not from where its pipeline.json says", "",
    )  # fmt: skip
