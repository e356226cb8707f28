"""Tiny random pipelines of diffusers, saved as their users would have them: the reference for whole generations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from tests.compare import shaken
from videodit.models.text import train_tokenizer

WORDS = ["a red ball rolls right on a gray ground", "two blue cubes spin in the snow", "blurry, ugly"]
TEXT_DIM, LATENTS = 16, 4
# heads, head dim: none of them 128, one that 6 does not divide
KINDS = {"2.1": (2, 20), "2.2-5b": (3, 16), "a14b": (2, 26)}
STATISTICS = {"latents_mean": [0.3, -0.2, 0.1, 0.7], "latents_std": [1.5, 0.5, 2.0, 0.9]}


def transformer(kind: str, seed: int = 0) -> WanTransformer3DModel:
    """Two layers."""
    heads, head_dim = KINDS[kind]
    torch.manual_seed(seed)
    model = WanTransformer3DModel(
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        in_channels=LATENTS,
        out_channels=LATENTS,
        text_dim=TEXT_DIM,
        freq_dim=32,
        ffn_dim=48,
        num_layers=2,
    )
    return shaken(model.requires_grad_(False), std=0.1, seed=seed)


def vae(kind: str) -> AutoencoderKLWan:
    """Of the kind's sort."""
    residual, torch_seed = kind == "2.2-5b", 1
    torch.manual_seed(torch_seed)
    pixels = {"patch_size": 2, "in_channels": 12, "out_channels": 12, "scale_factor_spatial": 16} if residual else {}
    model = AutoencoderKLWan(
        base_dim=8,
        decoder_base_dim=12 if residual else 8,
        z_dim=LATENTS,
        num_res_blocks=1,
        is_residual=residual,
        **pixels,
        **STATISTICS,
    )
    return shaken(model.requires_grad_(False), std=0.05)


def text_encoder(vocabulary: int) -> UMT5EncoderModel:
    """One layer of umT5 and another."""
    torch.manual_seed(2)
    sizes = {"d_model": TEXT_DIM, "num_layers": 2, "num_heads": 2, "d_kv": 8, "d_ff": 24}
    config = UMT5Config(vocab_size=vocabulary, **sizes, feed_forward_proj="gated-gelu", dropout_rate=0.0)
    return shaken(UMT5EncoderModel(config).requires_grad_(False), std=0.3)


def pipeline(kind: str, folder: Path, *, shift: float = 3.0, **saving: Any) -> WanPipeline:
    """A pipeline of this kind, saved to the folder."""
    own = train_tokenizer(WORDS, folder / "words.json", vocabulary=64)
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(own.path), **special)
    own.path.unlink()
    parts = {"transformer": transformer(kind), "vae": vae(kind), "text_encoder": text_encoder(len(own))}
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    more = {"transformer_2": transformer(kind, seed=5), "boundary_ratio": 0.875} if kind == "a14b" else {}
    expand = {"expand_timesteps": kind == "2.2-5b"}
    pipe = WanPipeline(tokenizer=tokenizer, scheduler=scheduler, **parts, **more, **expand)
    pipe.save_pretrained(folder, **saving)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def clip(pipe: WanPipeline, prompt: str, *, size: tuple[int, int, int], seed: int, **request: Any) -> torch.Tensor:
    """What the pipeline makes of a prompt: (3,T,H,W) in [-1,1]."""
    frames, height, width = size
    made = pipe(
        prompt=prompt,
        num_frames=frames,
        height=height,
        width=width,
        generator=torch.Generator("cpu").manual_seed(seed),
        output_type="pt",
        **request,
    ).frames
    return made[0].transpose(0, 1) * 2 - 1
