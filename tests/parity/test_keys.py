"""Every published size: each key of diffusers' layout and of the vendor's has its place, and nothing is left over.

On the meta device. The vendor's names are checked by diffusers' own converters of single files.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, LTXVideoTransformer3DModel, WanTransformer3DModel
from diffusers.loaders import single_file_utils
from transformers import UMT5Config, UMT5EncoderModel

from videodit.checkpoint.families import ltx, t5, wan
from videodit.checkpoint.family import table
from videodit.checkpoint.keymap import match, names_of, reverse
from videodit.checkpoint.resolve import families, read_family
from videodit.errors import InputError
from videodit.models.build import rebuild

COUNTS = {
    "wan2.1-t2v-1.3b": 825,
    "wan2.1-t2v-14b": 1095,
    "wan2.2-ti2v-5b": 825,
    "wan2.2-t2v-a14b": 1095,
    "ltx-video-0.9": 715,
}
# What the vendors' models say of themselves in diffusers' classes; the rest is those classes' default.
DIFFUSERS: dict[str, dict[str, Any]] = {
    "wan2.1-t2v-1.3b": {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
    "wan2.1-t2v-14b": {},
    "wan2.2-ti2v-5b": {
        **{"num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30, "in_channels": 48, "out_channels": 48},
    },
    "wan2.2-t2v-a14b": {},
    "ltx-video-0.9": {},
}
VAES = {
    "wan-vae-2.1": {},
    "wan-vae-2.2": {
        **{"base_dim": 160, "decoder_base_dim": 256, "z_dim": 48, "is_residual": True, "patch_size": 2},
        **{"in_channels": 12, "out_channels": 12, "latents_mean": [0.0] * 48, "latents_std": [1.0] * 48},
    },
}


def meta(kind: type, **arguments: Any) -> torch.nn.Module:
    with torch.device("meta"):
        return kind(**arguments)


def shapes(module: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def fits(theirs: dict[str, torch.Size], ours: dict[str, torch.Size], rows: Any) -> None:
    """Each of their tensors becomes one of ours, of our shape."""
    found = match(theirs, rows, ours.keys(), source="x")
    assert found.keys() == ours.keys() and len(found) == len(theirs)
    for name, (source, change) in found.items():
        assert change(torch.empty(theirs[source], device="meta")).shape == ours[name], name


def test_every_family_is_here() -> None:
    assert {name for name in families() if "hub" in read_family(name)} == set(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_transformers(name: str) -> None:
    family = read_family(name)
    kind, mod = (LTXVideoTransformer3DModel, ltx) if family["family"] == "ltx" else (WanTransformer3DModel, wan)
    theirs = meta(kind, **DIFFUSERS[name])
    spec = family["dit"]
    arguments = mod.dit_arguments(theirs.config, source=name)
    assert arguments == spec["arguments"], "conf/pretrained says the same as diffusers' config"
    with torch.device("meta"):
        ours = shapes(rebuild(spec["architecture"], spec["arguments"]))
    keys = shapes(theirs)
    assert len(keys) == COUNTS[name]
    fits(keys, ours, table(family["family"], "dit", "diffusers", arguments))

    vendor_table = table(family["family"], "dit", "vendor", arguments)
    vendor = match(ours, reverse(vendor_table), _their_names(ours, vendor_table), source="x").keys()
    converter = {"wan": "wan_transformer_to_diffusers", "ltx": "ltx_transformer_checkpoint_to_diffusers"}
    convert = getattr(single_file_utils, f"convert_{converter[family['family']]}")
    converted = convert(dict.fromkeys(vendor, torch.empty(0)))
    assert converted.keys() == keys.keys()
    without = keys.keys() - {next(name for name in keys if name.endswith("norm_q.weight"))}
    with pytest.raises(InputError, match=r"missing: .*norm_q.weight"):
        match(without, table(family["family"], "dit", "diffusers", arguments), ours.keys(), source="x")


def _their_names(ours: dict[str, torch.Size], rows: Any) -> set[str]:
    return set(names_of(ours, rows))


@pytest.mark.parametrize("name", VAES)
def test_vaes(name: str) -> None:
    family = read_family("wan2.1-t2v-14b" if name == "wan-vae-2.1" else "wan2.2-ti2v-5b")["vae"]
    theirs = meta(AutoencoderKLWan, **VAES[name])
    arguments = wan.vae_arguments(theirs.config, source=name)
    assert arguments == family["arguments"]
    if name == "wan-vae-2.1":
        assert theirs.config.latents_mean == family["mean"] and theirs.config.latents_std == family["std"]
    with torch.device("meta"):
        ours = shapes(rebuild(family["architecture"], family["arguments"]))
    ours = {key: shape for key, shape in ours.items() if key not in ("mean", "std")}
    keys = shapes(theirs)
    fits(keys, ours, wan.vae_table("diffusers", arguments))
    vendor = _their_names(ours, wan.vae_table("vendor", arguments))
    assert len(vendor) == len(keys)
    if name == "wan-vae-2.1":  # their converter knows this kind only
        converted = single_file_utils.convert_wan_vae_to_diffusers({key: torch.empty(0) for key in vendor})
        assert converted.keys() == keys.keys()
    assert {"encoder.conv1.weight", "decoder.head.2.bias", "conv2.weight"} <= vendor


def test_umt5() -> None:
    spec = read_family("wan2.1-t2v-14b")["text"]
    sizes = {"d_model": 4096, "num_layers": 24, "num_heads": 64, "d_kv": 64, "d_ff": 10240, "vocab_size": 256384}
    config = UMT5Config(**sizes, feed_forward_proj="gated-gelu")
    assert t5.arguments(config.to_dict(), source="x") == spec["arguments"]
    theirs = shapes(meta(UMT5EncoderModel, config=config))
    with torch.device("meta"):
        ours = shapes(rebuild(spec["architecture"], spec["arguments"]))
    found = match(theirs, t5.table("diffusers", spec["arguments"]), ours.keys(), source="x")
    assert found.keys() == ours.keys() and len(theirs) == len(ours) + 1  # shared.weight is the second name of one
    assert all(theirs[source] == ours[name] for name, (source, _) in found.items())
    # wan/modules/t5.py: an embedding, a last norm, and for each block two norms, four projections, three matrices of
    # the feed-forward and its own position embedding.
    vendor = _their_names(ours, t5.table("vendor", spec["arguments"]))
    block = ["norm1", *(f"attn.{x}" for x in "qkvo"), "norm2", "ffn.gate.0", "ffn.fc1", "ffn.fc2"]
    expected = {f"blocks.{i}.{part}.weight" for i in range(24) for part in [*block, "pos_embedding.embedding"]}
    assert vendor == expected | {"token_embedding.weight", "norm.weight"}
