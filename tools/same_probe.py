"""Make what `same_as.py` compares, with one commit's package: by its command line and its public Python alone.

    python -P tools/same_probe.py PART ROOT INPUTS OUT

Works in the present folder. OUT gets a safetensors file for each result as soon as it is there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import videodit
from videodit.cli.main import main as videodit_command

WAITING = ".latents.safetensors"  # the ending of latents that wait for decoding
ROUNDING = 1e-5  # relative
BALL = "a large red ball rolls right on a gray ground"
CUBE = "a small blue cube spins on a white ground"
KINDS = ("2.1", "2.2-5b", "a14b")  # of the Wan pipelines
BAD_INPUT = 2  # exit code


class Refused(Exception):
    """This commit does not take what a case asks for."""


class Results:
    """Where results go. A name is `CASE: WHAT`, so that what became of a case can be told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(
        self,
        name: str,
        tensors: Mapping[str, Tensor] | Sequence[Tensor],
        *,
        within: float | None = 0,
        text: Any = None,
        together: bool = False,
    ) -> None:
        """Add a result: tensors that are to be the same but for this relative distance, and JSON, exactly the same.

        A distance is relative to the largest value of its tensor, or, `together`, of all; None: it is told alone.
        """
        named = tensors if isinstance(tensors, Mapping) else {str(i): value for i, value in enumerate(tensors)}
        self._write(name, named, {"within": within, "text": text, "together": together})

    def keep_difference(self, name: str, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
        """Add whether two things of this one commit are the same to the bit."""
        same = ours.keys() == theirs.keys() and all(torch.equal(value, theirs[key]) for key, value in ours.items())
        self._write(name, {}, {"within": 0, "text": None, "same": same})

    @contextmanager
    def case(self, name: str) -> Iterator[str]:
        """Work on a case; where this commit refuses it, that is its result."""
        try:
            yield name
        except (Refused, videodit.InputError) as error:
            self._write(f"{name}: refused", {}, {"refused": str(error)})

    def _write(self, name: str, tensors: Mapping[str, Tensor], about: dict[str, Any]) -> None:
        path = self.folder / f"{name.replace('/', '-')}.safetensors"
        whole = {key: value.detach().contiguous().clone() for key, value in tensors.items()}
        save_file(whole, path.with_suffix(".part"), {"name": name, "about": json.dumps(about, sort_keys=True)})
        path.with_suffix(".part").rename(path)


class Deleted:
    """Copies each file of waiting latents before it is deleted, which `generate` does once it has decoded them."""

    def __init__(self) -> None:
        self.copy = Path(f"kept{WAITING}")
        sys.addaudithook(self._look)

    def _look(self, event: str, given: tuple[Any, ...]) -> None:
        if event == "os.remove" and os.fsdecode(given[0]).endswith(WAITING) and os.fsdecode(given[0]) != str(self.copy):
            shutil.copy(os.fsdecode(given[0]), self.copy)

    def take(self) -> list[Tensor]:
        """The latents of the command before."""
        tensors = load_file(self.copy)
        self.copy.unlink()
        return [tensors[str(number)] for number in range(len(tensors))]


def run(*words: str) -> None:
    """A command. Raises Refused, with its line, where it ends with the code of bad input."""
    code = videodit_command(list(words))
    if code == BAD_INPUT:
        sys.stderr.flush()
        raise Refused(Path("log.txt").read_text(errors="replace").splitlines()[-1])
    if code:
        raise RuntimeError(f"videodit {' '.join(words)} ended with {code}")


def pictures(folder: Path) -> Tensor:
    """The frames in a folder of PNGs: (T,H,W,3) uint8."""
    return torch.from_numpy(np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]))


def generate(results: Results, deleted: Deleted, case: str, prompt: str, words: Sequence[str]) -> None:
    """Keep the latents and the frames of `videodit generate`."""
    folder = Path(re.sub(r"\W+", "-", case))
    run("generate", prompt, *words, f"out={folder}/")
    results.keep(f"{case}: latents", deleted.take())
    results.keep(f"{case}: frames", [pictures(folder)])


def words_of(request: Mapping[str, Any]) -> list[str]:
    """Keys of a request as they are typed."""
    return [f"{key}={value}" for key, value in request.items()]


def toy(results: Results, inputs: Path) -> None:
    """The bundled models: sizes, samplers, guidance, a step cache, an image, a pack of unequal clips."""
    deleted = Deleted()
    short = {"seed": 1, "steps": 3}
    cases: dict[str, tuple[str, str, dict[str, Any]]] = {
        "toy": ("toy", BALL, {**short, "size": "96x64", "frames": 9}),
        "toy without guidance, heun": ("toy", CUBE, {**short, "size": "64x64", "guidance": 1.0, "sampler": "heun"}),
        "toy against a negative, unipc, odd size": (
            "toy",
            CUBE,
            {**short, "size": "51x77", "frames": 12, "fps": 12.0, "negative": BALL, "sampler": "unipc", "steps": 5},
        ),
        "toy with a step cache": ("toy", BALL, {**short, "size": "64x96", "step_cache": 0.3, "steps": 8}),
        "toy image, dpmpp, shift": ("toy", BALL, {**short, "frames": 1, "sampler": "dpmpp", "shift": 5.0}),
        "toy-fast": ("toy-fast", CUBE, {"seed": 2, "size": "64x64", "frames": 33}),
    }
    for name, (model, prompt, request) in cases.items():
        with results.case(name) as case:
            generate(results, deleted, case, prompt, [f"model={model}", *words_of(request)])
            results.keep(f"{case}: clip", [videodit.load(model)(prompt, **request).clip])
    pack(results, deleted)
    with results.case("an adapter of a tiny run") as case:
        model, adapter = (str(inputs / "before" / name) for name in ("run", "adapter/adapter.safetensors"))
        generate(results, deleted, case, BALL, [f"model={model}", f"lora={adapter}:0.7"])
        results.keep(f"{case}: clip", [videodit.load(model, lora={adapter: 0.7})(BALL).clip])
    with results.case("toy in two passes, decoded in small pieces and at once") as case:
        run("generate", BALL, "frames=33", "steps=1", "chunk=1", "passes=2", "out=pieces/")
        run("decode", str(deleted.copy), "chunk=0", "out=whole/", "keep=true")
        results.keep(f"{case}: latents", deleted.take())
        results.keep(f"{case}: frames", [pictures(Path("pieces")), pictures(Path("whole"))])


def pack(results: Results, deleted: Deleted) -> None:
    """Clips of unequal sizes, lengths and guidance, made together."""
    asked = [
        {"prompt": BALL, "size": "96x64", "frames": 9, "seed": 1},
        {"prompt": CUBE, "size": "64x64", "frames": 1, "guidance": 1.0, "seed": 2},
        {"prompt": BALL, "size": "64x96", "frames": 17, "negative": CUBE, "seed": 3},
    ]
    with results.case("toy pack of three unequal clips") as case:
        Path("asked.jsonl").write_text("\n".join(json.dumps(one) for one in asked))
        run("generate", "prompts=asked.jsonl", "steps=3", "out=together/")
        results.keep(f"{case}: latents", deleted.take())
        pipe = videodit.load()
        videos = pipe.run([pipe.request(**one, steps=3) for one in asked])
        results.keep(f"{case}: clips", [video.clip for video in videos])


def wan(results: Results, inputs: Path) -> None:
    """Pipelines of random weights that diffusers saved: whole, one network or one block at a time, in two passes."""
    deleted = Deleted()
    request = {"size": "48x32", "frames": 9, "steps": 4, "seed": 3, "guidance": 5.0}
    prompt = "a red ball rolls right on a gray ground"
    for kind in KINDS:
        model = str(inputs / "wan" / kind)
        asked = {**request, "size": "64x32", "frames": 5} if kind == "2.2-5b" else request
        for how in ("", "offload=model", "offload=block", "passes=2"):
            with results.case(f"Wan {kind} {how}".strip()) as case:
                words = [f"model={model}", "negative=blurry, ugly", *words_of(asked), *([how] if how else [])]
                generate(results, deleted, case, prompt, words)
                if not how.startswith("passes"):
                    pipe = videodit.load(model, offload=how.partition("=")[2] or "none")
                    clip = pipe(prompt, negative="blurry, ugly", **asked).clip
                    results.keep(f"{case}: clip", [clip])


STEPS = 10
GRADIENTS = ":exp_avg"  # AdamW's state that is a share of the gradient after one step
LOOP = f"loop={{steps: {STEPS}, save_every: 5, sample_every: 1000, log_every: 1}}"
BRIEF = [LOOP, "precision=fp32", "workers=0", "optim.warmup=2", "optim.decay=0"]


def train(results: Results, inputs: Path) -> None:
    """Ten steps of each half of toy_smoke, in one go and with two stops on the way; a step from the bundled model.

    The DiT's weights after ten steps are the same bits or far apart: where a gradient has fewer directions than its
    matrix, Muon makes whole steps of what rounding adds. The gradients of the bundled model, of which no gate is
    closed as those of a new one are, then tell whether it was rounding.
    """
    halves = {
        "VAE": ["experiment=toy_smoke_vae"],
        "DiT": ["experiment=toy_smoke", "after=[]", "vae_from=VAE-whole", "cache=cache", "request.steps=2"],
    }
    for half, words in halves.items():
        with results.case(f"toy_smoke {half}") as case:
            whole, resumed = Path(f"{half}-whole"), Path(f"{half}-resumed")
            run("train", *words, *BRIEF, f"run_dir={whole}")
            steps = list(logged(whole))
            losses = {f"step {one['step']}": number(one["loss"]) for one in steps}
            assert len(losses) == STEPS
            norms = {
                f"step {one['step']}, {name}": number(value)
                for one in steps
                for name, value in one.items()
                if name.startswith("gradient norm")
            }
            results.keep(f"{case}: first loss", {"step 1": losses["step 1"]})
            results.keep(f"{case}: ten losses", losses, within=ROUNDING)
            results.keep(f"{case}: norms of gradients", norms, within=None)
            results.keep(f"{case}: checkpoint after", checkpoint(whole), within=None)
            results.keep(f"{case}: model after", published(whole), within=None)
            for steps in (1, 5, STEPS):
                run("train", *words, *BRIEF, f"loop.steps={steps}", f"run_dir={resumed}")
            ours, theirs = ({**checkpoint(folder), **published(folder)} for folder in (resumed, whole))
            results.keep_difference(f"{case}: resumed as uninterrupted", ours, theirs)

    with results.case("a step from the bundled model") as case:
        start = ["init=toy", "data=toy_small", "optim=adamw", "cache=cache-toy", "run_dir=one", "request.steps=1"]
        few = ["data.train.0.size=8", "data.train.1.size=4", "data.heldout.0.size=2", "packs.tokens=256"]
        run("train", *start, *few, *BRIEF, "loop.steps=1")
        [one] = logged(Path("one"))
        means = {name: value for name, value in checkpoint(Path("one")).items() if name.endswith(GRADIENTS)}
        results.keep(f"{case}: loss", {"step 1": number(one["loss"])})
        results.keep(f"{case}: gradients", found(means), within=ROUNDING, together=True)


def number(value: float) -> Tensor:
    """A tensor of one number."""
    return torch.tensor(value, dtype=torch.float64)


def logged(folder: Path) -> Iterator[dict[str, Any]]:
    """What a run recorded of each step."""
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        with suppress(ValueError):
            if "loss" in (one := json.loads(line)):
                yield one


def tensors_in(folder: Path) -> dict[str, Tensor]:
    """All tensors in the safetensors files of a folder."""
    return {
        f"{path.stem.split('-')[0]}: {name}": value
        for path in sorted(folder.glob("*.safetensors"))
        for name, value in load_file(path).items()
    }


def checkpoint(folder: Path) -> dict[str, Tensor]:
    """Weights, averages and the optimizer's state (whose means of gradients are the gradients') after a run."""
    return found(tensors_in(sorted((folder / "checkpoints").glob("step-*"))[-1]))


def published(folder: Path) -> dict[str, Tensor]:
    """The model that a run leaves."""
    return found(tensors_in(folder / "model"))


def found(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same, of which there are some."""
    assert tensors
    return tensors


def evaluate(results: Results, inputs: Path) -> None:
    """The numbers of the smallest evaluation."""
    with results.case("evaluate") as case:
        small = ["count=1", "shapes=0", "clips=1", "losses=2", "page=1", "batch=1", "steps=2"]
        run("evaluate", *small, "out=evaluation")
        report = flat(json.loads(Path("evaluation/report.json").read_text()))
        numbers = {key: number(value) for key, value in report.items() if isinstance(value, float)}
        exact = {key: value for key, value in report.items() if not isinstance(value, float)}
        results.keep(f"{case}: report", found(numbers), within=ROUNDING, text=exact)


def flat(content: Any, name: str = "") -> dict[str, Any]:
    """Leaves of JSON by their path."""
    if not isinstance(content, dict | list):
        return {name: content}
    items = content.items() if isinstance(content, dict) else enumerate(content)
    return {path: leaf for key, value in items for path, leaf in flat(value, f"{name}/{key}").items()}


def ingest(results: Results, inputs: Path) -> None:
    """Sets made of plain clips and, where they are there, of real ones."""
    from pyarrow import parquet

    for folder in sorted((inputs / "clips").iterdir()):
        with results.case(f"ingest {folder.name}") as case:
            out = Path(f"set-{folder.name}")
            run("ingest", str(folder), f"out={out}", "vae=toy", "text=toy", "report=false", "engine.workers=1")
            rows = {row["id"]: row for row in parquet.read_table(out / "manifest.parquet").to_pylist()}
            assert rows
            captions = {id: [row.pop(name) for name in list(row) if "caption" in name] for id, row in rows.items()}
            leaves = flat(rows)
            measured = {key: number(value) for key, value in leaves.items() if isinstance(value, float)}
            listed = {key: value for key, value in leaves.items() if not isinstance(value, float)}
            results.keep(f"{case}: clip list", measured, within=ROUNDING, text=listed)
            results.keep(f"{case}: captions", {}, text=captions)
            results.keep(f"{case}: latents", found(tensors_in(out / "cache")))
            states = {path.stem: load_file(path)["states"] for path in (out / "cache" / "text").glob("*.safetensors")}
            results.keep(f"{case}: text states", found(states))


PARTS: dict[str, Callable[[Results, Path], None]] = {
    "toy": toy,
    "wan": wan,
    "train": train,
    "evaluate": evaluate,
    "ingest": ingest,
}


def main(part: str, root: str, inputs: str, out: str) -> int:
    """Make a part's results."""
    own = Path(videodit.__file__).resolve().parents[1]
    if own != Path(root).resolve():
        raise RuntimeError(f"the package is that of {own}, not of {root}")
    PARTS[part](Results(Path(out)), Path(inputs))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
