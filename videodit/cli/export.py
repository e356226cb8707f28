"""`videodit export`: write a model as a folder that `model=` takes, or that diffusers opens."""

from __future__ import annotations

from pathlib import Path

import torch

from videodit.atomic import check_output, check_room
from videodit.checkpoint import adapters
from videodit.checkpoint.export import export_diffusers, export_own, tensors
from videodit.checkpoint.find import described
from videodit.checkpoint.latents import encoder_fingerprint
from videodit.checkpoint.parts import first, name_of
from videodit.checkpoint.pretrained import Part, check_parts
from videodit.checkpoint.resolve import locate
from videodit.checkpoint.store import load_tensors, save_tensors
from videodit.cli.about import is_run
from videodit.cli.settings import Export
from videodit.errors import InputError
from videodit.models.interfaces import VAE
from videodit.nn.device import pick_dtype
from videodit.printable import answer
from videodit.train.init import base_named, find_vae, open_vae

ADAPTER = "adapter"  # the format: what was trained alone, as diffusers and ComfyUI take it
FORMATS = {"videodit": export_own, "diffusers": export_diffusers}


def run(asked: Export) -> None:
    """Copy a model's networks to `asked.out` in the layout and dtype asked for."""
    dtype = pick_dtype(asked.dtype) or torch.float32
    out = Path(asked.out)
    if asked.format == ADAPTER:
        answer(export_adapter(asked.model, out, dtype))
        return
    if out.is_file():
        raise InputError(f"out={out}: it is a file; name a folder")
    if is_run(out):
        raise InputError(f"out={out}: it is a run's folder, which opens as that run's model; name another")
    check_output(out / "pipeline.json")
    pipeline, parts, tokenizers = described(*locate(asked.model), asked.base)[0]
    check_parts(parts)
    parts = adapters.attach(parts, adapters.parse(asked.lora))
    if asked.vae_from:
        parts[name_of(VAE)] = same_latents(find_vae(asked.vae_from), first(parts, VAE))
    if asked.base:
        if asked.format != "videodit":
            raise InputError(f"base={asked.base}: only format=videodit leaves parts out")
        base = base_named("base", asked.base)
        same = [name for name, part in parts.items() if equal(part, base.parts.get(name))]
        pipeline, parts = {"base": base.named(same), **pipeline}, {k: v for k, v in parts.items() if k not in same}
    check_room(out, sum(part.count for part in parts.values()) * dtype.itemsize, "the export")
    FORMATS[asked.format](pipeline, parts, tokenizers, out, dtype, answer)


def equal(part: Part, other: Part | None) -> bool:
    """Whether two networks are the same, to float32."""
    if other is None or part.skeleton.spec != other.skeleton.spec:
        return False
    theirs = dict(tensors(other, torch.float32))
    return all(torch.equal(tensor, theirs[name]) for name, tensor in tensors(part, torch.float32))


def export_adapter(model: str, out: Path, dtype: torch.dtype) -> Path:
    """Write the adapter of a run to the file `out`, or into the folder."""
    source = locate(model)[0] / adapters.FILE
    if not source.is_file():
        raise InputError(f"model={model}: {model} has no adapter: it is no run of adapter=lora")
    path = out if out.suffix == ".safetensors" else out / adapters.FILE
    check_output(path)
    tensors, header = load_tensors(source)
    save_tensors(path, {name: tensor.to(dtype) for name, tensor in tensors.items()}, header)
    if header["adapter"]["dora"]:
        answer("note: ComfyUI does not read DoRA's lengths in diffusers' names; a merged export serves it")
    return path


def same_latents(other: Part, own: Part) -> Part:
    """Another VAE, if its latents are those that the model was trained on."""
    if encoder_fingerprint(open_vae(other)) != encoder_fingerprint(own.load(dtype=torch.float32)):
        path, source = other.weights.source, own.weights.source
        raise InputError(f"vae_from={path}: its encoder is not that of {source}: only the decoder may differ")
    return other
