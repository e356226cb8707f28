"""A tiny random model on disk, for tests that need a whole pipeline."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from videodit.checkpoint.parts import FILES, TOKENIZERS
from videodit.checkpoint.store import save_model, write_json
from videodit.models.build import build
from videodit.models.text import train_tokenizer

CAPTIONS = ["a large red ball rolls right on a gray ground", "a small blue cube spins on a white ground"]
VAE = {
    "latent_channels": 4,
    "base": 4,
    "decoder_base": 4,
    "multipliers": [1, 2, 2],
    "spatial": [True, True],
    "temporal": [True, True],
    "blocks": 1,
    "shortcuts": True,
    "linear": True,
    "patch": 2,
}
DIT = {
    "channels": 4,
    "out_channels": 4,
    "patch": [1, 2, 2],
    "dim": 24,
    "layers": 2,
    "heads": 2,
    "ffn": 48,
    "text_dim": 16,
    "frequency_dim": 16,
    "time": "adaln_single",
    "text_length": 0,
    "norm": "layer",
    "qk_norm": "full",
    "qk_eps": 1e-6,
    "fractions": None,
    "cross_norm": True,
}
TEXT = {
    "vocabulary": 64,
    "dim": 16,
    "layers": 1,
    "heads": 2,
    "head_dim": 8,
    "ffn": 32,
    "bias_per_layer": False,
}
PIPELINE = {
    "flow": {"path": "rectified", "prediction": "velocity"},
    "shift": {"base_tokens": 16, "base_shift": 1.0},
    "area": [1024, 1536],
    "defaults": {
        **{"height": 32, "width": 32, "frames": 9, "fps": 8.0},
        **{"steps": 3, "guidance": 2.0, "sampler": "euler"},
    },
}


def shake(module: nn.Module) -> nn.Module:
    """Random values for every parameter, so that nothing is zero by initialisation."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    return module


def tiny_pipeline(folder: Path, *, seed: int = 0) -> Path:
    """Write a tiny random model to `folder`, which `videodit.load` opens."""
    torch.manual_seed(seed)
    for part, architecture, arguments in (("dit", "dit", DIT), ("text", "t5", TEXT), ("vae", "video_vae", VAE)):
        save_model(folder / FILES[part], shake(build(architecture, **arguments)))
    train_tokenizer(CAPTIONS, folder / TOKENIZERS["text"], vocabulary=64)
    write_json(folder / "pipeline.json", PIPELINE)
    return folder
