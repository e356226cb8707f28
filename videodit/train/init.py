"""What a run starts from: nothing, or the model that `init` names, ours or a public one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from videodit.atomic import atomic
from videodit.checkpoint.find import describe
from videodit.checkpoint.latents import LatentCache
from videodit.checkpoint.parts import FILES, TOKENIZER
from videodit.checkpoint.pretrained import Part, check_parts
from videodit.checkpoint.resolve import lasting, locate
from videodit.checkpoint.store import HEADER
from videodit.checkpoint.texts import Remembered
from videodit.checkpoint.weights import Weights
from videodit.errors import InputError
from videodit.factory import Factory
from videodit.models.arguments import ARGUMENTS
from videodit.models.interfaces import Denoiser
from videodit.models.text import SmallT5, Tokenizer, extended, train_tokenizer
from videodit.models.vae import VideoVAE
from videodit.parallel.mesh import Mesh
from videodit.parallel.store import STATE
from videodit.printable import warn
from videodit.track.progress import Progress
from videodit.train.adapter import LoRA
from videodit.train.machine import PRECISIONS, pick_precision
from videodit.train.settings import Train
from videodit.untrusted import check

ADVICE = (
    "it is frozen and will not learn them: without adapter= and freeze=[text] it does, and the text encoder of public "
    "weights (init=) reads any word"
)


class Base(NamedTuple):
    """The model of `init`."""

    name: str
    pipeline: dict[str, Any]
    parts: dict[str, Part]
    tokenizer: Path

    @property
    def public(self) -> bool:
        """Whether its text encoder is another's: large, and trained on more than captions. It stays as it is."""
        return self.parts["text"].table is not None

    @property
    def mends(self) -> bool:
        """Whether its prompts are prepared by ftfy."""
        return self.pipeline.get("prompts") == "ftfy"

    def named(self, parts: Iterable[str]) -> dict[str, Any]:
        """How a pipeline.json names it, for these parts."""
        return {"model": lasting(self.name), "weights": {part: self.parts[part].fingerprint for part in parts}}


def base_of(cfg: Train, folder: Path) -> Base | None:
    """The model that a DiT's training starts from."""
    if not cfg.init:
        if has_adapter(cfg):
            raise InputError("adapter=lora: it changes a model: name that with init=")
        return None
    base = base_named("init", cfg.init)
    place = locate(cfg.init)[0].resolve()
    if folder.resolve() in place.parents or place == folder.resolve():
        raise InputError(f"init={cfg.init}: this run would write over it; give the run another name= or run_dir=")
    check_trains(cfg, base.pipeline if inherits(cfg, base) else {}, two="dit_low" in base.parts)
    return base


def check_trains(cfg: Train, pipeline: Mapping[str, Any], *, two: bool) -> None:
    """InputError where no training can begin with a model of such settings; `two`: it has two experts."""
    if two:
        raise InputError(f"init={cfg.init}: it has two experts, each for its own times; no training knows of these yet")
    flow = {"path": cfg.flow.name, "prediction": cfg.flow.path.node["prediction"]}
    if pipeline.get("flow", flow) != flow:
        raise InputError(f"flow={cfg.flow.name}: init={cfg.init} has {pipeline['flow']}")


def base_named(key: str, model: str) -> Base:
    """A model; a mistake in its name is told by the key that it was given to."""
    try:
        base = Base(model, *describe(model))
    except InputError as error:
        raise InputError(str(error).replace("model=", f"{key}=", 1)) from None
    check_parts(base.parts)
    return base


def has_adapter(cfg: Train) -> bool:
    """Whether an adapter trains instead of the weights."""
    return isinstance(cfg.adapter, Factory)


def adapter_of(cfg: Train) -> LoRA | None:
    """The adapter that trains, if one does."""
    return cfg.adapter() if has_adapter(cfg) else None


def inherits(cfg: Train, base: Base | None) -> bool:
    """Whether the result is a change of `init`: it keeps that model's settings, and of its networks what does not
    train is not copied.
    """
    return base is not None and (base.public or has_adapter(cfg))


def pipeline_of(cfg: Train, base: Base | None, vae: Part) -> tuple[dict[str, Any], dict[str, Part]]:
    """What the result's pipeline.json says, and the networks that lie beside it though they do not train."""
    if base is None or not inherits(cfg, base):
        flow = {"path": cfg.flow.name, "prediction": cfg.flow.path.node["prediction"]}
        own = {"flow": flow, "shift": cfg.shift, "area": cfg.area, "defaults": cfg.request}
        return own, {"vae": vae}
    same = vae.fingerprint == base.parts["vae"].fingerprint
    kept = [*(["dit"] if has_adapter(cfg) else []), "text", *(["vae"] if same else [])]
    return {"base": base.named(kept), **base.pipeline}, {} if same else {"vae": vae}


def described(cfg: Train, base: Base | None, part: str) -> dict[str, Any]:
    """The architecture and arguments of what `initial` gives, without weights. `part` is dit, text or vae."""
    if base is not None:
        return base.parts[part].skeleton.spec  # complete, also where an older file lacks arguments
    group = _GROUPS[part]
    factory = getattr(cfg, group)
    arguments = {key: value for key, value in factory.node.items() if not key.startswith("_")}
    architecture = arguments.pop("architecture", None)
    if architecture in ARGUMENTS:
        check(arguments, ARGUMENTS[architecture], group)
    with torch.device("meta"):
        return factory().spec


def networks(
    cfg: Train,
    base: Base | None,
    adapter: LoRA | None,
    tokenizer: Tokenizer,
    captions: Sequence[str],
    mesh: Mesh,
) -> tuple[Denoiser, SmallT5 | Remembered]:
    """The DiT, as it trains, and its text encoder: one that trains too, or the frozen one of `init`."""
    text = None
    if base is not None and inherits(cfg, base):  # it is closed again before the DiT opens
        prompts, dtype = ["", *captions, *(cfg.samples.prompts or [])], kept_in(cfg.precision, mesh.device)
        text = remembered(base, tokenizer, prompts, mesh, dtype, Path(cfg.cache) / "text")
    torch.manual_seed(cfg.seed)
    dtype = torch.float32 if adapter is None else kept_in(cfg.precision, mesh.device)
    dit = initial(cfg, base, "dit", mesh.device, dtype)
    if text is None:
        text = initial(cfg, base, "text", mesh.device)
    if adapter is not None:
        adapter.inject(dit)
    return dit, text


def kept_in(precision: str, device: torch.device) -> torch.dtype:
    """The type of weights that do not train, and need no room for small changes: on a GPU the run's precision.

    On a CPU float32: what `auto` measures there may be another type when the run goes on.
    """
    return PRECISIONS[pick_precision(precision, device)] if device.type == "cuda" else torch.float32


def initial(cfg: Train, base: Base | None, part: str, device: torch.device, dtype: torch.dtype = torch.float32) -> Any:
    """A network as the config describes it, or the one of `init`, which comes from its files tensor by tensor."""
    if base is None:
        return getattr(cfg, _GROUPS[part])().to(device)
    return base.parts[part].load(device=device, dtype=dtype).train()


_GROUPS = {"dit": "model", "text": "text", "vae": "vae"}


def remembered(
    base: Base, tokenizer: Tokenizer, prompts: Iterable[str], mesh: Mesh, dtype: torch.dtype, folder: Path
) -> Remembered:
    """The text encoder of `init`, frozen, after it has seen all prompts; `folder` keeps their states."""
    text = Remembered(part=base.parts["text"], folder=folder, device=mesh.device, dtype=dtype)
    mine = list(dict.fromkeys(prompts))[mesh.rank :: mesh.ranks]
    with mesh.together(), Progress(total=len(mine), label="captions") as progress:
        text.learn(tokenizer, mine, progress.update)
    return text


def words(cfg: Train, base: Base | None, cache: LatentCache, folder: Path, mesh: Mesh, length: int) -> Tokenizer:
    """The tokenizer: of the run that is resumed, of `init` with the captions' new words, or learned from these."""
    path = folder / TOKENIZER
    resuming = path.exists() and any((folder / "checkpoints").glob(f"*/{STATE}"))
    captions = [entry.caption for entry in cache.entries]
    mends = base is not None and inherits(cfg, base) and base.mends
    if mesh.main and not resuming:
        with atomic(path) as temporary:
            if base is None:
                train_tokenizer(captions, temporary, vocabulary=cfg.text.node["vocabulary"])
            elif inherits(cfg, base):
                temporary.write_bytes(base.tokenizer.read_bytes())
            else:  # new words take the places that its text encoder has left
                room = described(cfg, base, "text")["arguments"]["vocabulary"]
                temporary.write_bytes(extended(base.tokenizer, captions, vocabulary=room))
    if mesh.main:
        frozen = base is not None and (inherits(cfg, base) or any(part.split(".")[0] == "text" for part in cfg.freeze))
        heard_by = base.tokenizer if frozen else path  # new words of a frozen one were never trained
        tell_unheard(Tokenizer(path=heard_by, length=length, mends=mends), captions, frozen=frozen)
    mesh.wait()
    return Tokenizer(path=path, length=length, mends=mends)


def tell_unheard(tokenizer: Tokenizer, captions: Sequence[str], *, frozen: bool) -> None:
    """Say how much of the captions will not be heard. frozen: the text encoder will not learn it either."""
    words = [tokenizer.words(caption) for caption in captions]
    unknown = Counter(word for several in words for word, known in several if not known)
    if unknown:
        some = ", ".join(sorted(unknown, key=lambda word: (not word.isalnum(), -unknown[word]))[:5])
        told = f"{unknown.total()} of the captions' {sum(map(len, words))} words are unknown to the text encoder"
        warn(__name__, f"warning: {told}, such as {some}{f'; {ADVICE}' * frozen}")
    there = [several for several in words if several]
    if (single := sum(len(several) == 1 for several in there)) > len(there) / 2:
        warn(
            __name__, f"warning: {single} of {len(there)} captions are one token each, in which no words are told apart"
        )
    if long := sum(bool(tokenizer.unread(caption)) for caption in captions):
        warn(__name__, f"{long} of {len(captions)} captions are too long, and are read in part")


def find_vae(model: str) -> Part:
    """The VAE of a model, ours or public, of a VAE run, or in a file of ours."""
    part = _find_vae(model)
    if part.spec.get("architecture") != "video_vae":
        raise InputError(f"{part.weights.source} is not a VAE")
    return part


def _find_vae(model: str) -> Part:
    for path in (Path(model), Path(model) / FILES["vae"], Path(model) / "model" / FILES["vae"]):
        if path.is_file() and HEADER in Weights([path]).metadata:
            return Part.own(path)
    try:
        return describe(model)[1]["vae"]
    except InputError as error:
        raise InputError(f"there is no VAE in {model}: name a model, a run's folder or a file ({error})") from None


def open_vae(part: Part) -> VideoVAE:
    """A VAE in float32 however it is stored."""
    return part.load(dtype=torch.float32)
