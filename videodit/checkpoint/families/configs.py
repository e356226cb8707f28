"""What diffusers and transformers write beside their weights: types of its values, and what a key that is absent means.

Each release writes the keys that it knows: a file of an earlier one lacks some. Theirs take the defaults of the class's
constructor then, and so do ours: the tables here hold what those say, and a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, NotRequired

from annotated_types import Ge, Gt, Le, Len
from typing_extensions import TypedDict

from videodit.checkpoint.families.record import Network, Theirs
from videodit.errors import InputError
from videodit.untrusted import read_json

Size = Annotated[int, Ge(1), Le(2**17)]
Words = Annotated[int, Ge(1), Le(2**22)]
Class = Annotated[list[str | None], Len(2, 2)]  # a library and a class of it


class ModelIndex(TypedDict, total=False):
    """A model_index.json of diffusers. The components that it names beside these are those of its family (a Class)."""

    __pydantic_config__ = {"extra": "allow"}  # type: ignore[misc]
    _class_name: str
    scheduler: Class
    boundary_ratio: Annotated[float, Gt(0), Le(1)] | None


class Transformer(TypedDict, total=False):
    """A transformer's config.json."""

    num_attention_heads: Size
    attention_head_dim: Size
    ffn_dim: Size
    num_layers: Size
    in_channels: Size
    out_channels: Size | None
    patch_size: Annotated[list[Annotated[int, Ge(1), Le(16)]], Len(3, 3)]
    text_dim: Size
    freq_dim: Size
    eps: Annotated[float, Gt(0), Le(1)]
    cross_attn_norm: bool
    qk_norm: str | None
    added_kv_proj_dim: int | None
    image_dim: int | None
    pos_embed_seq_len: int | None


class VAE(TypedDict, total=False):
    """A VAE's config.json."""

    z_dim: Size
    base_dim: Size
    decoder_base_dim: Size | None
    dim_mult: Annotated[list[Annotated[int, Ge(1), Le(64)]], Len(1, 8)]
    temperal_downsample: Annotated[list[bool], Len(0, 7)]
    num_res_blocks: Annotated[int, Ge(0), Le(64)]
    is_residual: bool
    patch_size: Annotated[int, Ge(1), Le(16)] | None
    attn_scales: list[float] | None
    latents_mean: list[float]
    latents_std: list[Annotated[float, Gt(0)]]


class Beside(TypedDict):
    """A config.json beside a transformer's file, of any layout: what the file of weights does not say."""

    attention_head_dim: NotRequired[Size]
    dim: NotRequired[Size]
    num_heads: NotRequired[Size]


class Encoder(TypedDict, total=False):
    """A text encoder's config.json."""

    vocab_size: Words
    d_model: Words
    num_layers: Words
    num_heads: Words
    d_kv: Words
    d_ff: Words
    feed_forward_proj: str
    model_type: str
    relative_attention_num_buckets: int
    relative_attention_max_distance: int
    layer_norm_epsilon: float


_MEAN = [-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
         0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921]  # fmt: skip
_STD = [2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
        3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.916]  # fmt: skip
_T5 = {"d_model": 512, "d_kv": 64, "layer_norm_epsilon": 1e-6,
       "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128}  # fmt: skip
_T5_FIXED = ("relative_attention_num_buckets", "relative_attention_max_distance", "layer_norm_epsilon")
TRANSFORMER_CLASSES: Mapping[str, Theirs] = MappingProxyType(
    {
        "WanTransformer3DModel": Theirs(
            Transformer,
            {
                "patch_size": [1, 2, 2],
                "num_attention_heads": 40,
                "attention_head_dim": 128,
                "in_channels": 16,
                "out_channels": 16,
                "text_dim": 4096,
                "freq_dim": 256,
                "ffn_dim": 13824,
                "num_layers": 40,
                "cross_attn_norm": True,
                "qk_norm": "rms_norm_across_heads",
                "eps": 1e-6,
                "image_dim": None,
                "added_kv_proj_dim": None,
                "pos_embed_seq_len": None,
            },
        ),
    }
)
VAE_CLASSES: Mapping[str, Theirs] = MappingProxyType(
    {
        "AutoencoderKLWan": Theirs(
            VAE,
            {
                "base_dim": 96,
                "decoder_base_dim": None,
                "z_dim": 16,
                "dim_mult": [1, 2, 4, 4],
                "num_res_blocks": 2,
                "attn_scales": [],
                "temperal_downsample": [False, True, True],
                "is_residual": False,
                "patch_size": None,
                "latents_mean": _MEAN,
                "latents_std": _STD,
            },
        ),
    }
)
T5_CLASSES: Mapping[str, Theirs] = MappingProxyType({
        "UMT5EncoderModel": Theirs(Encoder, {
            **_T5, "vocab_size": 250112, "d_ff": 1024, "num_layers": 8, "num_heads": 6,
            "feed_forward_proj": "gated-gelu", "model_type": "umt5",
        }, _T5_FIXED),
        "T5EncoderModel": Theirs(Encoder, {
            **_T5, "vocab_size": 32128, "d_ff": 2048, "num_layers": 6, "num_heads": 8,
            "feed_forward_proj": "relu", "model_type": "t5",
        }, _T5_FIXED),
})  # fmt: skip


def read_config(file: Path, network: Network, name: str | None) -> dict[str, Any]:
    """A component's config.json, complete. `name`: its class, as the model_index.json says it."""
    if name not in network.classes:
        raise InputError(f"{file}: it is of a {name}; only {', '.join(network.classes)} can be used here yet")
    theirs = network.classes[name]
    config = {**theirs.defaults, **read_json(file, theirs.kind)}
    for key in theirs.fixed:
        if config[key] != theirs.defaults[key]:
            raise InputError(f"{file}: {key}={config[key]}; only {theirs.defaults[key]} can be used here yet")
    return config
