"""From what a user calls a model to its parts: bundled names, run folders, public weights in either layout, hub ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from videodit.checkpoint import adapters
from videodit.checkpoint.families import ltx, t5, wan
from videodit.checkpoint.keymap import Table
from videodit.checkpoint.loose import loose_parts
from videodit.checkpoint.pretrained import FILES, Components, Part, check_kinds
from videodit.checkpoint.store import read_json
from videodit.checkpoint.weights import PICKLES, Weights, open_weights
from videodit.config import assets_dir, conf_dir, read_yaml
from videodit.errors import InputError
from videodit.models.text import Tokenizer
from videodit.nn.compiling import lacking_compiler
from videodit.nn.int8 import check_int8
from videodit.printable import say

SAMPLERS = {
    "UniPCMultistepScheduler": "unipc",
    "DPMSolverMultistepScheduler": "dpmpp",
    "FlowMatchEulerDiscreteScheduler": "euler",
}
EVERYWHERE = [1, 2**31]  # an `area` without limits
SMALL = 2**28  # parameters of a model that stays open as a whole


def open_pipeline(
    model: str,
    *,
    device: str,
    dtype: torch.dtype | None,
    offload: str = "auto",
    quantize: str = "",
    compiled: bool = False,
    lora: Mapping[str, float] | None = None,
) -> Components:
    """The networks of a model, none of them opened yet. float32 unless `dtype` says else.

    `model` is a bundled name, a name in conf/pretrained, a run folder, a folder of weights in our layout, diffusers'
    or the vendor's, a safetensors file of a transformer, or a hub id. `offload` is "none", "model" (one network at a
    time), "block" (and one block of it) or "auto": "none" for small models, else "model". `quantize` is "int8" or
    nothing. `compiled`: run the DiT's blocks through torch.compile. `lora`: adapters and their strengths.
    """
    check_choices(offload, quantize)
    if compiled and (lacking := lacking_compiler(torch.device(device))):
        say(f"compile=true: there is no {lacking} here, so the DiT runs uncompiled")
    if compiled and offload == "block":
        raise InputError("compile=true: blocks that come and go are not compiled; offload=block runs without it")
    pipeline, parts, tokenizer = describe(model)
    check_kinds(parts)
    parts = adapters.attach(parts, lora or {})
    if offload == "block" and any(part.added for part in parts.values()):
        raise InputError("offload=block: its weights stay in their files, without the adapter; export the model first")
    if offload == "auto":
        offload = "none" if sum(part.count for part in parts.values()) <= SMALL else "model"
    return Components(
        name=model,
        pipeline=pipeline,
        tokenizer=Tokenizer(path=tokenizer, length=parts["dit"].outline.text_length),
        device=torch.device(device),
        dtype=dtype or torch.float32,
        parts=parts,
        offload=offload,
        quantize=quantize,
        compiled=compiled and not lacking,
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
    name: str, *, device: str, dtype: torch.dtype, offload: str = "auto", quantize: str = ""
) -> Components:
    """A name in conf/pretrained by its numbers alone, without any file: for plans."""
    check_choices(offload, quantize, planned=True)
    family = read_family(name)
    if "defaults" not in family:
        raise InputError(f"model={name}: its VAE has no class here yet, so it makes no videos")
    parts = {part: Part(family[part], Weights([])) for part in ("dit", "text", "vae")}
    if "boundary" in family:
        parts["dit_low"] = parts["dit"]
    return Components(
        name=name,
        pipeline=settings(name, exact=True),
        tokenizer=WordCount(),
        device=torch.device(device),
        dtype=dtype,
        parts=parts,
        offload="model" if offload == "auto" else offload,
        quantize=quantize,
    )


def describe(model: str) -> tuple[dict[str, Any], dict[str, Part], Path]:
    """What pipeline.json says or would say, the parts, and the tokenizer's file."""
    path, family = locate(model)
    if (path / "pipeline.json").is_file():
        return _own(path)
    if (path / "model_index.json").is_file():
        return _diffusers(path)
    return _loose(path, family)


def lasting(model: str) -> str:
    """What `model` can be called from any working folder: the same name, or a whole path."""
    found, path = locate(model)[0].resolve(), Path(model).resolve()
    return str(path) if found == path or path in found.parents else model


def find_pipeline(model: str) -> Path:
    """The folder in our layout of a bundled name, a run folder or a folder of weights."""
    path, _ = locate(model)
    if not (path / "pipeline.json").is_file():
        raise InputError(f"model={model}: {path} is not in videodit's own layout; `videodit export` writes one that is")
    return path


def locate(model: str) -> tuple[Path, str | None]:
    """The folder or file that `model` means, and the name in conf/pretrained if it was one."""
    name = "/" not in model and "\\" not in model
    candidates = [assets_dir() / model] if name else []
    candidates += [Path(model), Path(model) / "model"]
    for folder in candidates:
        if (folder / "pipeline.json").is_file():
            return folder, None
    if name and (conf_dir() / "pretrained" / f"{model}.yaml").is_file():
        return _from_hub(read_family(model)["hub"], model), model
    path = Path(model)
    if path.suffix == ".safetensors" or (path.is_dir() and _is_weights(path)):
        return path, None
    if path.suffix in PICKLES:
        open_weights(path)
    if not path.exists() and _hub_id(model):
        return _from_hub(model, model), None
    bundled = sorted(folder.parent.name for folder in assets_dir().glob("*/pipeline.json"))
    raise InputError(
        f"model={model}: neither a bundled model ({', '.join(bundled) or 'there are none'}) nor a folder with a "
        f"pipeline.json, such as a run folder, nor public weights ({', '.join(families())}, a folder, a file, a hub id)"
    )


def families() -> list[str]:
    """The names in conf/pretrained."""
    return sorted(path.stem for path in (conf_dir() / "pretrained").glob("*.yaml"))


def read_family(name: str) -> dict[str, Any]:
    """The numbers of a name in conf/pretrained, its shared parts filled in."""
    family = read_yaml(conf_dir() / "pretrained" / f"{name}.yaml")
    for part in ("vae", "text"):
        if isinstance(family.get(part), str):
            family[part] = read_yaml(conf_dir() / "pretrained" / "parts" / f"{family[part]}.yaml")
    return family


def table(family: str, part: str, layout: str, arguments: Mapping[str, Any]) -> Table:
    """The names of a family's part in a layout, "diffusers" or "vendor"."""
    if part == "text":
        return t5.table(layout, arguments)
    if part == "vae":
        return wan.vae_table(layout, arguments)
    return {"wan": wan, "ltx": ltx}[family].dit_table(layout, arguments)


def _own(folder: Path) -> tuple[dict[str, Any], dict[str, Part], Path]:
    """A folder of ours. Where its pipeline.json names a base, that has what the folder lacks."""
    pipeline = dict(read_json(folder / "pipeline.json"))
    base, missing = pipeline.pop("base", None), [n for n in FILES.values() if not (folder / n).is_file()]
    if missing and base is None:
        raise InputError(f"{folder} lacks {', '.join(missing)}")
    parts = {part: Part.own(folder / FILES[part]) for part in ("dit", "text", "vae") if FILES[part] not in missing}
    if len({parts[part].step for part in ("dit", "text") if part in parts} - {None}) > 1:  # these train together
        raise InputError(f"{folder} is half written: run the training's command again")
    if "boundary" in pipeline and base is None:  # a second expert
        parts["dit_low"] = Part.own(folder / "dit_low.safetensors")
    tokenizer = folder / FILES["tokenizer"]
    if base is not None:
        rest, other = _base(folder, base)
        parts, tokenizer = {**rest, **parts}, tokenizer if tokenizer.is_file() else other
    if (folder / adapters.FILE).is_file():
        parts = adapters.attach(parts, {str(folder): 1.0})
    return pipeline, parts, tokenizer


def _base(folder: Path, base: Any) -> tuple[dict[str, Part], Path]:
    """The parts and the tokenizer of the model that a folder is a change of."""
    try:
        model, digests = base["model"], dict(base["weights"])
        _, parts, tokenizer = describe(model)
    except InputError as error:
        raise InputError(f"{folder} is a change of another model, which cannot be opened: {error}") from None
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{folder / 'pipeline.json'}: its base is no model with its weights' fingerprints") from None
    if other := [part for part in digests if part not in parts or parts[part].fingerprint != digests[part]]:
        raise InputError(f"{folder} is a change of {model}, which has other weights now ({', '.join(other)})")
    return parts, tokenizer


def _diffusers(folder: Path) -> tuple[dict[str, Any], dict[str, Part], Path]:
    """A folder that diffusers' pipelines save."""
    index = read_json(folder / "model_index.json")
    kind = index.get("_class_name")
    if kind != "WanPipeline":
        raise InputError(f"{folder}: it holds a {kind}; only WanPipeline, text to video, can be used yet")
    wanted = {"transformer": "dit", "transformer_2": "dit_low", "text_encoder": "text", "vae": "vae"}
    held = {theirs: part for theirs, part in wanted.items() if index.get(theirs, [None])[0]}
    if lacking := [name for name in held if not (folder / name).is_dir()]:
        raise InputError(f"{folder} lacks {', '.join(lacking)}, which its model_index.json names")
    parts = {part: _diffusers_part(folder / theirs, part) for theirs, part in held.items()}
    family = nearest_family(parts)
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    pipeline = settings(family, exact=_is_exact(family, parts["dit"].spec["arguments"]))
    pipeline["shift"] = float(scheduler.get("flow_shift", scheduler.get("shift", 1.0)))
    pipeline["defaults"]["sampler"] = SAMPLERS.get(scheduler.get("_class_name"), "unipc")
    if "dit_low" in parts:
        pipeline["boundary"] = float(index["boundary_ratio"])
    return pipeline, parts, _tokenizer(folder / "tokenizer")


def _diffusers_part(folder: Path, part: str) -> Part:
    content, constants = read_json(folder / "config.json"), {}
    try:
        if part == "text":
            architecture, arguments = "t5", t5.arguments(content, source=folder)
        elif part == "vae":
            architecture, arguments = "video_vae", wan.vae_arguments(content, source=folder)
            constants = {"mean": content["latents_mean"], "std": content["latents_std"]}
        else:
            architecture, arguments = "dit", wan.dit_arguments(content, source=folder)
    except KeyError as error:
        raise InputError(f"{folder / 'config.json'} lacks {error}") from None
    spec = {"architecture": architecture, "arguments": arguments}
    return Part(spec, open_weights(folder), table("wan", part, "diffusers", arguments), constants)


def _loose(path: Path, family: str | None) -> tuple[dict[str, Any], dict[str, Part], Path]:
    """Files known by what they hold: the vendor's layout, or a transformer's file with the rest beside it."""
    found, tokenizer = loose_parts(path)
    if "dit" not in found:
        raise InputError(f"{path}: no file of a transformer's weights is there")
    arguments = found["dit"].spec["arguments"]
    family = family or nearest_family(found)
    numbers = read_family(family)
    if lacking := [part for part in ("text", "vae") if part not in found] + ["tokenizer"] * (tokenizer is None):
        whole = _from_hub(numbers["hub"], f"{path}, which lacks {' and '.join(lacking)}")
        _, rest, other = _diffusers(whole)
        found, tokenizer = {**{part: rest[part] for part in rest if part in lacking}, **found}, tokenizer or other
    pipeline = settings(family, exact=_is_exact(family, arguments))
    return pipeline, found, tokenizer


def settings(family: str, *, exact: bool) -> dict[str, Any]:
    """What a pipeline.json would say: the family's numbers; its limits on sizes only for the very same network."""
    numbers = read_family(family)
    pipeline = {key: numbers[key] for key in ("flow", "shift", "area", "defaults", "boundary") if key in numbers}
    return pipeline if exact else {**pipeline, "area": EVERYWHERE}


def nearest_family(parts: Mapping[str, Part]) -> str:
    """The name in conf/pretrained with this transformer, else the first with as many experts and such a VAE."""
    known = {name: read_family(name) for name in families()}
    usable = {n: f for n, f in known.items() if "defaults" in f and ("boundary" in f) == ("dit_low" in parts)}
    same = [name for name in usable if _is_exact(name, parts["dit"].spec["arguments"])]
    if "vae" in parts:
        patch = parts["vae"].spec["arguments"]["patch"]
        same += [name for name, family in usable.items() if family["vae"]["arguments"]["patch"] == patch]
    return (same or list(usable))[0]


def _is_exact(family: str, arguments: Mapping[str, Any]) -> bool:
    return read_family(family)["dit"]["arguments"] == dict(arguments)


def _tokenizer(folder: Path) -> Path:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InputError(f"{folder} lacks tokenizer.json (a spiece.model alone is not read)")
    return path


def _is_weights(folder: Path) -> bool:
    """Whether a folder looks like public weights in any layout."""
    if (folder / "model_index.json").is_file():
        return True
    return any(path.suffix in (".safetensors", *PICKLES) for path in folder.glob("*"))


def _hub_id(model: str) -> bool:
    parts = model.split("/")
    return len(parts) == 2 and all(parts) and not model.startswith((".", "/", "~"))


def _from_hub(hub: str, asked: str) -> Path:
    """The folder of a hub repository: from the cache, else downloaded, with progress and resumed if it was cut off."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*/*.json", "*/*.safetensors", "*/*/*.json", "*/spiece.model"]
    try:
        return Path(snapshot_download(hub, allow_patterns=patterns))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"model={asked}: needs the files of https://huggingface.co/{hub}, which cannot be had now ({first}); on a "
            f"machine with a network run `hf download {hub} --local-dir FOLDER`, then give model=FOLDER"
        ) from None
