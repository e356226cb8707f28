"""Public folders and files as they are published: opened as their makers do, or refused in a line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import videodit
from tests.loose import single_files
from tests.parity import pipelines
from videodit.checkpoint.find import describe
from videodit.checkpoint.store import write_json
from videodit.cli.main import main
from videodit.errors import InputError
from videodit.untrusted import read_json

SMALL = {"size": "32x32", "frames": 5, "steps": 2}
OF_2025 = (  # keys of a VAE's config that diffusers 0.35 was the first to write
    *("decoder_base_dim", "in_channels", "out_channels", "is_residual", "patch_size", "scale_factor_spatial"),
    *("scale_factor_temporal", "clip_output"),
)


@pytest.fixture(scope="module", params=["2.1", "a14b"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wan")
    pipelines.pipeline(request.param, folder)
    return folder


@pytest.fixture
def wan(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "wan"))


def generated(model: Path, out: Path, *words: str) -> int:
    """What `videodit generate` ends with."""
    small = [f"{key}={value}" for key, value in SMALL.items()]
    return main(["generate", "a red ball", f"model={model}", f"out={out}", "device=cpu", *small, *words])


# ---------------------------------------------------------------------------------------------------------- absent keys


def test_a_vae_of_2025(wan: Path, tmp_path: Path) -> None:
    file = wan / "vae" / "config.json"
    before = videodit.load(str(wan), device="cpu")("a red ball", **SMALL).clip
    write_json(file, {key: value for key, value in read_json(file).items() if key not in OF_2025})
    assert (videodit.load(str(wan), device="cpu")("a red ball", **SMALL).clip == before).all()
    assert generated(wan, tmp_path / "a.mp4") == 0


# ---------------------------------------------------------------------------------------------------------- two experts

PAIRS = [  # for high noise, for low noise
    ("wan2.2_t2v_high_noise_14B_fp16", "wan2.2_t2v_low_noise_14B_fp16"),
    ("Wan2_2-T2V-A14B_HIGH_bf16", "Wan2_2-T2V-A14B-LOW_bf16"),
    ("wan22-high-q8", "wan22-low-q8"),
    ("Wan2.2-T2V-A14B-HighNoise-Q8_0", "Wan2.2-T2V-A14B-LowNoise-Q8_0"),
    ("high_noise_model", "low_noise_model"),
]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("which", [0, 1])
def test_one_expert_alone_is_refused(
    pair: tuple[str, str], which: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    folder = single_files(tmp_path, monkeypatch)
    (folder / "dit.safetensors").rename(file := folder / f"{pair[which]}.safetensors")
    shutil.copy(file, folder / "Wan2_1-T2V-14B_bf16.safetensors")  # no other expert
    own, other = ("high", "low") if which == 0 else ("low", "high")
    assert generated(file, tmp_path / "o.mp4") == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert f"{file}: it is the expert for {own} noise; the one for {other} noise is not beside it" in told
    (folder / "Wan2_1-T2V-14B_bf16.safetensors").unlink()
    with pytest.raises(InputError, match="is not beside it"):
        describe(str(folder))


@pytest.mark.parametrize("pair", PAIRS)
def test_two_experts_are_a_model(pair: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = single_files(tmp_path, monkeypatch)
    (folder / "dit.safetensors").rename(folder / f"{pair[0]}.safetensors")
    shutil.copy(folder / f"{pair[0]}.safetensors", folder / f"{pair[1]}.safetensors")
    for model in (folder, folder / f"{pair[0]}.safetensors", folder / f"{pair[1]}.safetensors"):
        parts = describe(str(model))[1]
        assert [parts[name].weights.files[0].stem for name in ("dit", "dit_low")] == list(pair)


@pytest.mark.parametrize("name", ["wan2.1_t2v_high_quality", "wan-highres", "Wan2_1-T2V-14B_fp8", "wan2.2_ti2v_5B_fp16"])
def test_another_name_is_no_expert(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = single_files(tmp_path, monkeypatch)
    (folder / "dit.safetensors").rename(file := folder / f"{name}.safetensors")
    assert set(describe(str(file))[1]) == {"dit", "text", "vae"}


def test_half_of_a_folder_is_refused(tmp_path: Path) -> None:
    """A transformer of two by itself, and an index that names one only."""
    pipelines.pipeline("a14b", tmp_path / "a14b")
    for name, noise in (("transformer", "high"), ("transformer_2", "low")):
        with pytest.raises(InputError, match=f"{name}: it is the expert for {noise} noise"):
            describe(str(tmp_path / "a14b" / name))
    file = tmp_path / "a14b" / "model_index.json"
    index = read_json(file)
    write_json(file, {**index, "transformer_2": [None, None]})
    with pytest.raises(InputError, match=r"boundary_ratio, but no transformer_2"):
        describe(str(tmp_path / "a14b"))
    write_json(file, {**index, "transformer": [None, None]})
    with pytest.raises(InputError, match="names no transformer"):
        describe(str(tmp_path / "a14b"))
