"""The smallest things that train: networks of a few thousand parameters, clips of 32 pixels."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

from videodit.checkpoint.store import save_model
from videodit.models.build import build
from videodit.models.dit import DiT
from videodit.models.vae import VideoVAE

CHANNELS, TEXT_DIM = 4, 16
SHAPES = ((32, 32), (32, 48))  # of the clips in conf/data/toy_small.yaml

# Overrides of `videodit train` that make a stage tiny. Clips are 9x32x32 and 9x32x48: 12 and 18 tokens.
CLIPS = ["data=toy_small", "data.train.0.size=24", "data.train.1.size=12", "data.heldout.0.size=4"]
RUN = ["precision=fp32", "optim.warmup=4", "ema=0.9"]
VAE = ["vae=tiny", f"vae.latent_channels={CHANNELS}"]
VAE_COMMAND = ["stage=vae", *CLIPS, *VAE, "vae.base=4", "vae.decoder_base=4", "vae.multipliers=[1,1,1]", *RUN]
COMMAND = [
    *CLIPS, *VAE,
    "model=tiny", "model.dim=32", "model.layers=2", "model.ffn=64",
    "text=tiny", f"text.dim={TEXT_DIM}", "text.head_dim=8", "text.ffn=32",
    "packs.tokens=64", *RUN, "area=[1024,1536]",
    "request.height=32", "request.width=32", "request.frames=9", "request.steps=2",
    "samples.prompts=[a large red ball rolls right]",
]  # fmt: skip


def vae(seed: int = 0) -> VideoVAE:
    """A random VAE of stride 4x8x8 that passes on something of what it sees."""
    torch.manual_seed(seed)
    return build(
        "video_vae",
        latent_channels=CHANNELS,
        base=4,
        decoder_base=4,
        multipliers=[1, 1, 1],
        spatial=[True, True],
        temporal=[True, True],
        blocks=1,
        shortcuts=True,
        linear=True,
        patch=2,
    ).eval()


def dit(seed: int = 0, time: str = "adaln_single") -> DiT:
    """A DiT of two blocks."""
    torch.manual_seed(seed)
    return build(
        "dit",
        channels=CHANNELS,
        out_channels=CHANNELS,
        patch=[1, 2, 2],
        dim=32,
        layers=2,
        heads=2,
        ffn=64,
        text_dim=TEXT_DIM,
        frequency_dim=16,
        time=time,
        text_length=0,
        norm="layer",
        qk_norm="full",
        qk_eps=1e-6,
        fractions=None,
        cross_norm=True,
    )


def text(vocabulary: int = 64, seed: int = 0) -> nn.Module:
    """A T5 of one block."""
    torch.manual_seed(seed)
    return build("t5", vocabulary=vocabulary, dim=TEXT_DIM, layers=1, heads=2, head_dim=8, ffn=32, bias_per_layer=False)


def saved_vae(folder: Path, seed: int = 0) -> Path:
    """The file of a random VAE."""
    path = folder / f"vae-{seed}.safetensors"
    save_model(path, vae(seed))
    return path


def command(*overrides: str) -> list[str]:
    """`python -m videodit train …` as a process is given it."""
    return [sys.executable, "-m", "videodit", "train", *COMMAND, *overrides]
