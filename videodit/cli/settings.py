"""The settings of each command: a class whose fields are its keys; here the classes of those without groups.

Help shows what stands below the first line of a class: examples. A command with groups of configs has a YAML, which
takes the keys by `- <command>_settings` in its defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from types import MappingProxyType
from typing import Any, Literal

from videodit.generate.request import ByIntent, Request
from videodit.settings import defaults_of, key, left_out

# What a person may say of a request: all of it, what changes the work, and how it is sampled.
Asked: Any = left_out("Asked", Request, ByIntent)
Planned: Any = left_out("Planned", Request, ByIntent, without=("seed", "fit"))
SAMPLED = ("steps", "guidance", "sampler")
Sampled: Any = left_out("Sampled", Request, only=SAMPLED)

SUFFIX = "_settings"  # of the names under which hydra finds them
# Where the class of each command's settings is, in modules that are light to import. The first have groups of configs.
COMPOSED: Mapping[str, str] = MappingProxyType(
    {
        "train": "videodit.train.settings.Train",
        "doctor": "videodit.train.settings.Doctor",
        "encode": "videodit.train.settings.Encode",
        "ingest": "videodit.ingest.settings.Ingest",
    }
)
CLASSES: Mapping[str, str] = MappingProxyType(
    {
        command: f"videodit.cli.settings.{command.title()}"
        for command in ("generate", "plan", "decode", "evaluate", "export", "info", "report")
    }
    | COMPOSED
)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A model, and how it is opened and run."""

    model: str = key("a bundled or public name, a run folder, a folder or file of weights, a hub id", "toy")
    base: str = key("the model that it is a change of, if not where its pipeline.json says", "")
    device: str = key("cpu or cuda, else cuda where there is one", "")
    dtype: str = key("float32, bfloat16 or float16; else float32 on a CPU, bfloat16 on a GPU", "")
    vae_dtype: str = key("of the VAE, else as its family asks for (often float32), or as the others", "")
    offload: str = key(
        "none: networks stay open; model: one at a time; block: one block at a time; auto: none or model", "auto"
    )
    quantize: str = key(
        'int8: the large matrices of text encoder and DiT in half the memory (pip install "videodit[int8]")', ""
    )
    passes: int | None = key(
        "of a step with guidance, else 1: 2 takes the prompt and the negative one after the other, in less memory", None
    )
    chunk: int | None = key(
        "latent frames decoded at a time, else 4; 0: all; where memory does not suffice it goes down by itself", None,
        ge=0,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Generate(Opened, Asked):
    """What `videodit generate` is asked for.

    videodit generate "a large red ball rolls right on a gray ground" out=ball.mp4 seed=1 size=96x64 frames=17
    videodit generate prompts=many.jsonl out=folder/     one request a line; keys beside it are for lines that lack them
    videodit generate recipe=ball.mp4 out=again.mp4      a recorded video again, to the bit on the same machine
    videodit generate "a red ball" out=ball.mp4 count=4  ball-seed0.mp4 to ball-seed3.mp4, and one contact sheet of them
    videodit generate recipe=ball.mp4 seed=2 out=b.mp4   the same with another seed: keys beside it change it
    """

    prompt: str = key("what the video shows", "")
    prompts: str = key("a .jsonl file of requests instead; out is then a folder of videos", "")
    recipe: str = key("what videodit wrote, to be made again", "")
    out: str = key(
        ".mp4 .webm .gif .webp, .png or .jpg of one frame, frames/ for a folder of PNGs; the record: video.mp4.json",
        "video.mp4",
    )
    sheet: str = key("a contact sheet as well: a .png; of several seeds there is one anyhow", "")
    lora: str = key("adapters of it, files or folders, and their strengths: a.safetensors:0.8,b.safetensors:0.5", "")
    compile: bool = key("torch.compile for the DiT's blocks, which takes a while once", False)
    kernel: str = key(
        "of attention: sdpa, varlen, flex, xformers, reference; auto: on a GPU varlen for unequal clips, else sdpa",
        "auto",
    )
    memory: Literal["check", "auto", "off"] = key(
        "before anything is loaded, a run that cannot fit is refused; auto: changed until it fits; off", "check"
    )
    count: int | None = key(
        "videos of one prompt, seeds counting up: out=ball.mp4 gives ball-seed0.mp4 and on, out=folder/ numbers them",
        None,
    )
    batch: int | None = key("requests of a file, or seeds, that are made together, else 8", None)


@dataclass(frozen=True, kw_only=True)
class Plan(Opened, Planned):
    """What `videodit plan` is asked for.

    videodit plan "a red ball" size=96x64 frames=33 limit=1GiB
    What a generation will need: memory and time of each stage, from shapes alone. No weight is read.
    """

    prompt: str = key(
        "what the video would show",
        "a prompt of about twenty words, as long as most are, to count the states that attention will see",
    )
    limit: str = key("plan for this much memory instead of what is free here, such as 24GiB", "")


@dataclass(frozen=True, kw_only=True)
class Decode:
    """What `videodit decode` is asked for.

    videodit decode video.latents.safetensors     finish a run that was cut off after denoising: the same pixels
    """

    path: str = key("the file of latents", "")
    out: str = key("a file as of generate, or a folder for several; where the latents are if empty", "")
    model: str = key(
        "the model, if it has another name now or is not on this machine's disk under an absolute path", ""
    )
    device: str = key("cpu or cuda, else cuda where there is one", "")
    vae_dtype: str = key("of the VAE, else as the run would have", "")
    chunk: int | None = key(
        "latent frames at a time, else as the run would have; 0: all; where memory does not suffice it goes down by "
        "itself", None, ge=0,
    )  # fmt: skip
    keep: bool = key("keep the file of latents", False)


@dataclass(frozen=True, kw_only=True)
class Evaluate(Sampled):
    """What `videodit evaluate` is asked for.

    videodit evaluate                             the bundled model, 200 prompts of each kind
    videodit evaluate model=runs/toy_dit out=evaluation/toy_dit steps=20
    Writes report.json and a page of clips for each kind of prompt.
    """

    model: str = key("a bundled name, a run folder, or a folder of weights", "toy")
    base: str = key("the model that it is a change of, if not where its pipeline.json says", "")
    out: str = key("folder for the report", "evaluation")
    prompts: tuple[Literal["ordinary", "composition", "two"], ...] = key(
        "kinds of prompts: as in training, never rendered combinations, two bodies", ("ordinary", "composition", "two")
    )
    count: int = key("prompts of each kind; prompt i starts from seed + i", 200, ge=1)
    seed: int = key("of the first prompt", 0, ge=0)
    shapes: int = key("ordinary prompts for each row of the table of shapes; 0 for no table", 100, ge=0)
    clips: int = key("rendered clips that go through the VAE in each shape; 0 for none", 100, ge=0)
    losses: int = key("held-out clips for the loss by time; 0 for none", 200, ge=0)
    measures: tuple[str, ...] = key("numbers to report of the clips: motion, sharpness, flicker …", ())
    page: int = key("clips on each page", 48, ge=1)
    batch: int = key("clips generated at a time", 16, ge=1)
    kernel: str = key("of attention, as `videodit generate` takes it", "auto")
    judge: str = key("the weights that read clips, else the bundled ones", "")
    device: str = key("cpu or cuda, else cuda where there is one", "")


@dataclass(frozen=True, kw_only=True)
class Info:
    """What `videodit info` is asked for.

    videodit info                    this installation: versions, device, shipped files
    videodit info ball.mp4           how the video was made
    videodit info toy                a model, by any name that model= takes; nothing is downloaded
    videodit info runs/toy_dit       a run: what it trains, how far it is, its last numbers, how to go on
    videodit info set                what a training set holds
    """

    path: str = key("a video, a model, a run's folder, a set, or a file of weights", "")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `videodit report` is asked for.

    videodit report runs/toy_dit                       runs/toy_dit/report.html: curves, samples, config
    videodit report runs/b compare=runs/a,runs/c       with other runs beside: numbers, other keys, samples, curves
    One file that a browser opens without a server or a network.
    """

    path: str = key("the run's folder", "")
    out: str = key("the page, else report.html in the run's folder", "")
    compare: str = key("folders of other runs, with commas between", "")
    reference: str = key("a shipped curve to draw beside, else the one of the run's own name if there is one", "")
    log: bool = key("logarithmic axes for losses and norms that vary by more than ten times", True)


@dataclass(frozen=True, kw_only=True)
class Export:
    """What `videodit export` is asked for.

    videodit export model=runs/toy_dit out=my_model dtype=float16
    videodit export model=my_model format=diffusers out=folder     what diffusers' WanPipeline opens
    videodit export model=runs/my_lora format=adapter out=my.safetensors     an adapter alone; else it is merged
    """

    model: str = key("a bundled or public name, a run folder, a folder or file of weights, a hub id")
    out: str = key("the folder; of an adapter a folder or a file")
    format: Literal["videodit", "diffusers", "adapter"] = key("how files and tensors are named", "videodit")
    lora: str = key("adapters to merge, and their strengths: a.safetensors:0.8,b.safetensors:0.5", "")
    dtype: str = key("float32, float16 or bfloat16: how the weights are stored", "float32")
    vae_from: str = key("another VAE with the same encoder, such as a run that trained the decoder further", "")
    base: str = key(
        "a model that goes with it: what is the same there is left out (format=videodit), and what it is a change of "
        "is taken from there, if not from where its pipeline.json says", "",
    )  # fmt: skip


def settings_of(name: str) -> type:
    """The class of a command's settings, or of what its YAML calls `<command>_settings`."""
    module, _, kind = CLASSES[name.removesuffix(SUFFIX)].rpartition(".")
    return getattr(import_module(module), kind)


def register() -> None:
    """Let hydra find the settings of all commands."""
    from hydra.core.config_store import ConfigStore

    for command in COMPOSED:
        ConfigStore.instance().store(name=f"{command}{SUFFIX}", node=own_defaults(command))


def own_defaults(command: str) -> dict[str, Any]:
    """The defaults of a command's keys, but for those of another one that it extends, whose YAML its own takes on."""
    kind = settings_of(command)
    others = [one for one in map(settings_of, COMPOSED) if one is not kind and issubclass(kind, one)]
    taken = {field.name for one in others for field in fields(one)} - set(kind.__annotations__)
    return {name: default for name, default in defaults_of(kind).items() if name not in taken}
