"""How strong an adapter is by what its files say: alpha, rank and rsLoRA, in tensors, a header or adapter_config.json.

    scale of B·A = alpha / r, or alpha / sqrt(r) by rsLoRA; 1 where nothing is said

Others wrote all of it, so it is compared with types, and what contradicts itself is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import isclose, isfinite
from pathlib import Path
from typing import Annotated, Any, NotRequired

from annotated_types import Ge, Le, Len
from typing_extensions import TypedDict

from videodit.checkpoint.families.lora import (
    ALPHAS,
    KOHYA_ALPHA,
    METADATA,
    PEFT_CONFIG,
    PEFT_FILE,
    RANKS,
    UNSAID,
)
from videodit.checkpoint.weights import Weights
from videodit.errors import InputError
from videodit.untrusted import check, parse_json, read_bytes

Alpha = Annotated[float, Ge(-(2**20)), Le(2**20)]
Rank = Annotated[int, Ge(1), Le(2**20)]
NEAR = 0.01  # alphas may be rounded to bfloat16
# A pattern of PEFT's is a regular expression: of those only what cannot run for long.
PATTERN = re.compile(r"\^?(?:(?:[\w-]|\\?\.|\\d|\[0-9\])[*+]?)+\$?")
REPEATS, LONGEST = 3, 1000  # in such a pattern; its characters
STARTS = (None, True, False, "gaussian", "eva", "orthogonal")  # init_lora_weights that leave the model's weights alone
WITHOUT = (  # other mathematics of PEFT's
    *("use_qalora", "use_bdlora", "alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config"),
    *("velora_config", "layer_replication", "target_parameters", "trainable_token_indices"),
)


Patterns = Sequence[tuple[re.Pattern[str], Any]]


class Config(TypedDict):
    """PEFT's LoraConfig, as far as it is followed."""

    peft_type: NotRequired[str | None]
    r: Rank
    lora_alpha: Alpha
    use_rslora: NotRequired[bool | None]
    use_dora: NotRequired[bool | None]
    alpha_pattern: NotRequired[Annotated[dict[str, Alpha], Len(0, 2**12)] | None]
    rank_pattern: NotRequired[Annotated[dict[str, Rank], Len(0, 2**12)] | None]
    bias: NotRequired[str | None]
    modules_to_save: NotRequired[list[str] | None]
    init_lora_weights: NotRequired[bool | str | None]


@dataclass(frozen=True)
class Said:
    """What one source says of an adapter's matrices.

    Args:
        where: what a message calls the source.
        alpha, rank: of all; a rank of None is that of the tensors.
        alphas, ranks: of modules whose names end as these patterns say.
        dora: whether rows have lengths of their own, if it is said.
        bias, modules: whether biases and whole modules are in the file as they should become.
        kohya: it is said of that trainer's own keys alone.
    """

    where: str
    alpha: float
    rank: int | None = None
    rslora: bool = False
    alphas: Patterns = ()
    ranks: Patterns = ()
    dora: bool | None = None
    bias: bool = False
    modules: bool = False
    kohya: bool = False

    def scale(self, module: str, rank: int) -> float:
        """Of B·A for a module whose tensors are of this rank."""
        if (said := _matched(self.ranks, module, self.rank)) not in (None, rank):
            raise InputError(f"{self.where} says rank {said} of {module}, whose tensors are of rank {rank}")
        return _matched(self.alphas, module, self.alpha) / (rank**0.5 if self.rslora else rank)


def sources(weights: Weights, component: str) -> list[Said]:
    """All that is said beside the tensors: of every key, or of those of this component of diffusers' pipelines."""
    found = []
    if (file := config_file(weights)) is not None:
        found.append(_peft(parse_json(read_bytes(file), file, dict[str, Any]), str(file)))
    header, where = weights.metadata, f"{weights.source}: its header"
    if METADATA in header:
        content = parse_json(header[METADATA], f"{where}: {METADATA}", dict[str, Any])
        for prefix in (component, ""):
            inside = {key.rpartition(".")[2]: x for key, x in content.items() if key.rpartition(".")[0] == prefix}
            if inside:
                found.append(_peft(inside, f"{where}: {METADATA}"))
    for key in ALPHAS:
        if (alpha := _number(header, key, where)) is not None:
            ranks = [number for rank in RANKS if (number := _number(header, rank, where)) is not None]
            found.append(Said(f"{where}: {key}", alpha, int(ranks[0]) if ranks else None))
    if (alpha := _number(header, KOHYA_ALPHA, where)) is not None:
        found.append(Said(f"{where}: {KOHYA_ALPHA}", alpha, kohya=True))
    return found


def scale_of(said: Mapping[str, float], module: str) -> float:
    """The scale that all sources, by their names, agree on. InputError where they do not; 1 where there are none."""
    if not said:
        return 1.0
    first, scale = next(iter(said.items()))
    for where, other in said.items():
        if not isclose(other, scale, rel_tol=NEAR, abs_tol=1e-9):
            raise InputError(
                f"{first} and {where} contradict each other: of {module} the first means a scale of {scale:g}, the "
                f"second one of {other:g}; take away the one that is wrong"
            )
    return scale


def config_file(weights: Weights) -> Path | None:
    """PEFT's config of this file: beside a file of its name, or the only one there."""
    file = weights.files[0]
    config = file.parent / PEFT_CONFIG
    if not config.is_file():
        return None
    return config if file.name == PEFT_FILE or list(file.parent.glob("*.safetensors")) == [file] else None


def fingerprint(weights: Weights) -> str:
    """Hexadecimal digits for an adapter's file and what lies beside it."""
    file = config_file(weights)
    beside = "" if file is None else ":" + sha256(read_bytes(file)).hexdigest()[:16]
    return weights.fingerprint + beside


def _peft(content: Mapping[str, Any], where: str) -> Said:
    """What a LoraConfig says; InputError for one whose mathematics is another."""
    kind = content.get("peft_type", "LORA")
    if kind not in ("LORA", None):
        raise InputError(f"{where}: peft_type={str(kind)[:60]!r}: only LORA is read")
    theirs: Config = check(dict(content), Config, where)
    if others := [key for key in WITHOUT if content.get(key)]:
        raise InputError(f"{where}: {others[0]} is other mathematics than LoRA's, which is not read")
    if (start := theirs.get("init_lora_weights")) not in STARTS:
        told = "changed the model's own weights, which this file lacks; convert it to LoRA first"
        raise InputError(f"{where}: init_lora_weights={str(start)[:60]!r} {told}")
    return Said(
        where,
        theirs["lora_alpha"],
        theirs["r"],
        rslora=bool(theirs.get("use_rslora")),
        alphas=_compiled(theirs.get("alpha_pattern") or {}, where),
        ranks=_compiled(theirs.get("rank_pattern") or {}, where),
        dora=theirs.get("use_dora"),
        bias=theirs.get("bias") not in (None, "none"),
        modules=bool(theirs.get("modules_to_save")),
    )


def _compiled(patterns: Mapping[str, Any], where: str) -> Patterns:
    """As PEFT takes them: a module's name ends so."""
    for text in patterns:
        if len(text) > LONGEST or sum(map(text.count, "*+")) > REPEATS or not PATTERN.fullmatch(text):
            raise InputError(f"{where}: the pattern {text[:60]!r} is not of the simple kind that is read")
    return [(re.compile(rf"(.*\.)?({text})$"), value) for text, value in patterns.items()]


def _matched(patterns: Patterns, module: str, default: Any) -> Any:
    return next((value for pattern, value in patterns if pattern.match(module)), default)


def _number(header: Mapping[str, str], key: str, where: str) -> float | None:
    """A number in a header, whose values are text."""
    text = header.get(key, "")
    if text in UNSAID:
        return None
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not isfinite(number):
        raise InputError(f"{where}: {key}={text[:60]!r} is no number")
    return check(number, Alpha, f"{where}: {key}")
