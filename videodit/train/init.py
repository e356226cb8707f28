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
from videodit.checkpoint.parts import FILES, NAMES, ROLES, TOKENIZERS, first, name_of, of_role
from videodit.checkpoint.pretrained import Part, check_parts
from videodit.checkpoint.resolve import lasting, locate
from videodit.checkpoint.store import HEADER
from videodit.checkpoint.texts import FOLDER, Remembered
from videodit.checkpoint.weights import Weights
from videodit.errors import InputError
from videodit.factory import Factory
from videodit.models.arguments import ARGUMENTS
from videodit.models.build import role_of, without_weights
from videodit.models.interfaces import DENOISER, TEXT_ENCODER, VAE, Denoiser
from videodit.models.text import TextEncoder, Tokenizer, extended, train_tokenizer
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
    tokenizers: dict[str, Path]

    @property
    def public(self) -> bool:
        """Whether a text encoder is another's: large, and trained on more than captions. All stay as they are."""
        return any(self.parts[name].table is not None for name in self.text_encoders)

    @property
    def text_encoders(self) -> list[str]:
        """Their names, in order."""
        return of_role(self.parts, TEXT_ENCODER)

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
    check_trains(cfg, base.pipeline if inherits(cfg, base) else {}, two=len(of_role(base.parts, DENOISER)) > 1)
    return base


def check_trains(cfg: Train, pipeline: Mapping[str, Any], *, two: bool) -> None:
    """InputError where no training can begin with a model of such settings; `two`: it has two experts."""
    if two:
        raise InputError(f"init={cfg.init}: it has two experts, each for its own times; no training knows of these yet")
    flow = {"path": cfg.flow.name, "prediction": cfg.flow.path.arguments["prediction"]}
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
        flow = {"path": cfg.flow.name, "prediction": cfg.flow.path.arguments["prediction"]}
        own = {"flow": flow, "shift": cfg.shift, "area": cfg.area, "defaults": cfg.request}
        return own, {name_of(VAE): vae}
    beside = {} if vae.fingerprint == first(base.parts, VAE).fingerprint else {name_of(VAE): vae}
    changed = [*beside, *([] if has_adapter(cfg) else NAMES[DENOISER])]
    kept = [name for name in ROLES if name in base.parts and name not in changed]
    return {"base": base.named(kept), **base.pipeline}, beside


def specs_of(cfg: Train, base: Base | None) -> dict[str, dict[str, Any]]:
    """The architectures and arguments of the denoiser that trains, and of the text encoders that it reads."""
    denoiser = described(cfg, base, name_of(DENOISER))
    encoders = of_role(without_weights(denoiser).streams, TEXT_ENCODER)
    return {name_of(DENOISER): denoiser, **{name: described(cfg, base, name) for name in encoders}}


def described(cfg: Train, base: Base | None, part: str) -> dict[str, Any]:
    """The architecture and arguments of what `initial` gives, without weights."""
    if base is not None:
        return base.parts[part].skeleton.spec  # complete, also where an older file lacks arguments
    group = GROUPS[ROLES[part]]
    if part != name_of(ROLES[part]):
        raise InputError(f"model: it reads {part}, which {group}= does not describe: name a model that has it by init=")
    factory = getattr(cfg, group)
    arguments = factory.arguments
    architecture = arguments.pop("architecture", None)
    if architecture in ARGUMENTS:
        check(arguments, ARGUMENTS[architecture], group)
    with torch.device("meta"):
        return factory().spec


def networks(
    cfg: Train,
    base: Base | None,
    adapter: LoRA | None,
    tokenizers: Mapping[str, Tokenizer],
    captions: Sequence[str],
    mesh: Mesh,
) -> tuple[Denoiser, list[TextEncoder]]:
    """The DiT, as it trains, and its text encoders: they train too, or are the frozen ones of `init`."""
    frozen = []
    if base is not None and inherits(cfg, base):  # they are closed again before the DiT opens
        prompts, dtype = ["", *captions, *(cfg.samples.prompts or [])], kept_in(cfg.precision, mesh.device)
        frozen = remembered(base, tokenizers, prompts, mesh, dtype, Path(cfg.cache) / FOLDER)
    torch.manual_seed(cfg.seed)
    dtype = torch.float32 if adapter is None else kept_in(cfg.precision, mesh.device)
    dit = initial(cfg, base, name_of(DENOISER), mesh.device, dtype)
    encoders = frozen or [
        TextEncoder(name, tokenizer, initial(cfg, base, name, mesh.device)) for name, tokenizer in tokenizers.items()
    ]
    if adapter is not None:
        adapter.inject(dit)
    return dit, encoders


def kept_in(precision: str, device: torch.device) -> torch.dtype:
    """The type of weights that do not train, and need no room for small changes: on a GPU the run's precision.

    On a CPU float32: what `auto` measures there may be another type when the run goes on.
    """
    return PRECISIONS[pick_precision(precision, device)] if device.type == "cuda" else torch.float32


def initial(cfg: Train, base: Base | None, part: str, device: torch.device, dtype: torch.dtype = torch.float32) -> Any:
    """A network as the config describes it, or the one of `init`, which comes from its files tensor by tensor."""
    if base is None:
        return getattr(cfg, GROUPS[ROLES[part]])().to(device)
    return base.parts[part].load(device=device, dtype=dtype).train()


GROUPS = {DENOISER: "model", TEXT_ENCODER: "text", VAE: "vae"}  # of the config


def remembered(
    base: Base, tokenizers: Mapping[str, Tokenizer], prompts: Iterable[str], mesh: Mesh, dtype: torch.dtype,
    folder: Path,
) -> list[TextEncoder]:  # fmt: skip
    """The text encoders of `init`, frozen, after they have seen all prompts; `folder` keeps their states."""
    mine, found = list(dict.fromkeys(prompts))[mesh.rank :: mesh.ranks], []
    for name, tokenizer in tokenizers.items():
        network = Remembered(part=base.parts[name], folder=folder, device=mesh.device, dtype=dtype)
        with mesh.together(), Progress(total=len(mine), label="captions") as progress:
            network.learn(tokenizer, mine, progress.update)
        found.append(TextEncoder(name, tokenizer, network))
    return found


def words(
    cfg: Train, base: Base | None, specs: Mapping[str, Any], cache: LatentCache, folder: Path, mesh: Mesh
) -> dict[str, Tokenizer]:
    """The tokenizers: of the run that is resumed, of `init` with the captions' new words, or learned from these."""
    captions, keeps = [entry.caption for entry in cache.entries], base is not None and inherits(cfg, base)
    streams, mends = without_weights(first(specs, DENOISER)).streams, keeps and base.mends
    found = {}
    for name in of_role(specs, TEXT_ENCODER):
        path, given = folder / TOKENIZERS[name], None if base is None else base.tokenizers[name]
        resuming = path.exists() and any((folder / "checkpoints").glob(f"*/{STATE}"))
        room, how = specs[name]["arguments"]["vocabulary"], {"length": streams[name].length, "mends": mends}
        if mesh.main and not resuming:
            with atomic(path) as temporary:
                if given is None:
                    train_tokenizer(captions, temporary, vocabulary=room)
                else:  # new words take the places that its text encoder has left
                    content = given.read_bytes() if keeps else extended(given, captions, vocabulary=room)
                    temporary.write_bytes(content)
        if mesh.main:
            frozen = keeps or (given is not None and any(part.split(".")[0] == name for part in cfg.freeze))
            heard_by = given if frozen else path  # new words of a frozen one were never trained
            tell_unheard(Tokenizer(path=heard_by, **how), captions, frozen=frozen)
        mesh.wait()
        found[name] = Tokenizer(path=path, **how)
        if len(found[name]) > room:
            raise InputError(f"{name}.vocabulary={room}: the captions have {len(found[name])} tokens")
    return found


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
    if role_of(part.spec) != VAE:
        raise InputError(f"{part.weights.source} is not a VAE")
    return part


def _find_vae(model: str) -> Part:
    own = FILES[name_of(VAE)]
    for path in (Path(model), Path(model) / own, Path(model) / "model" / own):
        if path.is_file() and HEADER in Weights([path]).metadata:
            return Part.own(path)
    try:
        return first(describe(model)[1], VAE)
    except InputError as error:
        raise InputError(f"there is no VAE in {model}: name a model, a run's folder or a file ({error})") from None


def open_vae(part: Part) -> VideoVAE:
    """A VAE in float32 however it is stored."""
    return part.load(dtype=torch.float32)
