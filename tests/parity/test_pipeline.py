"""A folder that diffusers saved makes the same video here as there: whole generations, with UniPC and guidance."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import videodit
from tests.compare import assert_equal, distance
from tests.parity import pipelines
from tests.parity.pipelines import KINDS, WORDS
from videodit.checkpoint.find import describe

SIZES = {"2.1": (9, 32, 48), "2.2-5b": (5, 64, 32), "a14b": (9, 32, 32)}
STEPS = 8


@pytest.fixture(scope="module", params=KINDS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, object]:
    folder = tmp_path_factory.mktemp("pipeline")
    return request.param, folder, pipelines.pipeline(request.param, folder)


def asked(kind: str) -> dict:
    frames, height, width = SIZES[kind]
    fps = 24.0 if kind == "2.2-5b" else 16.0
    return {"frames": frames, "height": height, "width": width, "fps": fps, "steps": STEPS, "seed": 3}


def test_the_same_video(saved: tuple[str, Path, object]) -> None:
    kind, folder, theirs = saved
    negative = WORDS[2]
    two = {"guidance_scale_2": 4.0} if kind == "a14b" else {}
    expected = pipelines.clip(
        theirs,
        WORDS[0],
        size=SIZES[kind],
        seed=3,
        negative_prompt=negative,
        num_inference_steps=STEPS,
        guidance_scale=5.0,
        **two,
    )
    pipe = videodit.load(str(folder), device="cpu")
    guidance = (5.0, 4.0) if two else 5.0
    video = pipe(WORDS[0], negative=negative, guidance=guidance, sampler="unipc", **asked(kind))
    assert video.clip.shape == expected.shape and expected.std() > 0.02
    assert (video.clip - expected).abs().max() < 2e-3

    other = pipe(WORDS[1], negative=negative, guidance=guidance, sampler="unipc", **asked(kind))
    assert (other.clip - expected).abs().max() > 1e-2, "the prompt would not have mattered"
    if two:
        one = pipe(WORDS[0], negative=negative, guidance=5.0, sampler="unipc", **asked(kind))
        assert (one.clip - expected).abs().max() > 2e-3, "the second guidance would not have mattered"


def test_each_component(saved: tuple[str, Path, object]) -> None:
    kind, folder, theirs = saved
    pipe = videodit.load(str(folder), device="cpu")
    context = pipe.encode([WORDS[0]])
    text = context.streams["text"]
    states = theirs.encode_prompt(WORDS[0], do_classifier_free_guidance=False, max_sequence_length=64)[0][0]
    assert_equal(text.states, states[: text.lengths[0]])
    assert states[text.lengths[0] :].abs().max() == 0
    latents = torch.randn(1, pipelines.LATENTS, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(theirs.vae.config[f"latents_{name}"]).view(1, -1, 1, 1, 1) for name in ("mean", "std"))
    assert_equal(pipe.parts.vae.decode(latents).clamp(-1, 1), theirs.vae.decode(latents * std + mean).sample)
    x = torch.randn(1, pipelines.LATENTS, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    padded = torch.cat([states, states.new_zeros(512 - len(states), states.shape[1])])[None]
    names = {"dit": theirs.transformer, "dit_low": theirs.transformer_2}
    for name in pipe.parts.experts:
        times = torch.tensor([0.613], dtype=torch.float64)
        ours = pipe.network(name, context, times)([x[0]], times)[0]
        assert_equal(ours, names[name](x, torch.tensor([613]), padded).sample[0])


def test_settings_come_from_the_folder(saved: tuple[str, Path, object]) -> None:
    kind, folder, _ = saved
    settings, parts, _ = describe(str(folder))
    assert settings["shift"] == 3.0 and settings["defaults"]["sampler"] == "unipc"
    assert ("boundary" in settings) == ("dit_low" in parts) == (kind == "a14b")
    assert parts["dit"].skeleton.text_length == 512


def test_a_mistake_in_a_table_would_show(saved: tuple[str, Path, object]) -> None:
    """Queries and keys exchanged, the norms' order, the halves of a rotation: each gives another video."""
    kind, folder, _ = saved
    pipe = videodit.load(str(folder), device="cpu")
    request = {**asked(kind), "steps": 3, "guidance": 5.0}
    right = pipe(WORDS[0], **request).clip
    dit = pipe.parts.dit
    state = {name: tensor.clone() for name, tensor in dit.state_dict().items()}
    attention = "blocks.0.attention."
    pairs = [
        *[(f"{attention}{a}.{leaf}", f"{attention}{b}.{leaf}") for a, b in ("qk", "kq") for leaf in ("weight", "bias")],
        *[(f"{attention}norm_{a}.weight", f"{attention}norm_{b}.weight") for a, b in ("qk", "kq")],
    ]
    halves = {}
    for name in (f"{attention}q.weight", f"{attention}q.bias"):  # half-split pairs instead of neighbours
        rows = state[name].unflatten(0, (dit.blocks[0].attention.heads, 2, -1))
        halves[name] = rows.transpose(1, 2).reshape(state[name].shape)
    norm = "blocks.1.norm2."
    for wrong in (
        {a: state[b] for a, b in pairs},
        halves,
        {f"{norm}weight": torch.ones_like(state[f"{norm}weight"]), f"{norm}bias": 0 * state[f"{norm}bias"]},
    ):
        dit.load_state_dict({**state, **wrong})
        assert distance(pipe(WORDS[0], **request).clip, right) > 2e-3
    dit.load_state_dict(state)
