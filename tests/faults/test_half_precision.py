"""A type that overflows ends in a line that names it, not in a black video."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import videodit
from tests.parity.pipelines import pipeline
from tests.tiny import CAPTIONS, tiny_pipeline
from videodit.checkpoint.family import settings
from videodit.checkpoint.resolve import families
from videodit.cli.main import main
from videodit.errors import InputError
from videodit.generate.velocity import check_finite

SMALL = {"frames": 5, "size": "32x32", "steps": 2}


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wan")
    pipeline("2.1", folder)
    return folder


def louder(file: Path, part: str, factor: float) -> None:
    """Multiply the weights of which the name holds `part`."""
    weights = load_file(file)
    with safe_open(file, "pt") as opened:
        header = opened.metadata()
    assert any(part in name for name in weights)
    louder = {name: x * factor if part in name and x.dim() > 1 else x for name, x in weights.items()}
    save_file(louder, file, header)


def test_a_dit_that_overflows_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In its type, and in no wider one; by the command line with exit code 2, and no video."""
    pipeline("2.1", tmp_path / "wan")
    louder(next((tmp_path / "wan" / "transformer").glob("*.safetensors")), "ffn", 20_000)
    for dtype in (torch.float32, torch.bfloat16):
        assert videodit.load(str(tmp_path / "wan"), device="cpu", dtype=dtype)("a red ball", **SMALL).frames.std() > 0
    words = ["a red ball", f"model={tmp_path / 'wan'}", f"out={tmp_path / 'o.mp4'}", "device=cpu", "size=32x32"]
    assert main(["generate", *words, "frames=5", "steps=2", "dtype=float16"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(
        "videodit: error: dtype=float16: step 1 of 2 of the denoising has numbers that are not finite"
    )
    assert "dtype=bfloat16 or dtype=float32" in told and not list(tmp_path.glob("o.*"))


def test_a_vae_that_overflows_is_told_and_the_latents_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With another type of the VAE alone they are decoded."""
    monkeypatch.chdir(tmp_path)
    tiny_pipeline(tmp_path / "m")
    louder(tmp_path / "m" / "vae.safetensors", "decoder.conv_out", 1e7)
    words = [CAPTIONS[0], f"model={tmp_path / 'm'}", "out=o.mp4", "device=cpu", "size=32x32", "frames=5", "steps=2"]
    assert main(["generate", *words, "vae_dtype=float16"]) == 2
    told = capsys.readouterr().err
    assert "vae_dtype=float16: the decoded clip has numbers that are not finite" in told and not Path("o.mp4").exists()
    assert main(["decode", "o.latents.safetensors", "vae_dtype=float32"]) == 0
    assert Path("o.mp4").is_file() and not Path("o.latents.safetensors").exists()


def test_the_vae_has_the_type_that_its_family_asks_for(wan: Path) -> None:
    """Wan's float32, as its authors run it; a record says so; a key says otherwise."""
    for given, wanted in ((None, torch.float32), (torch.bfloat16, torch.bfloat16)):
        pipe = videodit.load(str(wan), device="cpu", dtype=torch.bfloat16, vae_dtype=given)
        video = pipe("a red ball", **SMALL)
        assert {x.dtype for x in pipe.parts.vae.parameters()} == {wanted}
        assert pipe.parts.dit.blocks[0].attention.q.weight.dtype == torch.bfloat16
        made_with = video.record["made_with"]
        assert (made_with["dtype"], made_with["vae_dtype"]) == ("bfloat16", str(wanted).removeprefix("torch."))


def test_families_say_the_type_of_their_vae() -> None:
    said = {name: settings(name, exact=True).get("vae_dtype") for name in families()}
    assert {name for name, dtype in said.items() if dtype == "float32"} == {name for name in said if "wan" in name}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite(value: float) -> None:
    fine, bad = torch.ones(3), torch.tensor([1.0, value])
    check_finite([fine], "dtype", torch.float16, "x")
    with pytest.raises(InputError, match="dtype=float16: x has .* dtype=bfloat16 or dtype=float32"):
        check_finite([fine, bad], "dtype", torch.float16, "x")
    with pytest.raises(InputError, match="dtype=float32: x has .* damaged"):
        check_finite([bad], "dtype", torch.float32, "x")
