"""Weights known by what they hold: the vendor's folders, and single files as others repackage them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from videodit.checkpoint.experts import are_partners, expert_of
from videodit.checkpoint.families import ltx, wan
from videodit.checkpoint.families.lora import HIGH, LOW
from videodit.checkpoint.families.t5 import table as t5_table
from videodit.checkpoint.keymap import Table, prefixed
from videodit.checkpoint.pretrained import Part
from videodit.checkpoint.weights import PICKLES, Weights, open_weights
from videodit.config import conf_dir, read_yaml
from videodit.errors import InputError
from videodit.untrusted import read_json

PREFIXES = ("", "model.diffusion_model.", "model.")
HEAD_DIM = 128  # of all published transformers of this vendor; single files do not say it


def loose_parts(path: Path) -> tuple[dict[str, Part], Path | None]:
    """The parts in a folder, or in a file and beside it, and the tokenizer if it is there.

    Beside a given file only the text encoder, the VAE and the other of two experts are looked for.
    """
    folder = path if path.is_dir() else path.parent
    found: dict[str, Part] = {}
    if path.is_file():
        files = [*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")]
        if (expert := expert_of(path)) and not any(are_partners(path, file) for file in files):
            raise _alone(path, expert)
        part = identify(open_weights(path))
        if part is None or part.spec["architecture"] != "dit":
            raise InputError(f"{path}: not a file of a transformer's weights in a layout that is known")
        found[expert or "dit"] = part
    for weights in _sets(folder):
        part = identify(weights)
        if part is None:
            continue
        name = {"t5": "text", "video_vae": "vae", "dit": "dit"}[part.spec["architecture"]]
        place = str(weights.files[0].relative_to(folder))
        if name == "dit" and path.is_file() and not are_partners(path, weights.files[0]):
            continue
        name = (expert_of(weights.files[0]) or name) if name == "dit" else name
        if name in found and weights.files[0] != found[name].weights.files[0]:
            if not path.is_file():
                raise InputError(f"{folder}: {place} and {found[name].weights.source} are both {name}; name one file")
            continue
        found.setdefault(name, part)
    experts = [found[name].weights.files[0] for name in (HIGH, LOW) if name in found]
    if len(experts) == 1 and (expert := expert_of(experts[0])):
        raise _alone(path, expert)
    _name_pickles(folder, found)
    tokenizers = [*folder.glob("tokenizer.json"), *folder.glob("*/tokenizer.json"), *folder.glob("*/*/tokenizer.json")]
    return found, tokenizers[0] if tokenizers else None


def identify(weights: Weights) -> Part | None:
    """The part that these tensors are, by their names; None if no table fits."""
    names = set(weights.names)
    for prefix in PREFIXES:
        shapes = {name[len(prefix) :]: weights.shapes[name] for name in names if name.startswith(prefix)}
        for signature, describe in SIGNATURES.items():
            if signature in shapes:
                head_dim = _head_dim(weights.files[0].parent)
                try:
                    spec, table, constants = describe(shapes, head_dim)
                except (LookupError, ValueError, ZeroDivisionError, StopIteration) as error:
                    if isinstance(error, InputError):
                        raise
                    told = f"a tensor beside {signature} is missing, or has another shape or name ({error})"
                    raise InputError(f"{weights.source}: {told}; the file is damaged or of an unknown kind") from None
                return Part(spec, weights, prefixed(table, prefix), constants)
    return None


Shapes = Mapping[str, tuple[int, ...]]
Description = tuple[dict[str, Any], Table, dict[str, Any]]


def _head_dim(folder: Path) -> int | None:
    """What a transformer's config.json in this folder says, if there is one."""
    path = folder / "config.json"
    content = read_json(path, wan.VendorConfig) if path.is_file() else {}
    if "attention_head_dim" in content:
        return content["attention_head_dim"]
    return max(1, content["dim"] // content["num_heads"]) if {"dim", "num_heads"} <= content.keys() else None


def _wan_dit(shapes: Shapes, head_dim: int | None) -> Description:
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
    arguments = wan.dit_arguments(
        {
            **{"num_heads": dim // (head_dim or HEAD_DIM), "ffn_dim": shapes[f"blocks.0.{ffn}.weight"][0], "dim": dim},
            **{"num_layers": _layers(shapes, "blocks."), "in_dim": channels, "patch_size": patch},
            **{"out_dim": head // (patch[0] * patch[1] * patch[2]), "text_dim": shapes[f"{text}.weight"][1]},
            **{"freq_dim": shapes[f"{time}.weight"][1], "cross_attn_norm": f"blocks.0.{norm}.weight" in shapes},
            "model_type": "i2v" if any("k_img" in name or "add_k_proj" in name for name in shapes) else "t2v",
        },
        source="this transformer",
    )
    table = wan.dit_table("vendor" if vendor else "diffusers", arguments)
    return {"architecture": "dit", "arguments": arguments}, table, {}


def _ltx_dit(shapes: Shapes, head_dim: int | None) -> Description:
    vendor = "patchify_proj.weight" in shapes
    dim, channels = shapes["patchify_proj.weight" if vendor else "proj_in.weight"]
    arguments = ltx.dit_arguments(
        {
            **{"in_channels": channels, "out_channels": channels, "patch_size": 1, "patch_size_t": 1},
            **{"num_attention_heads": dim // ltx.HEAD_DIM, "attention_head_dim": ltx.HEAD_DIM},
            **{"num_layers": _layers(shapes, "transformer_blocks."), "caption_channels": _caption(shapes)},
        },
        source="this transformer",
    )
    table = ltx.dit_table("vendor" if vendor else "diffusers", arguments)
    return {"architecture": "dit", "arguments": arguments}, table, {}


def _wan_vae(shapes: Shapes, head_dim: int | None) -> Description:
    vendor = "conv2.weight" in shapes
    channels = shapes["conv2.weight" if vendor else "post_quant_conv.weight"][0]
    known = [read_yaml(path) for path in sorted((conf_dir() / "pretrained" / "parts").glob("*vae*.yaml"))]
    numbers = next((one for one in known if one["arguments"]["latent_channels"] == channels), None)
    if numbers is None:
        raise InputError(f"a VAE of {channels} latent channels is none of those that conf/pretrained/parts knows")
    spec = {"architecture": numbers["architecture"], "arguments": numbers["arguments"]}
    table = wan.vae_table("vendor" if vendor else "diffusers", numbers["arguments"])
    return spec, table, {"mean": numbers["mean"], "std": numbers["std"]}


def _t5(shapes: Shapes, head_dim: int | None) -> Description:
    vendor = "token_embedding.weight" in shapes
    block, bias = ("blocks.", "pos_embedding.embedding") if vendor else (
        "encoder.block.", "layer.0.SelfAttention.relative_attention_bias"
    )  # fmt: skip
    q, ffn = ("attn.q", "ffn.fc1") if vendor else ("layer.0.SelfAttention.q", "layer.1.DenseReluDense.wi_1")
    words = next(shapes[name] for name in ("token_embedding.weight", "shared.weight", _WORDS) if name in shapes)
    inner, heads = shapes[f"{block}0.{q}.weight"][0], shapes[f"{block}0.{bias}.weight"][1]
    arguments = {
        **{"vocabulary": words[0], "dim": words[1], "layers": _layers(shapes, block), "heads": heads},
        **{"head_dim": inner // heads, "ffn": shapes[f"{block}0.{ffn}.weight"][0]},
        "bias_per_layer": f"{block}1.{bias}.weight" in shapes,
    }
    table = t5_table("vendor" if vendor else "diffusers", arguments)
    return {"architecture": "t5", "arguments": arguments}, table, {}


_WORDS = "encoder.embed_tokens.weight"
SIGNATURES = {
    "blocks.0.self_attn.q.weight": _wan_dit,
    "blocks.0.attn1.to_q.weight": _wan_dit,
    "transformer_blocks.0.attn1.to_q.weight": _ltx_dit,
    "decoder.middle.0.residual.0.gamma": _wan_vae,
    "decoder.mid_block.resnets.0.norm1.gamma": _wan_vae,
    "blocks.0.attn.q.weight": _t5,
    "encoder.block.0.layer.0.SelfAttention.q.weight": _t5,
}


def _layers(shapes: Shapes, prefix: str) -> int:
    return 1 + max(int(name[len(prefix) :].split(".")[0]) for name in shapes if name.startswith(prefix))


def _caption(shapes: Shapes) -> int:
    return shapes["caption_projection.linear_1.weight"][1]


def _sets(folder: Path) -> Iterator[Weights]:
    """The sets of weights in a folder and one below: shards with an index, and files by themselves."""
    for place in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        sharded: set[Path] = set()
        if list(place.glob("*.safetensors.index.json")):
            weights = open_weights(place)
            sharded = set(weights.files)
            yield weights
        for path in sorted(place.glob("*.safetensors")):
            if path not in sharded:
                yield Weights([path])


def _alone(path: Path, expert: str) -> InputError:
    """What is said of one of two experts that is there without the other."""
    own, other = ("high", "low") if expert == HIGH else ("low", "high")
    told = f"it is the expert for {own} noise; the one for {other} noise is not beside it"
    return InputError(f"{path}: {told}, and neither is a model by itself")


def _name_pickles(folder: Path, found: Mapping[str, Part]) -> None:
    lacking = [part for part in ("text", "vae") if part not in found]
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    for part, hint in (("text", "t5"), ("vae", "VAE")):
        named = [name for name in pickles if hint.lower() in name.lower()]
        if part in lacking and named:
            raise InputError(
                f"{folder / named[0]} is a pickle, which could run code when opened; only safetensors are read: put "
                f"the {part}'s safetensors from diffusers' repository of this model beside it and move the pickle away"
            )
