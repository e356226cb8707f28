"""Weights known by what they hold: the vendor's folders, and single files as others repackage them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from videodit.checkpoint.experts import are_partners, expert_of
from videodit.checkpoint.families import by_sign
from videodit.checkpoint.families.configs import Beside
from videodit.checkpoint.families.lora import HIGH, LOW
from videodit.checkpoint.keymap import prefixed
from videodit.checkpoint.parts import NAMES, ROLES, TOKENIZERS, first, of_role
from videodit.checkpoint.pretrained import Part, lacking, misfits
from videodit.checkpoint.resolve import families, read_family
from videodit.checkpoint.trees import folders_of
from videodit.checkpoint.weights import ENDINGS, PICKLES, Weights, open_weights
from videodit.errors import InputError
from videodit.models.build import role_of
from videodit.models.interfaces import DENOISER, TEXT_ENCODER, VAE
from videodit.printable import note
from videodit.untrusted import read_json

HINTS = {TEXT_ENCODER: "t5", VAE: "vae"}  # in the names of pickles of such a part
PREFIXES = (  # before the names of a part, in files of one part or of all
    *("", "model.diffusion_model.", "diffusion_model.", "model.", "net.", "module.", "transformer.", "dit."),
    *("vae.", "first_stage_model.", "text_encoder.", "text_encoders.umt5xxl.transformer."),
    *("cond_stage_model.umt5xxl.transformer.", "umt5xxl.transformer."),
)


def loose_parts(path: Path) -> tuple[dict[str, Part], dict[str, Path]]:
    """The parts in a folder, or in a file and beside it, and the tokenizers that are there.

    Beside a given file only the text encoders, the VAE and the other of two experts are looked for.
    """
    folders = folders_of(path)
    found = _given(path, folders) if path.is_file() else {}
    beside: dict[str, list[Part]] = {name: [] for name, role in ROLES.items() if role != DENOISER}
    refused: list[InputError] = []
    for parts in _sets(folders, path):
        if isinstance(parts, InputError):  # others' files may lie there too
            refused.append(parts)
            continue
        for part in parts:
            file, name = part.weights.files[0], _name(part)
            if name in beside:
                beside[name].append(part)
            elif not path.is_file() or are_partners(path, file):
                name = expert_of(file) or name
                if name in found:
                    raise InputError(f"{path}: {file} and {found[name].weights.source} are both {name}; name one file")
                found[name] = part
    experts = [found[name].weights.files[0] for name in (HIGH, LOW) if name in found]
    if len(experts) == 1 and (expert := expert_of(experts[0])):
        raise _alone(path, expert)
    for name, parts in beside.items():
        if name not in found and parts:
            found[name] = _fitting(path, name, parts, found)
    if refused and lacking(found):
        raise refused[0]
    for folder in folders:
        _name_pickles(folder, found)
    return found, _tokenizers(path, folders)


def _tokenizers(path: Path, folders: Sequence[Path]) -> dict[str, Path]:
    """The tokenizers' files beside a model's, two folders down at most."""
    top = path if path.is_dir() else path.parent
    found = {}
    for name, words in TOKENIZERS.items():
        here = [place / words for place in (top, *folders)] + sorted(top.glob(f"*/*/{words}"))
        if there := [file for file in here if file.is_file()]:
            found[name] = there[0]
    return found


def _given(path: Path, folders: Sequence[Path]) -> dict[str, Part]:
    """The parts of a file that was named."""
    files = [file for folder in folders for file in folder.iterdir() if file.suffix in ENDINGS]
    if (expert := expert_of(path)) and not any(are_partners(path, file) for file in files):
        raise _alone(path, expert)
    parts = {_name(part): part for part in identify_all(open_weights(path))}
    if not of_role(parts, DENOISER):
        raise InputError(f"{path}: not a file of a transformer's weights in a layout that is known")
    return {(expert or name) if ROLES[name] == DENOISER else name: part for name, part in parts.items()}


def _name(part: Part) -> str:
    """What we call such a part; of two experts the first."""
    return NAMES[role_of(part.spec)][0]


def _fitting(path: Path, name: str, parts: Sequence[Part], found: Mapping[str, Part]) -> Part:
    """Of several text encoders or VAEs the one that the transformer was trained with, in its widest type."""
    denoisers = {denoiser: found[denoiser] for denoiser in of_role(found, DENOISER)[:1]}
    fitting = [one for one in parts if denoisers and _is_usual(one) and not misfits({**denoisers, name: one})]
    fitting = fitting or list(parts)
    if len(fitting) > 1:
        told = ", ".join(part.weights.source for part in fitting[:4])
        if not path.is_file():
            raise InputError(f"{path}: {told} are both {name}; name one file, that of the transformer")
        fitting.sort(key=lambda part: -part.weights.width)
        note(__name__, f"{path}: {told} are beside it; {fitting[0].weights.source} is taken")
    return fitting[0]


def _is_usual(part: Part) -> bool:
    """Whether a part is no text encoder, or of the kind that some family in conf/pretrained has."""
    known = [first(family, TEXT_ENCODER) for family in map(read_family, families()) if of_role(family, TEXT_ENCODER)]
    key = "bias_per_layer"
    return role_of(part.spec) != TEXT_ENCODER or any(
        one["arguments"][key] == part.spec["arguments"][key] for one in known
    )


def identify(weights: Weights) -> Part | None:
    """The part that these tensors are, by their names; None if no table fits."""
    return next(iter(identify_all(weights)), None)


def identify_all(weights: Weights) -> list[Part]:
    """The parts that these tensors are, by their names: several in a file of a whole model, perhaps none."""
    names = weights.names
    held = set(names)
    hits = [(prefix, sign) for prefix in PREFIXES for sign in by_sign() if prefix + sign in held]
    if len(hits) < 2:
        return [_part(weights, *hit) for hit in hits]
    owner = {name: max((p for p, _ in hits if name.startswith(p)), key=len, default=None) for name in names}
    if strange := [name for name in names if owner[name] is None]:
        raise InputError(f"{weights.source}: unknown: {', '.join(strange[:5])}")
    return [_part(weights.only(name for name in names if owner[name] == prefix), prefix, sign) for prefix, sign in hits]


def _part(weights: Weights, prefix: str, sign: str) -> Part:
    """The part of which this is one of the names."""
    shapes = {name[len(prefix) :]: shape for name, shape in weights.shapes.items() if name.startswith(prefix)}
    try:
        network = by_sign()[sign]
        found = network.detect(shapes, _head_dim(weights.files[0].parent))
        table = network.table(found.layout, found.arguments)
    except (LookupError, ValueError, ZeroDivisionError, StopIteration) as error:
        if isinstance(error, InputError):
            raise InputError(f"{weights.source}: {error}") from None
        told = f"a tensor beside {prefix}{sign} is missing, or has another shape or name ({error})"
        raise InputError(f"{weights.source}: {told}; the file is damaged or of an unknown kind") from None
    spec = {"architecture": network.architecture, "arguments": found.arguments}
    return Part(spec, weights, prefixed(table, prefix), found.constants)


def _head_dim(folder: Path) -> int | None:
    """What a transformer's config.json in this folder says, if there is one."""
    path = folder / "config.json"
    content = read_json(path, Beside) if path.is_file() else {}
    if "attention_head_dim" in content:
        return content["attention_head_dim"]
    return max(1, content["dim"] // content["num_heads"]) if {"dim", "num_heads"} <= content.keys() else None


def _sets(folders: Sequence[Path], given: Path) -> Iterator[list[Part] | InputError]:
    """The parts of each set of weights but the given file, or why it is none: shards or a file."""
    for place in folders:
        indexed = bool(list(place.glob("*.safetensors.index.json")))
        sharded: set[Path] = {given}
        for path in [place] * indexed + sorted(p for p in place.iterdir() if p.suffix in ENDINGS):
            if path in sharded:
                continue
            try:
                weights = open_weights(path)
                sharded |= set(weights.files)
                yield identify_all(weights)
            except InputError as error:
                yield error


def _alone(path: Path, expert: str) -> InputError:
    """What is said of one of two experts that is there without the other."""
    own, other = ("high", "low") if expert == HIGH else ("low", "high")
    told = f"it is the expert for {own} noise; the one for {other} noise is not beside it"
    return InputError(f"{path}: {told}, and neither is a model by itself")


def _name_pickles(folder: Path, found: Mapping[str, Part]) -> None:
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    for part in lacking(found):
        hint = HINTS.get(ROLES[part])
        named = [name for name in pickles if hint and hint in name.lower()]
        if named:
            raise InputError(
                f"{folder / named[0]} is a pickle, which could run code when opened; only safetensors are read: put "
                f"the {part}'s safetensors from diffusers' repository of this model beside it and move the pickle away"
            )
