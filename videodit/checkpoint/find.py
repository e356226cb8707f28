"""From what a user calls a model to its parts: bundled names, run folders, public weights in either layout, hub ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from videodit.accel.compiling import lacking_compiler
from videodit.accel.int8 import check_int8
from videodit.checkpoint import adapters
from videodit.checkpoint.family import is_exact, nearest_family, settings
from videodit.checkpoint.folder import Described, is_folder, read_folder
from videodit.checkpoint.loose import loose_parts
from videodit.checkpoint.parts import FILES, NAMES, ROLES, TOKENIZERS, first, of_role
from videodit.checkpoint.pretrained import Components, Part, check_parts, lacking
from videodit.checkpoint.random_weights import TOLD, is_random
from videodit.checkpoint.resolve import files_of, locate, locate_recorded, read_family
from videodit.checkpoint.schemas import Base, Pipeline
from videodit.checkpoint.weights import Weights
from videodit.errors import InputError
from videodit.models.interfaces import DENOISER, TEXT_ENCODER, VAE
from videodit.models.text import Tokenizer
from videodit.printable import note, warn
from videodit.untrusted import read_json

SMALL = 2**28  # parameters of a model that stays open as a whole


def open_pipeline(
    model: str,
    *,
    device: str,
    dtype: torch.dtype | None,
    vae_dtype: torch.dtype | None = None,
    offload: str = "auto",
    quantize: str = "",
    compiled: bool = False,
    lora: Mapping[str, float] | None = None,
    base: str = "",
) -> Components:
    """The networks of a model, none of them opened yet. float32 unless `dtype` says else, and for the VAE `vae_dtype`.

    `model` is a bundled name, a name in conf/pretrained, a run folder, a folder of weights in our layout, diffusers'
    or the vendor's, a safetensors file of a transformer, or a hub id. `offload` is "none", "model" (one network at a
    time), "block" (and one block of it) or "auto": "none" for small models, else "model". `quantize` is "int8" or
    nothing. `compiled`: run the denoisers' blocks through torch.compile. `lora`: adapters and their strengths.
    `base`: where the model is that this one is a change of, if not where its pipeline.json says.
    """
    check_choices(offload, quantize)
    if compiled and (absent := lacking_compiler(torch.device(device))):
        warn(__name__, f"compile=true: there is no {absent} here, so the DiT runs uncompiled")
    if compiled and offload == "block":
        raise InputError("compile=true: blocks that come and go are not compiled; offload=block runs without it")
    pipeline, parts, tokenizers = describe(model, base)
    if any(is_random(file.parents[1]) for part in parts.values() for file in part.weights.files):
        note(__name__, f"{model}: {TOLD}")
    check_parts(parts)
    parts = adapters.attach(parts, lora or {})
    if offload == "auto":
        offload = "none" if sum(part.count for part in parts.values()) <= SMALL else "model"
    return Components(
        name=model,
        pipeline=_typed(pipeline, vae_dtype),
        tokenizers=tokenizers_of(pipeline, parts, tokenizers),
        device=torch.device(device),
        dtype=dtype or torch.float32,
        parts=parts,
        offload=offload,
        quantize=quantize,
        compiled=compiled and not absent,
        lora=lora,
    )


def check_choices(offload: str, quantize: str, *, planned: bool = False) -> None:
    """InputError for what these keys cannot be; a plan needs no library for it."""
    if offload not in ("auto", "none", "model", "block"):
        raise InputError(f"offload={offload}: it is auto, none, model or block")
    if quantize not in ("", "int8"):
        raise InputError(f"quantize={quantize}: it is int8 or nothing")
    if quantize and offload == "block":
        raise InputError("quantize=int8: with offload=block the weights stay in their files, so it would save nothing")
    if quantize and not planned:
        check_int8()


class WordCount:
    """Stands for a tokenizer that is not there: how many tokens a prompt will have, more or less."""

    def __call__(self, prompts: Sequence[str]) -> tuple[None, tuple[int, ...]]:
        """No ids, and lengths: four tokens for three words, and one that closes the prompt."""
        return None, tuple(1 + round(len(prompt.split()) * 4 / 3) for prompt in prompts)


def sketch_pipeline(
    name: str,
    *,
    device: str,
    dtype: torch.dtype,
    vae_dtype: torch.dtype | None = None,
    offload: str = "auto",
    quantize: str = "",
) -> Components:
    """A name in conf/pretrained by its numbers alone, without any file: for plans."""
    check_choices(offload, quantize, planned=True)
    family = read_family(name)
    if "defaults" not in family:
        raise InputError(f"model={name}: its VAE has no class here yet, so it makes no videos")
    parts = {name: Part(family[name], Weights([])) for name in ROLES if name in family}
    if "boundary" in family:
        parts[NAMES[DENOISER][1]] = first(parts, DENOISER)
    return Components(
        name=name,
        pipeline=_typed(settings(name, exact=True), vae_dtype),
        tokenizers=dict.fromkeys(of_role(parts, TEXT_ENCODER), WordCount()),
        device=torch.device(device),
        dtype=dtype,
        parts=parts,
        offload="model" if offload == "auto" else offload,
        quantize=quantize,
    )


def describe(model: str, base: str = "") -> Described:
    """What pipeline.json says or would say, the parts, and the tokenizers' files. `base`: see `open_pipeline`."""
    found, own = described(*locate(model), base)
    if base and not own:
        raise InputError(f"base={base}: model={model} is no change of another model")
    return found


def tokenizers_of(
    pipeline: Mapping[str, Any], parts: Mapping[str, Part], paths: Mapping[str, Path]
) -> dict[str, Tokenizer]:
    """The tokenizers of these networks, in these files."""
    streams, mends = first(parts, DENOISER).outline.streams, pipeline.get("prompts") == "ftfy"
    return {
        name: Tokenizer(
            path=paths[name],
            length=streams[name].length,
            vocabulary=parts[name].spec["arguments"]["vocabulary"],
            mends=mends,
        )
        for name in of_role(parts, TEXT_ENCODER)
    }


def described(path: Path, family: str | None, base: str = "", seen: Sequence[Path] = ()) -> tuple[Described, bool]:
    """`describe` of a folder or file, and whether it is a change of another model; `seen`: those that led to it."""
    if (path / "pipeline.json").is_file():
        found, is_change = _own(path, base, seen)
    else:
        found, is_change = read_folder(path, family) if is_folder(path) else _loose(path, family), False
    pipeline, parts, tokenizers = found
    return (pipeline, parts, {name: tokenizers[name] for name in of_role(parts, TEXT_ENCODER)}), is_change


def _lacking(parts: Mapping[str, Part], tokenizers: Mapping[str, Path]) -> tuple[list[str], list[str]]:
    """The parts that a model lacks, and its text encoders without a tokenizer."""
    needed = lacking(parts)
    return needed, [name for name in of_role([*parts, *needed], TEXT_ENCODER) if name not in tokenizers]


def _own(folder: Path, override: str, seen: Sequence[Path]) -> tuple[Described, bool]:
    """A folder of ours. Where its pipeline.json names a base, that has what the folder lacks."""
    file = folder / "pipeline.json"
    pipeline = read_json(file, Pipeline)
    base = pipeline.pop("base", None)
    experts = NAMES[DENOISER] if "boundary" in pipeline and base is None else NAMES[DENOISER][:1]
    names = [*experts, *NAMES[TEXT_ENCODER], *NAMES[VAE]]
    parts = {name: Part.own(folder / FILES[name]) for name in names if (folder / FILES[name]).is_file()}
    tokenizers = {name: folder / words for name, words in TOKENIZERS.items() if (folder / words).is_file()}
    needed, mute = _lacking(parts, tokenizers)
    missing = [FILES[name] for name in [*needed, *experts[1:]] if name not in parts]
    if base is None and (missing := [*missing, *(TOKENIZERS[name] for name in mute)]):
        raise InputError(f"{folder} lacks {', '.join(missing)}")
    if len({part.step for name, part in parts.items() if ROLES[name] != VAE} - {None}) > 1:  # these train together
        raise InputError(f"{folder} is half written: run the training's command again")
    if base is not None:
        if folder.resolve() in seen:
            raise InputError(f"{file}: its base leads back to it")
        rest, others = _base(file, base, override, [*seen, folder.resolve()])
        parts, tokenizers = {**rest, **parts}, {**others, **tokenizers}
        needed, mute = _lacking(parts, tokenizers)
        if needed := [*needed, *(TOKENIZERS[name] for name in mute)]:
            raise InputError(f"{file}: its base has no {', '.join(needed)} with a fingerprint that it names")
    if (folder / adapters.FILE).is_file():
        parts = adapters.attach(parts, {str(folder): 1.0}, quiet=True)
    return (pipeline, parts, tokenizers), base is not None


def _base(file: Path, base: Base, override: str, seen: Sequence[Path]) -> tuple[dict[str, Part], dict[str, Path]]:
    """The parts that a pipeline.json says it has of the model that it is a change of, and that one's tokenizers."""
    try:
        place = locate(override) if override else locate_recorded(base["model"], file, "base")
        _, parts, tokenizers = described(*place, seen=seen)[0]
    except InputError as error:
        raise InputError(f"{file.parent} is a change of another model, which cannot be opened: {error}") from None
    wanted = base["weights"]
    if other := [part for part in wanted if part not in parts or parts[part].fingerprint != wanted[part]]:
        named = override or base["model"]
        raise InputError(f"{file.parent} is a change of {named}, which has other weights now ({', '.join(other)})")
    return {part: parts[part] for part in wanted}, tokenizers


def _loose(path: Path, family: str | None) -> Described:
    """Files known by what they hold: the vendor's layout, or a transformer's file with the rest beside it."""
    found, tokenizers = loose_parts(path)
    if not of_role(found, DENOISER):
        raise InputError(f"{path}: no file of a transformer's weights is there")
    arguments = first(found, DENOISER).spec["arguments"]
    family = family or nearest_family(found)
    needed, mute = _lacking(found, tokenizers)
    if needed or mute:
        told = " and ".join([*needed, *(Path(TOKENIZERS[name]).stem for name in mute)])
        _, rest, others = read_folder(files_of(family, f"{path}, which lacks {told}"))
        found, tokenizers = {**{part: rest[part] for part in rest if part in needed}, **found}, {**others, **tokenizers}
    pipeline = settings(family, exact=is_exact(family, arguments))
    return pipeline, found, tokenizers


def _typed(pipeline: dict[str, Any], vae_dtype: torch.dtype | None) -> dict[str, Any]:
    """Settings in which the VAE has this type, if one is given."""
    return {**pipeline, "vae_dtype": str(vae_dtype).removeprefix("torch.")} if vae_dtype else pipeline
