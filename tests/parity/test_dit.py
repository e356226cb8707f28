"""DiT is diffusers' WanTransformer3DModel with random weights, with one time a clip and with one a token."""

from __future__ import annotations

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from tests.compare import assert_equal, denoised, distance, noise, shaken
from videodit.checkpoint.families import wan
from videodit.checkpoint.keymap import translate
from videodit.models.dit import DiT
from videodit.models.pack import Ragged, patchify, unpatchify
from videodit.shapes import LatentShape

CHANNELS, HEADS, HEAD_DIM, FFN, LAYERS, TEXT_DIM, FREQUENCIES, PATCH = 5, 2, 20, 56, 2, 12, 32, (1, 2, 2)
SHAPE = LatentShape(3, 4, 6)
TIMES = ([999.0, 250.0], [1.0, 613.0])

ARGUMENTS = {
    **{"channels": CHANNELS, "out_channels": CHANNELS, "patch": PATCH, "dim": HEADS * HEAD_DIM, "layers": LAYERS},
    **{"heads": HEADS, "ffn": FFN, "text_dim": TEXT_DIM, "text_length": 0, "frequency_dim": FREQUENCIES},
    **{"time": "adaln_single", "norm": "layer", "qk_norm": "full", "qk_eps": 1e-6, "cross_norm": True},
    "fractions": None,
}


def ours_of(theirs: WanTransformer3DModel, model: DiT) -> dict[str, Tensor]:
    """Its weights under our names."""
    table = wan.dit_table("diffusers", ARGUMENTS)
    return translate(theirs.state_dict(), table, model.state_dict().keys(), source="a random model")


@pytest.fixture(scope="module")
def theirs() -> WanTransformer3DModel:
    torch.manual_seed(0)
    model = WanTransformer3DModel(
        patch_size=PATCH,
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_DIM,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=TEXT_DIM,
        freq_dim=FREQUENCIES,
        ffn_dim=FFN,
        num_layers=LAYERS,
        cross_attn_norm=True,
    )
    return shaken(model.requires_grad_(False))


@pytest.fixture
def ours(theirs: WanTransformer3DModel) -> DiT:
    model = DiT(**ARGUMENTS).requires_grad_(False)
    model.load_state_dict(ours_of(theirs, model), strict=True)
    return model


@pytest.fixture(scope="module")
def clips() -> Tensor:
    return noise(2, CHANNELS, SHAPE.frames, SHAPE.height, SHAPE.width)


@pytest.fixture(scope="module")
def text() -> Tensor:
    return noise(2, 7, TEXT_DIM, seed=1)


def run(model: DiT, clips: Tensor, times: Tensor, text: Tensor, *, kernel: str = "sdpa", keep: bool = False) -> Tensor:
    """Our model on a pack of these clips; their times run from 0 to 1000."""
    pack = patchify(list(clips), PATCH)
    states, times = Ragged(text.flatten(0, 1), (text.shape[1],) * len(text)), times.flatten().double() / 1000
    tokens = denoised(model, pack, times, states, kernel=kernel, keep=keep)
    return torch.stack(unpatchify(tokens, [SHAPE] * len(clips), PATCH))


@pytest.mark.parametrize("times", TIMES, ids=str)
@pytest.mark.parametrize("kernel", ["sdpa", "reference"])
def test_one_time_a_clip(
    ours: DiT, theirs: WanTransformer3DModel, clips: Tensor, text: Tensor, times: list[float], kernel: str
) -> None:
    times = torch.tensor(times)
    expected = theirs(clips, times, text).sample
    assert expected.std() > 0.5
    assert_equal(run(ours, clips, times, text, kernel=kernel), expected)


def test_one_time_a_token(ours: DiT, theirs: WanTransformer3DModel, clips: Tensor, text: Tensor) -> None:
    """The first frame's tokens at 0, as for a given first image."""
    times = torch.tensor([700.0, 30.0])[:, None].repeat(1, SHAPE.grid(PATCH).count)
    times[:, : SHAPE.grid(PATCH).count // SHAPE.frames] = 0
    expected = theirs(clips, times, text).sample
    assert_equal(run(ours, clips, times, text), expected)
    assert distance(expected, theirs(clips, times[:, -1], text).sample) > 1e-2


def test_with_keys_that_are_kept_and_with_zero_states(
    ours: DiT, theirs: WanTransformer3DModel, clips: Tensor, text: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They see all of a padded text; we see one zero state that counts for many, and keys made once."""
    times = torch.tensor(TIMES[0])
    padded = torch.cat([text, text.new_zeros(len(text), 30, TEXT_DIM)], dim=1)
    expected = theirs(clips, times, padded).sample
    assert distance(run(ours, clips, times, text), expected) > 1e-3, "the zero states would not have mattered"
    monkeypatch.setattr(ours, "text_length", text.shape[1] + 30)
    for keep in (False, True):
        for kernel in ("sdpa", "reference", "flex"):
            assert_equal(run(ours, clips, times, text, kernel=kernel, keep=keep), expected)


def _exchanged(state: dict[str, Tensor], first: str, second: str) -> dict[str, Tensor]:
    return {name.replace(first, "*").replace(second, first).replace("*", second): x for name, x in state.items()}


def test_a_wrong_weight_shows(ours: DiT, theirs: WanTransformer3DModel, clips: Tensor, text: Tensor) -> None:
    """The comparison can fail: each of these mistakes in the table of names gives other numbers."""
    times = torch.tensor(TIMES[0])
    expected = theirs(clips, times, text).sample
    state = ours_of(theirs, ours)
    head = {name: theirs.state_dict()[f"proj_out.{name[5:]}"] for name in ("head.weight", "head.bias")}
    table = state["blocks.0.modulation.table"]
    for wrong in (
        _exchanged(state, "blocks.0.attention.q.", "blocks.0.attention.k."),
        {**state, **head},
        {**state, "blocks.0.modulation.table": table[[1, 0, 2, 3, 4, 5]]},
        {**state, "table_out": state["table_out"].flip(0)},
    ):
        ours.load_state_dict(wrong, strict=True)
        assert distance(run(ours, clips, times, text), expected) > 1e-3
