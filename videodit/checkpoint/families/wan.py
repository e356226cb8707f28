"""Wan 2.1 and 2.2 (Apache-2.0, arXiv:2503.20314): transformer and VAE, in the vendor's layout and in diffusers'.

The numbers of a network come from its `config.json`: `dit_arguments` and `vae_arguments` put them in our words, and
`to_dit_config` and `to_vae_config` back, for diffusers' classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from videodit.checkpoint.families import t5
from videodit.checkpoint.families.configs import TRANSFORMER_CLASSES, VAE_CLASSES
from videodit.checkpoint.families.record import Adapters, Detected, Family, Network, Shapes, count_blocks
from videodit.checkpoint.keymap import FIRST_OF_ONE, Row, Table, channels_last, kernel, trailing_ones
from videodit.checkpoint.resolve import shared_parts
from videodit.errors import InputError

TEXT_LENGTH = 512  # states that cross-attention sees, zero ones included
ALWAYS = {"time": "adaln_single", "norm": "layer", "qk_norm": "full", "fractions": None}
HEAD_DIM = 128  # of all published transformers of this vendor; single files do not say it


def dit_table(layout: str, arguments: Mapping[str, Any]) -> Table:
    """The transformer's names. `layout` is "diffusers" or "vendor"."""
    patch, last = kernel(arguments["patch"]), channels_last(arguments["out_channels"])
    names = _DIT[layout]
    return [
        Row("patch_embedding.weight", "embed.weight", patch),
        Row("patch_embedding.bias", "embed.bias"),
        *(Row(theirs, ours) for theirs, ours in names.items()),
        Row(f"{_HEAD[layout]}.*", "head.*", last),
        Row(_TABLE_OUT[layout], "table_out", FIRST_OF_ONE),
        Row(_TABLE[layout], "blocks.{}.modulation.table", FIRST_OF_ONE),
    ]


def _attention(theirs: str, ours: str, parts: Mapping[str, str]) -> dict[str, str]:
    return {f"blocks.{{}}.{theirs}.{part}.*": f"blocks.{{}}.{ours}.{own}.*" for part, own in parts.items()}


_NORMS = {"norm_q": "norm_q", "norm_k": "norm_k"}
_DIFFUSERS = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "out", **_NORMS}
_VENDOR = {"q": "q", "k": "k", "v": "v", "o": "out", **_NORMS}
_DIT = {
    "diffusers": {
        "condition_embedder.text_embedder.linear_1.*": "text_embed.0.*",
        "condition_embedder.text_embedder.linear_2.*": "text_embed.2.*",
        "condition_embedder.time_embedder.linear_1.*": "time_embed.linear1.*",
        "condition_embedder.time_embedder.linear_2.*": "time_embed.linear2.*",
        "condition_embedder.time_proj.*": "time_proj.*",
        "blocks.{}.norm2.*": "blocks.{}.norm2.*",
        "blocks.{}.ffn.net.0.proj.*": "blocks.{}.ffn.0.*",
        "blocks.{}.ffn.net.2.*": "blocks.{}.ffn.2.*",
        **_attention("attn1", "attention", _DIFFUSERS),
        **_attention("attn2", "cross", _DIFFUSERS),
    },
    "vendor": {
        "text_embedding.0.*": "text_embed.0.*",
        "text_embedding.2.*": "text_embed.2.*",
        "time_embedding.0.*": "time_embed.linear1.*",
        "time_embedding.2.*": "time_embed.linear2.*",
        "time_projection.1.*": "time_proj.*",
        "blocks.{}.norm3.*": "blocks.{}.norm2.*",
        "blocks.{}.ffn.0.*": "blocks.{}.ffn.0.*",
        "blocks.{}.ffn.2.*": "blocks.{}.ffn.2.*",
        **_attention("self_attn", "attention", _VENDOR),
        **_attention("cross_attn", "cross", _VENDOR),
    },
}
_HEAD = {"diffusers": "proj_out", "vendor": "head.head"}
_TABLE_OUT = {"diffusers": "scale_shift_table", "vendor": "head.modulation"}
_TABLE = {"diffusers": "blocks.{}.scale_shift_table", "vendor": "blocks.{}.modulation"}


def dit_arguments(theirs: Mapping[str, Any], *, source: object) -> dict[str, Any]:
    """Our DiT's arguments from a `config.json` of either layout."""
    if "num_attention_heads" in theirs:
        heads, ffn, layers = theirs["num_attention_heads"], theirs["ffn_dim"], theirs["num_layers"]
        dim, channels, out = heads * theirs["attention_head_dim"], theirs["in_channels"], theirs["out_channels"]
        patch, text, frequency = theirs["patch_size"], theirs["text_dim"], theirs["freq_dim"]
        images = ("added_kv_proj_dim", "image_dim", "pos_embed_seq_len")
        plain = all(theirs[key] is None for key in images) and theirs["qk_norm"] == "rms_norm_across_heads"
    else:
        heads, ffn, layers, dim = (theirs[key] for key in ("num_heads", "ffn_dim", "num_layers", "dim"))
        channels, out, frequency = theirs["in_dim"], theirs["out_dim"], theirs["freq_dim"]
        patch, text = theirs.get("patch_size", (1, 2, 2)), theirs.get("text_dim", 4096)
        plain = theirs.get("model_type", "t2v") in ("t2v", "ti2v") and theirs.get("qk_norm", True)
    if not plain or channels != (out or channels):
        raise InputError(f"{source}: this transformer takes images as well; only text-to-video weights can be used yet")
    return {
        **{"channels": channels, "out_channels": out or channels, "patch": list(patch), "dim": dim},
        **{"layers": layers, "heads": heads, "ffn": ffn, "text_dim": text, "text_length": TEXT_LENGTH},
        **{"frequency_dim": frequency, "time": "adaln_single", "norm": "layer", "qk_norm": "full"},
        **{"qk_eps": theirs.get("eps", 1e-6), "cross_norm": theirs.get("cross_attn_norm", True), "fractions": None},
    }


def to_dit_config(arguments: Mapping[str, Any], buffers: Mapping[str, list[float]]) -> dict[str, Any]:
    """diffusers' WanTransformer3DModel for a DiT of ours; InputError says what that class cannot express."""
    if other := [f"{key}={arguments[key]}" for key, value in ALWAYS.items() if arguments[key] != value]:
        raise InputError(f"diffusers' WanTransformer3DModel cannot express {', '.join(other)}")
    return {
        **{"_class_name": "WanTransformer3DModel", "patch_size": list(arguments["patch"])},
        **{"num_attention_heads": arguments["heads"], "attention_head_dim": arguments["dim"] // arguments["heads"]},
        **{"in_channels": arguments["channels"], "out_channels": arguments["out_channels"]},
        **{"text_dim": arguments["text_dim"], "freq_dim": arguments["frequency_dim"], "ffn_dim": arguments["ffn"]},
        **{"num_layers": arguments["layers"], "cross_attn_norm": arguments["cross_norm"], "eps": arguments["qk_eps"]},
        **{"qk_norm": "rms_norm_across_heads", "added_kv_proj_dim": None, "image_dim": None, "rope_max_seq_len": 1024},
    }


def vae_table(layout: str, arguments: Mapping[str, Any]) -> Table:
    """The VAE's names. Its statistics are in no file of weights; the plain kind's levels lie in one flat list."""
    vendor, nested = layout == "vendor", arguments["shortcuts"]
    blocks, last = arguments["blocks"], len(arguments["multipliers"]) - 1
    rows = [
        Row("conv1.*" if vendor else "quant_conv.*", "quant.*"),
        Row("conv2.*" if vendor else "post_quant_conv.*", "unquant.*"),
    ]
    for half, count, down in (("encoder", blocks, True), ("decoder", blocks + 1, False)):
        rows += _ends(half, vendor)
        number = 0
        for level in range(last + 1):
            for part in range(count + (level < last)):
                if vendor:
                    folder = "downsamples" if down else "upsamples"
                    place = f"{folder}.{level}.{folder}.{part}" if nested else f"{folder}.{number}"
                elif part == count:  # the resampler
                    place = f"down_blocks.{number}" if down else f"up_blocks.{level}.upsamplers.0"
                    nested_place = f"down_blocks.{level}.downsampler" if down else f"up_blocks.{level}.upsampler"
                    place = nested_place if nested else place
                else:
                    place = f"{'down' if down else 'up'}_blocks.{level}.resnets.{part}"
                    place = f"down_blocks.{number}" if down and not nested else place
                ours = f"{half}.levels.{level}."
                if part == count:
                    rows += _resample(f"{half}.{place}.", ours + ("down." if down else "up."))
                else:
                    rows += _residual(f"{half}.{place}.", f"{ours}blocks.{part}.", vendor)
                number += 1
    return rows


def _ends(half: str, vendor: bool) -> list[Row]:
    """What comes before and after a half's levels."""
    middle = ("middle.0", "middle.1", "middle.2") if vendor else ("resnets.0", "attentions.0", "resnets.1")
    before, attention, after = (f"{half}.{'' if vendor else 'mid_block.'}{part}." for part in middle)
    ours = f"{half}.middle."
    return [
        Row(f"{half}.{'conv1' if vendor else 'conv_in'}.*", f"{half}.conv_in.*"),
        *_residual(before, f"{ours}before.", vendor),
        Row(f"{attention}norm.gamma", f"{ours}attention.norm.gamma", trailing_ones(2)),
        Row(f"{attention}to_qkv.*", f"{ours}attention.qkv.*"),
        Row(f"{attention}proj.*", f"{ours}attention.proj.*"),
        *_residual(after, f"{ours}after.", vendor),
        Row(f"{half}.{'head.0' if vendor else 'norm_out'}.gamma", f"{half}.norm_out.gamma", trailing_ones(3)),
        Row(f"{half}.{'head.2' if vendor else 'conv_out'}.*", f"{half}.conv_out.*"),
    ]


def _residual(theirs: str, ours: str, vendor: bool) -> list[Row]:
    names = ("residual.0", "residual.2", "residual.3", "residual.6", "shortcut")
    norm1, conv1, norm2, conv2, shortcut = names if vendor else ("norm1", "conv1", "norm2", "conv2", "conv_shortcut")
    return [
        Row(f"{theirs}{norm1}.gamma", f"{ours}norm1.gamma", trailing_ones(3)),
        Row(f"{theirs}{conv1}.*", f"{ours}conv1.*"),
        Row(f"{theirs}{norm2}.gamma", f"{ours}norm2.gamma", trailing_ones(3)),
        Row(f"{theirs}{conv2}.*", f"{ours}conv2.*"),
        Row(f"{theirs}{shortcut}.*", f"{ours}shortcut.*"),
    ]


def _resample(theirs: str, ours: str) -> list[Row]:
    return [Row(f"{theirs}resample.1.*", f"{ours}space.*"), Row(f"{theirs}time_conv.*", f"{ours}time.*")]


def vae_arguments(theirs: Mapping[str, Any], *, source: object) -> dict[str, Any]:
    """Our VAE's arguments from diffusers' `config.json`."""
    patch, multipliers = theirs["patch_size"] or 1, list(theirs["dim_mult"])
    if theirs.get("attn_scales"):
        raise InputError(f"{source}: attn_scales is not empty; no published VAE of this family has it")
    return {
        **{"latent_channels": theirs["z_dim"], "base": theirs["base_dim"]},
        **{"decoder_base": theirs.get("decoder_base_dim") or theirs["base_dim"], "multipliers": multipliers},
        **{"spatial": [True] * (len(multipliers) - 1), "temporal": list(theirs["temperal_downsample"])},
        **{"blocks": theirs["num_res_blocks"], "shortcuts": theirs["is_residual"], "linear": False, "patch": patch},
    }


def to_vae_config(arguments: Mapping[str, Any], buffers: Mapping[str, list[float]]) -> dict[str, Any]:
    """diffusers' AutoencoderKLWan for a VAE of ours; InputError says what that class cannot express."""
    other = [] if not arguments["linear"] else ["linear=true (the linear autoencoder beside the network)"]
    if not all(arguments["spatial"]):
        other.append(f"spatial={list(arguments['spatial'])} (every level of theirs halves space)")
    if arguments["patch"] not in (1, 2):
        other.append(f"patch={arguments['patch']}")
    if other:
        raise InputError(f"diffusers' AutoencoderKLWan cannot express {', '.join(other)}")
    patch, space = arguments["patch"], arguments["patch"] * 2 ** (len(arguments["multipliers"]) - 1)
    return {
        **{"_class_name": "AutoencoderKLWan", "base_dim": arguments["base"], "z_dim": arguments["latent_channels"]},
        **{"decoder_base_dim": arguments["decoder_base"], "dim_mult": list(arguments["multipliers"])},
        **{"num_res_blocks": arguments["blocks"], "temperal_downsample": list(arguments["temporal"])},
        **{"is_residual": arguments["shortcuts"], "patch_size": None if patch == 1 else patch, "attn_scales": []},
        **{"in_channels": 3 * patch**2, "out_channels": 3 * patch**2, "dropout": 0.0},
        **{key: buffers[name] for name, key in _BUFFERS.items()},
        **{"scale_factor_temporal": 2 ** sum(arguments["temporal"]), "scale_factor_spatial": space},
    }


def detect_dit(shapes: Shapes, head_dim: int | None) -> Detected:
    """A transformer's file."""
    vendor = "patch_embedding.weight" in shapes and "text_embedding.0.weight" in shapes
    ffn, text, time = ("ffn.0", "text_embedding.0", "time_embedding.0") if vendor else (
        "ffn.net.0.proj", "condition_embedder.text_embedder.linear_1", "condition_embedder.time_embedder.linear_1"
    )  # fmt: skip
    dim, channels, *patch = shapes["patch_embedding.weight"]
    if dim % (head_dim or HEAD_DIM):
        told = "as a config.json beside it says" if head_dim else "which all have that are published"
        raise InputError(f"a transformer {dim} wide has no heads of {head_dim or HEAD_DIM}, {told}")
    head = shapes["head.head.weight" if vendor else "proj_out.weight"][0]
    norm = "norm3" if vendor else "norm2"
    arguments = dit_arguments(
        {
            **{"num_heads": dim // (head_dim or HEAD_DIM), "ffn_dim": shapes[f"blocks.0.{ffn}.weight"][0], "dim": dim},
            **{"num_layers": count_blocks(shapes, "blocks."), "in_dim": channels, "patch_size": patch},
            **{"out_dim": head // (patch[0] * patch[1] * patch[2]), "text_dim": shapes[f"{text}.weight"][1]},
            **{"freq_dim": shapes[f"{time}.weight"][1], "cross_attn_norm": f"blocks.0.{norm}.weight" in shapes},
            "model_type": "i2v" if any("k_img" in name or "add_k_proj" in name for name in shapes) else "t2v",
        },
        source="this transformer",
    )
    return Detected("vendor" if vendor else "diffusers", arguments)


def detect_vae(shapes: Shapes, head_dim: int | None) -> Detected:
    """A VAE's file: one of those whose numbers are known, by its latent channels."""
    vendor = "conv2.weight" in shapes
    channels = shapes["conv2.weight" if vendor else "post_quant_conv.weight"][0]
    numbers = next((one for one in shared_parts("vae") if one["arguments"]["latent_channels"] == channels), None)
    if numbers is None:
        raise InputError(f"a VAE of {channels} latent channels is none of those that conf/pretrained/parts knows")
    statistics = {"mean": numbers["mean"], "std": numbers["std"]}
    return Detected("vendor" if vendor else "diffusers", numbers["arguments"], statistics)


_BUFFERS = {"mean": "latents_mean", "std": "latents_std"}
DIT = Network(
    architecture="dit",
    table=dit_table,
    signs=("blocks.0.self_attn.q.weight", "blocks.0.attn1.to_q.weight"),
    detect=detect_dit,
    classes=TRANSFORMER_CLASSES,
    arguments=dit_arguments,
    config=to_dit_config,
    always=ALWAYS,
)
VAE = Network(
    architecture="video_vae",
    table=vae_table,
    signs=("decoder.middle.0.residual.0.gamma", "decoder.mid_block.resnets.0.norm1.gamma"),
    detect=detect_vae,
    classes=VAE_CLASSES,
    arguments=vae_arguments,
    config=to_vae_config,
    buffers=_BUFFERS,
)
FAMILY = Family(
    name="wan",
    networks={"dit": DIT, "dit_low": DIT, "text": t5.ENCODER, "vae": VAE},
    folders={"dit": "transformer", "dit_low": "transformer_2", "text": "text_encoder", "vae": "vae"},
    tokenizers={"text": "tokenizer"},
    pipeline="WanPipeline",
    text_length=TEXT_LENGTH,
    adapters=Adapters(
        prefixes={
            **dict.fromkeys(("high_noise_model.", "high_noise."), "dit"),
            **dict.fromkeys(("transformer_2.", "pipe.dit2.", "dit2.", "low_noise_model.", "low_noise."), "dit_low"),
        },
        tables=(".modulation", ".scale_shift_table"),
        absent=(
            *("k_img", "v_img", "norm_k_img", "img_emb"),
            *("add_k_proj", "add_v_proj", "norm_added_k", "image_embedder"),
        ),
    ),
)
