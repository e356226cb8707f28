"""T5 and umT5 encoders: transformers' names, and those of the files that ship with Wan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from videodit.checkpoint.keymap import Row, Table
from videodit.errors import InputError

_BLOCK = {
    "norm1": "layer.0.layer_norm",
    "attn.q": "layer.0.SelfAttention.q",
    "attn.k": "layer.0.SelfAttention.k",
    "attn.v": "layer.0.SelfAttention.v",
    "attn.o": "layer.0.SelfAttention.o",
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
    "norm2": "layer.1.layer_norm",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}


def table(layout: str, arguments: Mapping[str, Any]) -> Table:
    """The encoder's names; `layout` is "diffusers" (which is transformers' own) or "vendor"."""
    words = "encoder.embed_tokens.weight"
    if layout == "vendor":
        ends = [Row("token_embedding.weight", words), Row("norm.weight", "encoder.final_layer_norm.weight")]
        inner = {f"blocks.{{}}.{name}.*": f"encoder.block.{{}}.{ours}.*" for name, ours in _BLOCK.items()}
        return ends + [Row(name, ours) for name, ours in inner.items()]
    names = ["encoder.final_layer_norm.*", *(f"encoder.block.{{}}.{name}.*" for name in _BLOCK.values())]
    return [Row("shared.weight", words, optional=True), Row(words, words), *(Row(name, name) for name in names)]


def arguments(theirs: Mapping[str, Any], *, source: object) -> dict[str, Any]:
    """Our encoder's arguments from transformers' `config.json`."""
    if theirs["feed_forward_proj"] != "gated-gelu":
        raise InputError(f"{source}: feed_forward_proj={theirs['feed_forward_proj']}; expected gated-gelu")
    return {
        **{"vocabulary": theirs["vocab_size"], "dim": theirs["d_model"], "layers": theirs["num_layers"]},
        **{"heads": theirs["num_heads"], "head_dim": theirs["d_kv"], "ffn": theirs["d_ff"]},
        **{"bias_per_layer": theirs["model_type"] == "umt5"},
    }


def to_config(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' UMT5EncoderModel (or T5EncoderModel) for an encoder of ours."""
    kind = "UMT5" if arguments["bias_per_layer"] else "T5"
    return {
        **{"architectures": [f"{kind}EncoderModel"], "model_type": kind.lower(), "vocab_size": arguments["vocabulary"]},
        **{"d_model": arguments["dim"], "num_layers": arguments["layers"], "num_heads": arguments["heads"]},
        **{"d_kv": arguments["head_dim"], "d_ff": arguments["ffn"], "feed_forward_proj": "gated-gelu"},
        **{"dense_act_fn": "gelu_new", "is_gated_act": True, "dropout_rate": 0.0, "is_encoder_decoder": False},
        **{"use_cache": False, "tie_word_embeddings": False, "layer_norm_epsilon": 1e-6, "pad_token_id": 0},
        **{"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128, "eos_token_id": 1},
    }
