"""Export and back: the same weights; export to diffusers: the same pixels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel

import videodit
from tests.compare import assert_equal, denoised, shaken
from tests.parity import pipelines
from tests.parity.pipelines import KINDS, WORDS
from tests.tiny import tiny_pipeline
from videodit.checkpoint import export
from videodit.checkpoint.find import describe
from videodit.checkpoint.parts import FILES
from videodit.checkpoint.store import save_model, write_json
from videodit.cli.main import main
from videodit.models.build import build
from videodit.models.pack import patchify, unpatchify
from videodit.shapes import LatentShape
from videodit.untrusted import read_json

SIZES = {"2.1": (5, 32, 48), "2.2-5b": (5, 64, 32), "a14b": (5, 32, 32)}


def weights(model: Path) -> dict[str, torch.Tensor]:
    _, parts, _ = describe(str(model))
    return {f"{name}/{key}": x for name, part in parts.items() for key, x in part.load().state_dict().items()}


def same(a: Path, b: Path) -> None:
    one, two = weights(a), weights(b)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers' folder -> ours -> diffusers', in shards: identical weights; their pipeline makes the same video."""
    theirs = pipelines.pipeline(kind, tmp_path / "theirs")
    assert main(["export", f"model={tmp_path / 'theirs'}", f"out={tmp_path / 'ours'}"]) == 0
    same(tmp_path / "theirs", tmp_path / "ours")
    monkeypatch.setattr(export, "SHARD", 30_000)
    assert main(["export", f"model={tmp_path / 'ours'}", f"out={tmp_path / 'back'}", "format=diffusers"]) == 0
    same(tmp_path / "theirs", tmp_path / "back")
    index = read_json(tmp_path / "back" / "transformer" / "diffusion_pytorch_model.safetensors.index.json")
    assert len(set(index["weight_map"].values())) == len(index["metadata"]["sha256"]) > 1

    back = WanPipeline.from_pretrained(tmp_path / "back")
    request = {"size": SIZES[kind], "seed": 1, "num_inference_steps": 2, "guidance_scale": 3.0, "negative_prompt": ""}
    expected = pipelines.clip(theirs, WORDS[1], **request)
    assert_equal(pipelines.clip(back, WORDS[1], **request), expected)  # mapped weights lie elsewhere: other rounding


def test_a_model_of_ours_in_diffusers(tmp_path: Path) -> None:
    """Trained here, with what diffusers' classes can express: its pipeline makes our video."""
    folder = tiny_pipeline(tmp_path / "ours")
    _, parts, tokenizers = describe(str(folder))
    dit = {**parts["dit"].spec["arguments"], "text_length": 512, "time": "adaln_single", "qk_norm": "full"}
    vae = {**parts["vae"].spec["arguments"], "linear": False, "patch": 1}
    levels = len(vae["multipliers"]) - 1
    vae |= {"spatial": [True] * levels, "temporal": [True] * levels}
    save_model(folder / FILES["dit"], shaken(build("dit", **dit), std=0.1))
    save_model(folder / FILES["vae"], shaken(build("video_vae", **vae), std=0.1))
    settings = read_json(folder / "pipeline.json")
    settings |= {"shift": 3.0, "area": [1, 2**31], "flow": {"path": "rectified", "prediction": "velocity"}}
    write_json(folder / "pipeline.json", settings)
    prompt = tokenizer_words(tokenizers["text"])

    assert main(["export", f"model={folder}", f"out={tmp_path / 'out'}", "format=diffusers"]) == 0
    stride = 2**levels
    size = (1 + stride, 8 * stride, 8 * stride)
    video = videodit.load(str(folder), device="cpu")(
        prompt, frames=size[0], height=size[1], width=size[2], steps=3, guidance=2.0, sampler="unipc", seed=4,
        fps=settings["defaults"]["fps"],
    )  # fmt: skip
    pipe = WanPipeline.from_pretrained(tmp_path / "out")
    pipe.scheduler = pipelines.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    expected = pipelines.clip(
        pipe, prompt, size=size, seed=4, num_inference_steps=3, guidance_scale=2.0, negative_prompt=""
    )
    assert video.clip.shape == expected.shape and expected.std() > 0.02
    assert (video.clip - expected).abs().max() < 2e-3


def tokenizer_words(tokenizer: Path) -> str:
    return " ".join(list(read_json(tokenizer)["model"]["vocab"])[3:7])


def test_the_toy_as_far_as_it_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its VAE has no class there, which is said; its transformer has, and computes the same."""
    assert main(["export", "model=toy", f"out={tmp_path}", "format=diffusers"]) == 0
    said = capsys.readouterr().out
    assert "vae: left out: diffusers' AutoencoderKLWan cannot express linear=true" in said
    assert "WanPipeline fills texts up to 512 states" in said and not (tmp_path / "model_index.json").exists()
    theirs = WanTransformer3DModel.from_pretrained(tmp_path / "transformer")
    pipe = videodit.load("toy", device="cpu")
    text, shape = pipe.encode(["a red ball"]).streams["text"], LatentShape(2, 8, 8)
    x, times = pipe.noise(0, shape), torch.tensor([0.7], dtype=torch.float64)
    tokens = denoised(pipe.parts.dit, patchify([x], pipe.patch), times, text)
    expected = theirs(x[None], torch.tensor([700.0]), text.states[None]).sample[0]
    assert_equal(unpatchify(tokens, [shape], pipe.patch)[0], expected)


def test_what_a_base_has_too_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever it is stored in; the folder opens as the whole model does, and says when the base is another."""
    base, other = tiny_pipeline(tmp_path / "base"), tiny_pipeline(tmp_path / "other", seed=1)
    for name in ("text", "vae"):
        (other / FILES[name]).write_bytes((base / FILES[name]).read_bytes())
    assert main(["export", f"model={base}", f"out={tmp_path / 'half'}", "dtype=float16"]) == 0
    assert main(["export", f"model={tmp_path / 'half'}", f"out={tmp_path / 'wide'}"]) == 0
    command = ["export", f"model={other}", f"base={base}", f"out={tmp_path / 'out'}"]
    assert main(command) == 0
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["dit.safetensors", "pipeline.json", "tokenizer.json"]
    same(tmp_path / "out", other)
    assert main(["export", f"model={tmp_path / 'wide'}", f"base={tmp_path / 'half'}", f"out={tmp_path / 'none'}"]) == 0
    assert not list((tmp_path / "none").glob("*.safetensors"))
    same(tmp_path / "none", tmp_path / "half")
    (base / FILES["vae"]).write_bytes((tmp_path / "half" / FILES["vae"]).read_bytes())
    assert main(["export", f"model={tmp_path / 'out'}", f"out={tmp_path / 'x'}"]) == 2
    assert "which has other weights now (vae)" in capsys.readouterr().err
    assert main([*command[:3], f"out={tmp_path / 'x'}", "format=diffusers"]) == 2
    assert "only format=videodit leaves parts out" in capsys.readouterr().err


def test_bad_requests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "model=toy", f"out={tmp_path}", "format=onnx"]) == 2
    assert "format=onnx: must be 'videodit', 'diffusers' or 'adapter'" in capsys.readouterr().err
