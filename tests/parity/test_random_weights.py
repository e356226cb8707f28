"""The folders of random weights are diffusers' own: its classes open them and compute the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline

import videodit
from tests.compare import assert_equal
from tests.parity.pipelines import clip
from videodit.checkpoint.resolve import families, locate, read_family

NAMES = [name for name in families() if "random" in read_family(name)]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_networks(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDEODIT_CACHE", str(tmp_path))
    theirs = WanPipeline.from_pretrained(locate(name)[0])
    pipe = videodit.load(name, device="cpu")
    context = pipe.encode(["a red ball"])
    text = context.streams["text"]
    states = theirs.encode_prompt("a red ball", do_classifier_free_guidance=False, max_sequence_length=64)[0][0]
    assert text.lengths == (11,) and states[11:].abs().max() == 0
    assert_equal(text.states, states[:11])
    x = torch.randn(1, pipe.parts.vae.latent_channels, 3, 4, 6, generator=torch.Generator().manual_seed(1))
    padded = torch.cat([states, states.new_zeros(512 - len(states), states.shape[1])])[None]
    times, networks = torch.tensor([0.613], dtype=torch.float64), {"dit": theirs.transformer}
    networks |= {"dit_low": theirs.transformer_2} if theirs.transformer_2 is not None else {}
    assert pipe.parts.experts == list(networks)
    found = {}
    for part, network in networks.items():
        found[part] = pipe.network(part, context, times)([x[0]], times)[0]
        with torch.no_grad():
            assert_equal(found[part], network(x, torch.tensor([613]), padded).sample[0])
        assert found[part].std() > 0.1
    assert len(found) == 1 or (found["dit"] - found["dit_low"]).abs().max() > 0.1, "two experts, not one twice"


def test_the_same_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDEODIT_CACHE", str(tmp_path))
    theirs = WanPipeline.from_pretrained(locate(NAMES[0])[0])
    theirs.set_progress_bar_config(disable=True)
    asked = {"negative_prompt": "blurry", "num_inference_steps": 4, "guidance_scale": 5.0}
    expected = clip(theirs, "a red ball", size=(9, 64, 96), seed=3, **asked)
    made = videodit.load(NAMES[0], device="cpu")(
        "a red ball", negative="blurry", steps=4, guidance=5.0, frames=9, height=64, width=96, fps=16.0, seed=3
    )
    assert expected.std() > 0.1 and (made.clip - expected).abs().max() < 2e-3
