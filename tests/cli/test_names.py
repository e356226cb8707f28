"""The command line takes what people type: names in any script, with signs that hydra reads otherwise, and `~`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import videodit
from tests.tiny import CAPTIONS, tiny_pipeline
from videodit.cli import compose, train
from videodit.cli.main import main
from videodit.cli.settings import COMPOSED, settings_of
from videodit.cli.words import settings_from
from videodit.config import conf_dir
from videodit.errors import InputError

NAMES = [
    *("日本語", "café", "läuft", "клипы", "it's", 'say "x"', "epoch=1", "clips (2024)", "a,b", "[set]", "{set}", "a#b"),
    *("a&b", "a b", "a: b", "50%", "x@y", "a|b", "a;b", "*", "007", "1e3", "true", "a\\b", "ends\\", "\\'", "a'b'c"),
    *("+x", "-o", "é" * 60),
    *("$HOME", "a$b", "!x", "<a>", "٣"),
]  # fmt: skip


def settled(command: str, *words: str) -> Any:
    """The config or the settings that a command gets."""
    if command not in COMPOSED:
        return settings_from(command, settings_of(command), words, None)[0]
    line = compose.parse(conf_dir(), command, words, positional=None, sweeps=command == "train")
    return compose.config(conf_dir(), command, line)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_arrives_as_it_was_typed(name: str) -> None:
    """As a value of a group's key, of a top key, and of what interpolates it."""
    cfg = settled("doctor", "data=videofolder", f"data.root={name}", f"cache={name}", f"name={name}")
    assert (cfg.data.root, cfg.cache, cfg.name, cfg.run_dir) == (name, name, name, f"runs/{name}")


@pytest.mark.parametrize("name", NAMES)
def test_a_training_gets_it_through_hydras_launcher(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[Any] = []
    monkeypatch.setattr(train, "run", lambda cfg: seen.append((cfg.data["root"], cfg.run_dir)))
    assert main(["train", "data=videofolder", f"data.root={name}", f"name={name}"]) == 0
    assert seen == [(name, f"runs/{name}")] and (tmp_path / "runs" / name).is_dir()


def test_what_hydra_is_meant_to_read_it_reads() -> None:
    texts = ["name='x'", 'run_dir="a b"', "cache=runs/${name}/c", "init=null", "precision=fp32"]
    cfg = settled("doctor", *texts, "limit=7", "freeze=[text]", "samples.prompts=[a, b]")
    assert (cfg.name, cfg.run_dir, cfg.cache, cfg.limit, list(cfg.freeze)) == ("x", "a b", "runs/x/c", 7, ["text"])
    assert cfg.init is None and list(cfg.samples.prompts) == ["a", "b"] and cfg.precision == "fp32"
    numbers = settled("doctor", "model.channels=5", "request.fps=4", "seed=3")  # defaults that follow other numbers
    assert (numbers.model.channels, numbers.request.fps, numbers.seed) == (5, 4, 3)


def test_a_sweep_keeps_its_commas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a name there that hydra cannot read is text."""
    monkeypatch.chdir(tmp_path)
    seen: list[Any] = []
    monkeypatch.setattr(train, "run", lambda cfg: seen.append((cfg.precision, cfg.seed, cfg.cache)))
    assert main(["train", "-m", "precision=fp32,bf16", "seed=1,2", "cache=café"]) == 0
    assert seen == [(precision, seed, "café") for precision in ("fp32", "bf16") for seed in (1, 2)]


@pytest.mark.parametrize("written", ["~/clips", "'~/clips'"])
def test_a_path_at_home(written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert settled("doctor", "data=videofolder", f"data.root={written}").data.root == f"{tmp_path}/clips"


def test_home_is_found_in_every_path_and_in_no_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    two = "lora=~/a.safetensors:0.5,~/b.safetensors"
    cfg = settled("generate", "model=~/m", "out=~/o.mp4", two, "prompt=~/ is home", "sheet=a~/b.png", "base=~")
    home = str(tmp_path)
    assert (cfg.model, cfg.out, cfg.base) == (f"{home}/m", f"{home}/o.mp4", home)
    assert cfg.lora == f"{home}/a.safetensors:0.5,{home}/b.safetensors"
    assert (cfg.prompt, cfg.sheet) == ("~/ is home", "a~/b.png")
    tiny_pipeline(tmp_path / "m")
    words = [CAPTIONS[0], "model=~/m", "out=~/made/日本 語.mp4", "sheet=~/s.png", "steps=1", "frames=1", "size=32x32"]
    assert main(["generate", *words]) == 0
    assert (tmp_path / "made" / "日本 語.mp4").is_file() and (tmp_path / "s.png").is_file()


# ------------------------------------------------------------------------------------------------------- files of lines

LINES = [
    (b"\xef\xbb\xbf" + b'{"prompt": "a ball"}\n', 1),  # a byte mark
    (b'{"prompt": "a ball"}\r\n\r\n{"prompt": "b"}\r\n', 2),
    (b'{"prompt": "a ball"}', 1),  # no end
    ('{"prompt": "a\u2028b"}\n{"prompt": "c\x85d"}\n'.encode(), 2),  # ends of lines to some, inside texts
    (b'{"prompt": "a"}\r{"prompt": "b"}\r', "line 1"),
    ('{"prompt": "a"}\n'.encode("utf-16"), "line 1"),
    (b'{"prompt": "caf\xe9"}\n', "line 1"),
    (b'{"prompt": "a", "steps": "3"}\n', "steps=3"),
    (b'{"prompt": "a"}\n{"prompt": "a", "stpes": 3}\n', "line 2: unknown key 'stpes'; did you mean 'steps'?"),
    (b'{"prompt": 3}\n', "line 1: expected an object"),
    (b'["a"]\n', "line 1: expected an object"),
    (b"a red ball\n", "line 1"),
    (b"\n\n", "there is no request in it"),
]


@pytest.mark.parametrize(("content", "wanted"), LINES, ids=[repr(content)[:50] for content, _ in LINES])
def test_lists_of_requests_are_read_or_refused_in_a_line(
    content: bytes, wanted: int | str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from videodit.generate.request import read_requests

    path = tmp_path / "many.jsonl"
    path.write_bytes(content)
    if isinstance(wanted, int):
        assert len(read_requests(path)) == wanted
        return
    assert main(["generate", f"prompts={path}", f"out={tmp_path / 'out'}"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and wanted in errors[0] and "many.jsonl" in errors[0]


# --------------------------------------------------------------------------------------------------------------- Python


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("python") / "model")


WRONG_TO_LOAD = [
    *(("model", 3), ("model", None), ("model", ""), ("dtype", "flaot16"), ("dtype", 3), ("dtype", torch.int8)),
    *(("vae_dtype", "x"), ("offload", 3), ("quantize", 4), ("compiled", "yes"), ("device", "toaster"), ("device", 3)),
    *(("device", "cuda:77"), ("base", 3), ("lora", 5), ("lora", True)),
]
WRONG_LORAS: list[Any] = [[3], [None], [("a",)], [("a", 1, 2)], {3: 1.0}, {"a": "x"}, {"a": True}, {"a": float("nan")}]


@pytest.mark.parametrize(("key", "value"), WRONG_TO_LOAD, ids=str)
def test_what_cannot_be_loaded_so(model: Path, key: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"^{key}={value}"):
        videodit.load(**{"model": str(model), "device": "cpu", key: value})


@pytest.mark.parametrize("given", WRONG_LORAS, ids=str)
def test_what_no_adapters_are(model: Path, given: Any) -> None:
    with pytest.raises(InputError, match="^lora="):
        videodit.load(model, device="cpu", lora=given)


def test_loading_takes_names_and_things(model: Path) -> None:
    """A path, a type and a device as objects or by the names that the command line has."""
    one = videodit.load(model, device=torch.device("cpu"), dtype="bfloat16", vae_dtype=torch.float32)
    assert (one.parts.dtype, one.parts.vae_dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("device", ["cuda", "mps", "cuda:3"])
@pytest.mark.parametrize("command", ["generate", "decode", "evaluate", "encode", "train", "doctor", "ingest"])
def test_a_device_that_is_not_there_is_one_line(
    command: str, device: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if (device == "mps" and torch.backends.mps.is_available()) or (device == "cuda" and torch.cuda.is_available()):
        pytest.skip("it is there")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").mkdir()
    words = {"generate": ["a ball", f"model={model}"], "evaluate": [f"model={model}"], "ingest": ["videos", "out=set"],
             "decode": ["x.latents.safetensors"]}  # fmt: skip
    if command == "decode":
        _waiting(model, tmp_path / "x.latents.safetensors")
    assert main([command, *words.get(command, []), f"device={device}"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[-1].startswith(f"videodit: error: device={device}: this machine has no such device")


def _waiting(model: Path, path: Path) -> None:
    from videodit.checkpoint.store import save_tensors

    pipe = videodit.load(model, device="cpu")
    requests = [pipe.request("a", frames=1, steps=1, size="32x32")]
    latents, records = pipe.denoise(requests), pipe.records(requests)
    save_tensors(path, {"0": latents[0].latents}, {"model": str(model), "paths": ["o.mp4"], "records": records})


def test_what_no_request_is_made_of(model: Path) -> None:
    pipe = videodit.load(model, device="cpu")
    for prompt in (3, None, "", [], ["a", 3], {"a": 1}):
        with pytest.raises(InputError, match="prompt"):
            pipe(prompt)
    with pytest.raises(InputError, match="unknown request key 'stpes'; did you mean 'steps'"):
        pipe("a", stpes=3)
    for requests in ([], ["a"], [None]):
        with pytest.raises(InputError, match="requests: they are a list of what pipe.request"):
            pipe.run(requests)


@pytest.mark.parametrize("path", [3, None, "", ".", "x.txt", "/"], ids=str)
def test_where_no_video_can_be_saved(path: Any, model: Path) -> None:
    video = videodit.load(model, device="cpu")("a", frames=1, steps=1, size="32x32")
    with pytest.raises(InputError):
        video.save(path)


def test_a_misspelt_model_is_nearly_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for typed, meant in (("toyfast", "toy-fast"), ("wan2.1-t2v-1.3", "wan2.1-t2v-1.3b")):
        with pytest.raises(InputError, match=f"did you mean '{meant}'"):
            videodit.load(typed)
