"""A model as a folder: in our layout, or in one that a pipeline of diffusers opens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from hashlib import file_digest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videodit.alive import doing
from videodit.atomic import atomic
from videodit.checkpoint.families import of_parts
from videodit.checkpoint.families.record import Family, Network
from videodit.checkpoint.keymap import Form, names_of, reverse, single
from videodit.checkpoint.parts import FILES, TOKENIZERS
from videodit.checkpoint.pretrained import Part
from videodit.checkpoint.store import save_tensors, save_untagged, write_json
from videodit.checkpoint.weights import fingerprint
from videodit.errors import InputError
from videodit.models.build import role_of
from videodit.models.interfaces import DENOISER

SHARD = 5 * 10**9  # bytes of a file, at most, as the hub likes them
SCHEDULERS = {"unipc": "UniPCMultistepScheduler", "dpmpp": "DPMSolverMultistepScheduler"}
Tell = Callable[[str], None]


def export_own(
    pipeline: Mapping[str, Any],
    parts: Mapping[str, Part],
    tokenizers: Mapping[str, Path],
    out: Path,
    dtype: torch.dtype,
    tell: Tell,
) -> None:
    """Write our own layout."""
    for name, part in parts.items():
        path = out / FILES[name]
        with doing(f"write {path}"):
            save_tensors(path, dict(tensors(part, dtype)), part.spec)
        tell(str(path))
    for name, words in tokenizers.items():
        copy(words, out / TOKENIZERS[name])
    write_json(out / "pipeline.json", pipeline)


def export_diffusers(
    pipeline: Mapping[str, Any],
    parts: Mapping[str, Part],
    tokenizers: Mapping[str, Path],
    out: Path,
    dtype: torch.dtype,
    tell: Tell,
    family: Family | None = None,
) -> None:
    """Write diffusers' layout. What its classes cannot express is told and left out, and then model_index.json too.

    `family`: whose classes they are; without it the first that has such parts.
    """
    family = family or of_parts({name: part.spec["architecture"] for name, part in parts.items()})
    if family is None:
        kinds = ", ".join(part.spec["architecture"] for part in parts.values())
        raise InputError(f"format=diffusers: no pipeline of diffusers has such parts ({kinds})")
    contents = {}
    for name, part in parts.items():
        folder, network = out / family.folders[name], family.networks[name]
        arguments = part.skeleton.spec["arguments"]
        try:
            contents[name] = network.config(arguments, {which: _statistic(part, which) for which in network.buffers})
        except InputError as error:
            tell(f"{name}: left out: {error}")
            continue
        write_shards(folder, part, network, dtype)
        write_json(folder / "config.json", contents[name])
        tell(str(folder))
    for name, words in tokenizers.items():
        copy_tokenizer(words, out / family.tokenizers[name])
    write_json(out / "scheduler" / "scheduler_config.json", scheduler(pipeline, family))
    denoisers = [part.outline for part in parts.values() if role_of(part.spec) == DENOISER]
    lengths = {stream.length for network in denoisers for stream in network.streams.values()}
    if lengths != {family.text_length}:
        tell(
            f"note: {family.pipeline} fills texts up to {family.text_length} states, which this model does not know: "
            "give it prompt_embeds of the prompt's own length"
        )
    if contents.keys() == parts.keys():
        write_json(out / "model_index.json", index(pipeline, family, contents))


def tensors(part: Part, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """A part's tensors under our names, one at a time."""
    for name in part.sources:
        yield name, part.read(name, dtype=dtype)
    for name, values in part.constants.items():
        yield name, torch.tensor(values, dtype=torch.float32)


def write_shards(folder: Path, part: Part, network: Network, dtype: torch.dtype) -> None:
    """A part's weights under diffusers' names: one file, or shards with their index when they are large."""
    stem, table = network.stem, network.table("diffusers", part.skeleton.spec["arguments"])
    ours = [name for name in part.skeleton.state_dict() if name not in network.buffers]
    back = reverse(table)
    forms = {name: (theirs, single(back, name)) for theirs, name in names_of(ours, table).items()}
    meta = part.skeleton.state_dict()
    groups: list[list[str]] = [[]]
    size = 0
    for name in ours:
        bytes_ = meta[name].numel() * dtype.itemsize
        if groups[-1] and size + bytes_ > SHARD:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += bytes_
    total, weight_map, digests = 0, {}, {}
    for number, group in enumerate(groups, 1):
        file = f"{stem}.safetensors" if len(groups) == 1 else f"{stem}-{number:05d}-of-{len(groups):05d}.safetensors"
        shard = {forms[name][0]: _theirs(part, name, forms[name][1], dtype) for name in group}
        with doing(f"write {folder / file}"):
            save_untagged(folder / file, shard)
        total += sum(tensor.numel() * tensor.element_size() for tensor in shard.values())
        weight_map |= dict.fromkeys(shard, file)
        with (folder / file).open("rb") as written:
            digests[file] = file_digest(written, "sha256").hexdigest()
    if len(groups) > 1:
        content = {"metadata": {"total_size": total, "sha256": digests}, "weight_map": weight_map}
        write_json(folder / f"{stem}.safetensors.index.json", content)


def scheduler(pipeline: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """diffusers' scheduler for this flow."""
    if pipeline["flow"] != {"path": "rectified", "prediction": "velocity"}:
        raise InputError(f"diffusers' {family.pipeline} takes a rectified flow's velocity, not {pipeline['flow']}")
    shift, name = pipeline["shift"], pipeline["defaults"]["sampler"]
    if name not in SCHEDULERS:
        name = "FlowMatchEulerDiscreteScheduler"
        return {"_class_name": name, "shift": _constant(shift), "num_train_timesteps": 1000}
    return {
        **{"_class_name": SCHEDULERS[name], "flow_shift": _constant(shift), "num_train_timesteps": 1000},
        **{"prediction_type": "flow_prediction", "use_flow_sigmas": True, "solver_order": 2},
        **pipeline.get("solver", {}),
    }


def index(pipeline: Mapping[str, Any], family: Family, contents: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The model_index.json, from the parts' config.json."""
    classes: dict[str, list[str | None]] = {folder: [None, None] for folder in family.folders.values()}
    for name, content in contents.items():
        kind = content.get("_class_name") or content["architectures"][0]
        classes[family.folders[name]] = [family.networks[name].library, kind]
    return {
        **{"_class_name": family.pipeline, "_diffusers_version": "0.35.0"},
        **{"boundary_ratio": pipeline.get("boundary"), "expand_timesteps": False},
        "scheduler": ["diffusers", scheduler(pipeline, family)["_class_name"]],
        **dict.fromkeys(family.tokenizers.values(), ["transformers", "PreTrainedTokenizerFast"]),
        **classes,
    }


def copy(source: Path, target: Path) -> None:
    """A file, in another place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.resolve() != target.resolve():
        shutil.copyfile(source, target)


def copy_if_other(source: Path, target: Path) -> None:
    """A file, in another place, at once or not at all, unless the same is there."""
    if not target.exists() or fingerprint(target) != fingerprint(source):
        with atomic(target) as temporary:
            temporary.write_bytes(source.read_bytes())


def put(part: Part, target: Path) -> None:
    """A network as a file of ours, unless it is there: the same file, or in float32 what has another layout."""
    if part.table is None and not part.added and len(part.weights.files) == 1:
        copy_if_other(part.weights.files[0], target)
    elif not target.exists() or Part.own(target).spec.get("source") != part.fingerprint:
        save_tensors(target, dict(tensors(part, torch.float32)), {**part.spec, "source": part.fingerprint})


def copy_tokenizer(tokenizer: Path, folder: Path) -> None:
    """The tokenizer with what transformers wants beside it."""
    copy(tokenizer, folder / "tokenizer.json")
    known = {token["content"] for token in json.loads(tokenizer.read_text(encoding="utf-8"))["added_tokens"]}
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    content = {key: token for key, token in names.items() if token in known}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **content})


def _theirs(part: Part, name: str, form: Form, dtype: torch.dtype) -> Tensor:
    return form.ours(part.read(name, dtype=dtype)).contiguous()


def _statistic(part: Part, name: str) -> list[float]:
    if name in part.constants:
        return list(part.constants[name])
    return part.weights.read(name).double().tolist()


def _constant(shift: float | Mapping[str, float]) -> float:
    """diffusers' shift does not follow the number of tokens: the one for `base_tokens` stands for all."""
    return float(shift) if isinstance(shift, float | int) else float(shift["base_shift"])
