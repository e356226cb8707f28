"""Models of conf/pretrained with random weights: the whole path through the command line, without a download."""

from __future__ import annotations

import shutil
from copy import deepcopy
from hashlib import sha256
from pathlib import Path

import av
import numpy as np
import pytest

from videodit.checkpoint import random_weights, resolve
from videodit.checkpoint.family import nearest_family, settings
from videodit.checkpoint.find import describe
from videodit.checkpoint.random_weights import TOLD, folder_of, is_random
from videodit.checkpoint.resolve import families, locate, read_family
from videodit.checkpoint.store import write_json
from videodit.cli.main import main
from videodit.config import conf_dir
from videodit.errors import InputError
from videodit.untrusted import read_json

NAMES = [name for name in families() if "random" in read_family(name)]
SMALL = ["size=96x64", "frames=9", "steps=2"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of these tests; none of them may ask the hub."""
    monkeypatch.setenv("VIDEODIT_CACHE", str(shared))
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    return shared


def another_cache(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIDEODIT_CACHE", str(place))
    return place / "random"


def files(folder: Path) -> dict[str, str]:
    """A digest of each file below a folder."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest() for path in found}


def pictures(path: Path) -> np.ndarray:
    """The frames (T,H,W,3) of a video."""
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]).astype(np.float32)


def test_each_kind_of_published_model_has_a_tiny_one() -> None:
    kinds = {name: (f["vae"]["arguments"]["patch"], "boundary" in f) for name in NAMES for f in [read_family(name)]}
    assert kinds == {"tiny-wan2.1": (1, False), "tiny-wan2.2-5b": (2, False), "tiny-wan2.2-a14b": (1, True)}


@pytest.mark.parametrize("name", NAMES)
def test_it_makes_the_same_video_wherever_it_is_made(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A picture that is not flat, that moves and follows the prompt; the same bits from a folder that is made anew."""
    outs = [tmp_path / "a.mp4", tmp_path / "b.mp4", tmp_path / "c.mp4"]
    for prompt, out in zip(("a red ball", "a red ball", "snow"), outs, strict=True):
        place = another_cache(tmp_path / out.stem, monkeypatch)
        assert main(["generate", prompt, f"model={name}", f"out={out}", *SMALL]) == 0
        told = [line for line in capsys.readouterr().err.splitlines() if TOLD in line]
        assert told == [f"{name}: {TOLD}"]
    assert outs[0].read_bytes() == outs[1].read_bytes() != outs[2].read_bytes()
    frames = pictures(outs[0])
    assert frames.std() > 10 and frames.std(0).mean() > 2, "neither flat nor still"
    [first], [second] = ((tmp_path / one / "random").iterdir() for one in "ab")
    assert first.name == second.name and files(first) == files(second)
    assert sum(path.stat().st_size for path in place.rglob("*")) < 5e6


def test_what_else_takes_a_model_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A plan, a video made again, block after block, an export in both layouts."""
    name, out, again = NAMES[0], tmp_path / "a.mp4", tmp_path / "b.mp4"
    assert main(["plan", f"model={name}"]) == 0
    assert main(["generate", "a red ball", f"model={name}", f"out={out}", "offload=block", *SMALL]) == 0
    assert main(["generate", f"recipe={out}", f"model={name}", f"out={again}"]) == 0
    assert out.read_bytes() == again.read_bytes()
    capsys.readouterr()
    assert main(["info", name]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert f"weights {TOLD}" in lines and f"family {name}" in lines
    theirs = tmp_path / "theirs"
    assert main(["export", f"model={name}", "format=diffusers", f"out={theirs}"]) == 0
    assert files(theirs) == files(locate(name)[0]), "what is there is what an export writes"
    assert main(["export", f"model={name}", f"out={tmp_path / 'ours'}"]) == 0
    weights = {place: describe(place)[1]["dit"].load().state_dict() for place in (name, str(tmp_path / "ours"))}
    assert all((tensor == weights[str(tmp_path / "ours")][key]).all() for key, tensor in weights[name].items())


def test_an_adapter_is_trained_on_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("peft")
    run = tmp_path / "run"
    overrides = [
        "data=toy_small", "data.train.0.size=4", "data.train.1.size=2", "data.heldout.0.size=2", "packs.tokens=64",
        "loop={steps: 2, save_every: 2, sample_every: 2, log_every: 1}", "samples.prompts=[]", "precision=fp32",
        "request.height=32", "request.width=32", "request.frames=9", "request.steps=1", "workers=0",
        f"cache={tmp_path / 'latents'}", f"run_dir={run}",
    ]  # fmt: skip
    assert main(["train", f"init={NAMES[0]}", "adapter=lora", *overrides]) == 0
    assert read_json(run / "model" / "pipeline.json", dict)["base"]["model"] == NAMES[0]
    capsys.readouterr()
    assert main(["generate", "a red ball", f"model={run}", f"out={tmp_path / 'a.mp4'}", *SMALL]) == 0
    assert TOLD in capsys.readouterr().err, "those of its base are"
    assert main(["train", f"init={NAMES[2]}", "adapter=lora", *overrides[:-1], f"run_dir={tmp_path / 'two'}"]) == 2
    assert "it has two experts" in capsys.readouterr().err


def test_a_half_made_folder_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, name = another_cache(tmp_path, monkeypatch), NAMES[0]
    export = random_weights.export_diffusers

    def stopped(*arguments: object) -> None:
        export(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(random_weights, "export_diffusers", stopped)
    with pytest.raises(KeyboardInterrupt):
        locate(name)
    assert list(place.iterdir()) == []
    monkeypatch.setattr(random_weights, "export_diffusers", export)
    folder, _ = locate(name)
    left = folder.with_name(f".{folder.name}.0000.elsewhere-1.part")  # what a killed process leaves
    folder.rename(left)
    (left / "vae" / "config.json").unlink()
    assert locate(name)[0] == folder and (folder / "vae" / "config.json").is_file()


def test_of_two_processes_the_first_one_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, numbers = another_cache(tmp_path, monkeypatch), read_family(NAMES[0])
    export = random_weights.export_diffusers
    seen = []

    def slow(*arguments: object) -> None:
        monkeypatch.setattr(random_weights, "export_diffusers", export)
        other = folder_of(NAMES[0], numbers)  # begins later, ends before
        seen.append(other.stat().st_ino)
        export(*arguments)

    monkeypatch.setattr(random_weights, "export_diffusers", slow)
    folder = folder_of(NAMES[0], numbers)
    assert seen == [folder.stat().st_ino] and list(place.iterdir()) == [folder] and is_random(folder)


def test_other_numbers_are_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    another_cache(tmp_path, monkeypatch)
    numbers = read_family(NAMES[0])
    one, other = folder_of("x", numbers), folder_of("x", {**numbers, "random": {"seed": 9}})
    same, differ = files(one), files(other)
    assert {name for name in same if same[name] != differ[name]} == {name for name in same if "safetensors" in name}


def test_any_family_may_have_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another YAML by another name; one that cannot be written is refused in words."""
    another_cache(tmp_path, monkeypatch)
    conf = tmp_path / "conf"
    shutil.copytree(conf_dir() / "pretrained", conf / "pretrained")
    monkeypatch.setattr(resolve, "conf_dir", lambda: conf)
    numbers = read_family(NAMES[0])
    numbers["dit"]["arguments"]["layers"] = 1
    write_json(conf / "pretrained" / "mine.yaml", numbers)
    assert describe("mine")[1]["dit"].spec["arguments"]["layers"] == 1
    small = deepcopy(numbers)
    small["text"]["arguments"]["vocabulary"] = 100
    write_json(conf / "pretrained" / "small.yaml", small)
    with pytest.raises(InputError, match="model=small: text.arguments.vocabulary=100: the tokenizer has 259 tokens"):
        locate("small")
    odd = deepcopy(numbers)
    odd["vae"]["arguments"]["linear"] = True
    write_json(conf / "pretrained" / "odd.yaml", odd)
    with pytest.raises(InputError, match="model=odd: vae: left out: .* cannot express linear=true"):
        locate("odd")
    write_json(conf / "pretrained" / "other.yaml", {**numbers, "family": "ltx"})
    with pytest.raises(InputError, match="model=other: no folder of the family ltx can be written"):
        locate("other")
    assert not [path for path in (tmp_path / "random").iterdir() if not path.name.startswith("mine")]


def test_they_are_near_to_themselves_alone(tmp_path: Path) -> None:
    """Other weights never take the settings of random ones."""
    for name in NAMES:
        parts = describe(name)[1]
        assert nearest_family(parts) == name
        assert settings(name, exact=True)["defaults"] == describe(name)[0]["defaults"]
        spec = parts["dit"].spec
        other = {**spec, "arguments": {**spec["arguments"], "layers": 7}}
        parts["dit"] = type(parts["dit"])(other, parts["dit"].weights)
        assert nearest_family(parts) not in NAMES
