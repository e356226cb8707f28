"""LTX-Video 0.9 (arXiv:2501.00103): the transformer, in the vendor's layout and in diffusers'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from videodit.checkpoint.families import t5
from videodit.checkpoint.families.record import Adapters, Detected, Family, Network, Shapes, count_blocks
from videodit.checkpoint.keymap import Row, Table

HEAD_DIM = 64  # of all its transformers; single files do not say it
# What a step of one latent and the full extent are: seconds at 25 frames a second, and pixels.
FRACTIONS = [[8 / 25, 20], [32, 2048], [32, 2048]]


def dit_table(layout: str, arguments: Mapping[str, Any]) -> Table:
    """The transformer's names; the vendor's single file holds its VAE beside it, below another prefix."""
    vendor = layout == "vendor"
    time = "adaln_single" if vendor else "time_embed"
    norms = {"q_norm": "norm_q", "k_norm": "norm_k"} if vendor else {"norm_q": "norm_q", "norm_k": "norm_k"}
    parts = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "out", **norms}
    block = "transformer_blocks.{}."
    return [
        Row("patchify_proj.*" if vendor else "proj_in.*", "embed.*"),
        Row("proj_out.*", "head.*"),
        Row("scale_shift_table", "table_out"),
        Row(f"{time}.emb.timestep_embedder.linear_1.*", "time_embed.linear1.*"),
        Row(f"{time}.emb.timestep_embedder.linear_2.*", "time_embed.linear2.*"),
        Row(f"{time}.linear.*", "time_proj.*"),
        Row("caption_projection.linear_1.*", "text_embed.0.*"),
        Row("caption_projection.linear_2.*", "text_embed.2.*"),
        Row(f"{block}scale_shift_table", "blocks.{}.modulation.table"),
        Row(f"{block}ff.net.0.proj.*", "blocks.{}.ffn.0.*"),
        Row(f"{block}ff.net.2.*", "blocks.{}.ffn.2.*"),
        *(
            Row(f"{block}{theirs}.{part}.*", f"blocks.{{}}.{ours}.{own}.*")
            for theirs, ours in (("attn1", "attention"), ("attn2", "cross"))
            for part, own in parts.items()
        ),
    ]


def dit_arguments(theirs: Mapping[str, Any], *, source: object) -> dict[str, Any]:
    """Our DiT's arguments from diffusers' `config.json`."""
    heads, patch = theirs["num_attention_heads"], theirs["patch_size"]
    dim = heads * theirs["attention_head_dim"]
    return {
        **{"channels": theirs["in_channels"], "out_channels": theirs["out_channels"] or theirs["in_channels"]},
        **{"patch": [theirs["patch_size_t"], patch, patch], "dim": dim, "layers": theirs["num_layers"]},
        **{"heads": heads, "ffn": 4 * dim, "text_dim": theirs["caption_channels"], "text_length": 0},
        **{"frequency_dim": 256, "time": "adaln_single", "norm": "rms", "qk_norm": "full", "qk_eps": 1e-5},
        **{"cross_norm": False, "fractions": FRACTIONS},
    }


def detect_dit(shapes: Shapes, head_dim: int | None) -> Detected:
    """A transformer's file."""
    vendor = "patchify_proj.weight" in shapes
    dim, channels = shapes["patchify_proj.weight" if vendor else "proj_in.weight"]
    arguments = dit_arguments(
        {
            **{"in_channels": channels, "out_channels": channels, "patch_size": 1, "patch_size_t": 1},
            **{"num_attention_heads": dim // HEAD_DIM, "attention_head_dim": HEAD_DIM},
            **{"num_layers": count_blocks(shapes, "transformer_blocks.")},
            **{"caption_channels": shapes["caption_projection.linear_1.weight"][1]},
        },
        source="this transformer",
    )
    return Detected("vendor" if vendor else "diffusers", arguments)


FAMILY = Family(
    name="ltx",
    networks={
        "dit": Network(
            architecture="dit",
            table=dit_table,
            signs=("transformer_blocks.0.attn1.to_q.weight",),
            detect=detect_dit,
            always={"time": "adaln_single", "norm": "rms", "cross_norm": False, "fractions": FRACTIONS},
        ),
        "text": t5.ENCODER,
    },
    adapters=Adapters(tables=(".scale_shift_table",)),
)
