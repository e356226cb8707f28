"""What each key of a command does, and the modes of work in which it would do nothing: there it is refused.

A key changes the result, and then the record of the result says it; or it changes how or where the work is done.
A key that is typed where it changes nothing is an error, since whoever typed it expects something of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from videodit.cli.settings import SAMPLED, Asked, Planned
from videodit.config import assets_dir
from videodit.errors import InputError
from videodit.factory import Factory
from videodit.settings import keys_of

RESULT, WORK = "result", "work"


class Idle(NamedTuple):
    """Keys, or groups of them, that do nothing when `mode` holds of the command's settings, and why that is."""

    keys: tuple[str, ...]
    mode: Callable[[Any], bool]
    why: str


def _effects(result: str, work: str, request: Sequence[str] = ()) -> dict[str, str]:
    """request: the keys of a request that the command takes, which all change the result."""
    return {**dict.fromkeys([*result.split(), *request], RESULT), **dict.fromkeys(work.split(), WORK)}


def _names(kind: type) -> list[str]:
    return [key.name for key in keys_of(kind)]


_NETWORKS = "model vae text flow optim adapter experiment"
_TRAINING = f"""{_NETWORKS} data stage after init vae_from seed limit precision ema crops shared_std vae_loss critic
    freeze packs drop teacher request shift area"""
_RUN = """parallel tracker name run_dir tracked cache fresh plan memory device kernel workers keep loop samples"""
EFFECTS: Mapping[str, Mapping[str, str]] = {
    "generate": _effects(
        "prompts recipe model base lora dtype vae_dtype quantize compile kernel offload passes chunk batch count",
        "out sheet device memory",
        _names(Asked),
    ),
    "plan": _effects("model base dtype vae_dtype offload passes quantize chunk limit device", "", _names(Planned)),
    "decode": _effects("path model vae_dtype chunk", "out device keep"),
    "train": _effects(_TRAINING, _RUN),
    "doctor": _effects(_TRAINING, f"{_RUN} out doctor"),
    "encode": _effects("data model init vae_from limit", "cache device workers"),
    "evaluate": _effects(
        "model base prompts count seed shapes clips losses measures judge kernel", "out page batch device", SAMPLED
    ),
    "export": _effects("model format lora dtype vae_from base", "out"),
    "info": _effects("path", ""),
    "report": _effects("path compare reference log", "out"),
    "ingest": _effects(
        """videos cutter embedder captioner measure select duplicates caption shape heldout_share vae text limit
        precision""",
        "engine out dry_run report encode device",
    ),
}


def _is_change(asked: Any) -> bool:
    """Whether a training changes a model that keeps its own settings: a public one, or one that an adapter changes."""
    if not asked.init or asked.stage != "dit":
        return False
    folders = (assets_dir() / asked.init, Path(asked.init), Path(asked.init) / "model")
    return isinstance(asked.adapter, Factory) or not any((place / "pipeline.json").is_file() for place in folders)


_TRAINS_A_VAE = Idle(
    ("model", "text", "flow", "vae_from", "packs", "drop", "teacher", "samples", "request", "shift", "area", "kernel"),
    lambda asked: asked.stage == "vae",
    "with stage=vae: it is of a DiT's training",
)
_OF_A_VAE = """vae.base vae.decoder_base vae.multipliers vae.blocks vae.shortcuts vae.linear crops shared_std vae_loss
    critic"""
_TRAINS_A_DIT = Idle(
    tuple(_OF_A_VAE.split()),  # but for vae.latent_channels, which the DiT's own follow
    lambda asked: asked.stage == "dit",
    "with stage=dit, whose VAE is that of vae_from= or of init=",
)
_HAS_NO_CRITIC = Idle(
    ("vae_loss.adversarial", "vae_loss.perceptual"), lambda asked: asked.critic is None, "without a critic: see critic="
)
_STARTS_FROM = (
    Idle(("model", "text"), lambda asked: bool(asked.init), "with init=, whose networks they are"),
    Idle(("vae",), lambda asked: bool(asked.init) and asked.stage == "vae", "with init=, whose network it is"),
    Idle(("shift", "area"), _is_change, "with this init=, whose own is kept"),
    Idle(("shift",), lambda asked: bool(asked.teacher), "with teacher=, whose own the student takes"),
)
_TRAINED = (_TRAINS_A_VAE, _TRAINS_A_DIT, _HAS_NO_CRITIC, *_STARTS_FROM)
IDLE: Mapping[str, Sequence[Idle]] = {
    "generate": (
        Idle(("batch",), lambda asked: not asked.prompts and asked.count is None and "," not in str(asked.seed),
             "where one video is made; it is for prompts=, count= or several seeds"),
        Idle(("count",), lambda asked: bool(asked.prompts), "with prompts=, whose lines are the videos"),
    ),
    "export": (
        Idle(("lora", "vae_from", "base"), lambda asked: asked.format == "adapter",
             "with format=adapter, which writes that of a run alone"),
    ),
    "evaluate": (
        Idle(("count", "page", "measures"), lambda asked: not asked.prompts,
             "with prompts=[]: there are no kinds of prompts to make"),
    ),
    "ingest": (
        Idle(("caption.frames", "caption.bundle", "caption.workers"),
             lambda asked: asked.captioner.target.endswith(".Given"), "with captioner=given, which asks no model"),
        Idle(("encode",), lambda asked: not asked.vae, 'with vae="", which encodes nothing'),
        Idle(("precision",), lambda asked: not asked.text, 'with text="": it is of the text encoder'),
        Idle(("duplicates.cosine",), lambda asked: asked.embedder.target.endswith(".NoEmbedding"),
             "with embedder=none: there is nothing to compare"),
    ),
    "encode": (Idle(("model",), lambda asked: bool(asked.init), "with init=, whose DiT it is"),),
    "train": _TRAINED,
    "doctor": _TRAINED,
}  # fmt: skip


def check(command: str, asked: Any, typed: Sequence[str]) -> None:
    """InputError for a key, typed for this command, that does nothing in the mode that its settings ask for."""
    for idle in IDLE.get(command, ()):
        found = [key for key in typed if any(key == one or key.startswith(f"{one}.") for one in idle.keys)]
        if found and idle.mode(asked):
            raise InputError(f"{found[0]}= has no effect {idle.why}")
