"""T5 and umT5 encoders: transformers' names, those of the files that ship with Wan, and those of GGUF files."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from videodit.checkpoint.families.configs import T5_CLASSES
from videodit.checkpoint.families.record import Detected, Network, Shapes, count_blocks
from videodit.checkpoint.keymap import Row, Table
from videodit.errors import InputError


class Layout(NamedTuple):
    """Names of an encoder: of the table of words (and others of the same), of the last norm, of a block's parts."""

    words: str
    also: tuple[str, ...]
    norm: str
    block: str  # before a block's number
    parts: Mapping[str, str]  # the vendor's name -> this one

    @property
    def first(self) -> str:
        """A name that no other layout has."""
        return f"{self.block}0.{self.parts['attn.q']}.weight"


_OURS = {
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
_GGUF = {
    **{"norm1": "attn_norm", "attn.q": "attn_q", "attn.k": "attn_k", "attn.v": "attn_v", "attn.o": "attn_o"},
    **{"pos_embedding.embedding": "attn_rel_b", "norm2": "ffn_norm"},
    **{"ffn.gate.0": "ffn_gate", "ffn.fc1": "ffn_up", "ffn.fc2": "ffn_down"},
}
_WORDS, _NORM = "encoder.embed_tokens.weight", "encoder.final_layer_norm.weight"
LAYOUTS: Mapping[str, Layout] = MappingProxyType({  # "diffusers" is transformers' own, and ours
    "vendor": Layout("token_embedding.weight", (), "norm.weight", "blocks.", {name: name for name in _OURS}),
    "diffusers": Layout(_WORDS, ("shared.weight",), _NORM, "encoder.block.", _OURS),
    "gguf": Layout("token_embd.weight", (), "enc.output_norm.weight", "enc.blk.", _GGUF),
})  # fmt: skip


def table(layout: str, arguments: Mapping[str, Any]) -> Table:
    """The encoder's names in one of LAYOUTS."""
    names = LAYOUTS[layout]
    return [
        *(Row(name, _WORDS, optional=True) for name in names.also),
        Row(names.words, _WORDS),
        Row(names.norm, _NORM),
        *(
            Row(f"{names.block}{{}}.{names.parts[key]}.*", f"encoder.block.{{}}.{ours}.*")
            for key, ours in _OURS.items()
        ),
    ]


def arguments(theirs: Mapping[str, Any], *, source: object) -> dict[str, Any]:
    """Our encoder's arguments from transformers' `config.json`."""
    if theirs["feed_forward_proj"] != "gated-gelu":
        raise InputError(f"{source}: feed_forward_proj={theirs['feed_forward_proj']}; expected gated-gelu")
    return {
        **{"vocabulary": theirs["vocab_size"], "dim": theirs["d_model"], "layers": theirs["num_layers"]},
        **{"heads": theirs["num_heads"], "head_dim": theirs["d_kv"], "ffn": theirs["d_ff"]},
        **{"bias_per_layer": theirs["model_type"] == "umt5"},
    }


def to_config(arguments: Mapping[str, Any], buffers: Mapping[str, list[float]]) -> dict[str, Any]:
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


def detect(shapes: Shapes, head_dim: int | None) -> Detected:
    """An encoder's file, in any of LAYOUTS."""
    layout = next(layout for layout, names in LAYOUTS.items() if names.first in shapes)
    names = LAYOUTS[layout]
    block, bias = names.block, names.parts["pos_embedding.embedding"]
    q, ffn = names.parts["attn.q"], names.parts["ffn.fc1"]
    words = next(shapes[name] for name in (names.words, *names.also) if name in shapes)
    inner, heads = shapes[f"{block}0.{q}.weight"][0], shapes[f"{block}0.{bias}.weight"][1]
    found = {
        **{"vocabulary": words[0], "dim": words[1], "layers": count_blocks(shapes, block), "heads": heads},
        **{"head_dim": inner // heads, "ffn": shapes[f"{block}0.{ffn}.weight"][0]},
        "bias_per_layer": f"{block}1.{bias}.weight" in shapes,
    }
    return Detected(layout, found)


ENCODER = Network(
    architecture="t5",
    table=table,
    signs=tuple(names.first for names in LAYOUTS.values()),
    detect=detect,
    classes=T5_CLASSES,
    arguments=arguments,
    config=to_config,
    library="transformers",
    stem="model",
)
