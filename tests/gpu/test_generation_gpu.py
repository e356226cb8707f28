"""Making and measuring videos on a GPU, in half precision, its default: nearly what a CPU does in float32."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.compare import noise
from tests.train import tiny
from videodit.cli.main import main
from videodit.generate import load

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
GPU = "cuda"
PROMPT = "a large red ball rolls right on a gray ground"


@pytest.mark.parametrize(
    "how",
    [[], ["offload=model"], ["offload=block"], ["compile=true"], ["dtype=float32"], ["passes=2"], ["sampler=unipc"]],
    ids=" ".join,
)
def test_a_video_is_made(tmp_path: Path, how: list[str]) -> None:
    same = [one for one in how if one.startswith("sampler")]
    clips = []
    for device, given in ((GPU, how), ("cpu", same)):
        out = tmp_path / f"{device}.mp4"
        assert main(["generate", PROMPT, f"out={out}", f"device={device}", "steps=8", *given]) == 0
        with av.open(str(out)) as file:
            clips.append(np.stack([one.to_ndarray(format="rgb24") for one in file.decode(video=0)]).astype(float))
    assert clips[0].shape == clips[1].shape
    assert np.abs(clips[0] - clips[1]).mean() < 8


def test_it_is_measured(tmp_path: Path) -> None:
    """By the command with few of everything."""
    few = ["clips=4", "losses=4", "count=4", "shapes=1", "prompts=[ordinary]"]
    assert main(["evaluate", "model=toy", f"device={GPU}", f"out={tmp_path / 'out'}", *few]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["reconstruction"]["64x64, 17 frames"]["psnr"] > 28


def test_words_mean_the_same() -> None:
    text, ids = tiny.text().to(GPU), torch.arange(3, 20, device=GPU)
    exact = text(ids, (9, 8)).states
    assert (text.bfloat16()(ids, (9, 8)).states.float() - exact).abs().max() < 0.1


@torch.no_grad()
def test_a_lone_frame_passes_a_fused_kernel() -> None:
    """One latent frame at a time, the way that takes least memory."""
    vae = load(device=GPU).parts.vae
    latents = noise(1, vae.latent_channels, 3, 8, 12).to(GPU, vae.mean.dtype)
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION]):
        parts = torch.cat(list(vae.decode_chunks(latents, 1)), dim=2)
    assert (parts.float() - vae.decode(latents).float()).abs().mean() < 0.02
