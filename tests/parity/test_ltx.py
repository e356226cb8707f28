"""DiT is diffusers' LTXVideoTransformer3DModel as well: other norms, other rotations, the same file."""

from __future__ import annotations

import pytest
import torch
from diffusers import LTXVideoTransformer3DModel
from torch import Tensor, nn

from tests.compare import assert_equal, denoised, distance, noise, shaken
from videodit.checkpoint.families import ltx
from videodit.checkpoint.keymap import translate
from videodit.models.dit import DiT
from videodit.models.pack import Ragged, patchify
from videodit.shapes import LatentShape

CHANNELS, SHAPE, TEXT = 6, LatentShape(3, 4, 5), 7
SCALE = (8 / 25, 32, 32)


class Exact(nn.Module):
    """Their sinusoid in fp64: in their fp32 the angle of time 900 is off by 4e-5, more than this test allows."""

    def forward(self, times: Tensor) -> Tensor:
        angles = times.double()[:, None] * 10000.0 ** -(torch.arange(128, dtype=torch.float64) / 128)
        return torch.cat([angles.cos(), angles.sin()], dim=1).float()


@pytest.fixture(scope="module", params=[(2, 24), (3, 16)], ids=str)
def pair(request: pytest.FixtureRequest) -> tuple[DiT, LTXVideoTransformer3DModel]:
    """The same network twice, its inner width divisible by 6 and not."""
    heads, head_dim = request.param
    torch.manual_seed(0)
    theirs = LTXVideoTransformer3DModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        cross_attention_dim=heads * head_dim,
        num_layers=2,
        caption_channels=10,
    ).requires_grad_(False)
    shaken(theirs).time_embed.emb.time_proj = Exact()
    arguments = ltx.dit_arguments(theirs.config, source="a random model")
    ours = DiT(**arguments).requires_grad_(False)
    table = ltx.dit_table("diffusers", arguments)
    ours.load_state_dict(translate(theirs.state_dict(), table, ours.state_dict().keys(), source="a random model"))
    return ours.eval(), theirs


def both(pair: tuple[DiT, LTXVideoTransformer3DModel]) -> tuple[Tensor, Tensor]:
    ours, theirs = pair
    clips, text = noise(2, CHANNELS, SHAPE.frames, SHAPE.height, SHAPE.width), noise(2, TEXT, 10, seed=1)
    times, lengths = torch.tensor([900.0, 41.0]), (TEXT, 4)
    mask = torch.arange(TEXT) < torch.tensor(lengths)[:, None]
    expected = theirs(
        hidden_states=clips.flatten(2).transpose(1, 2),
        encoder_hidden_states=text,
        timestep=times[:, None],
        encoder_attention_mask=mask.float(),
        num_frames=SHAPE.frames,
        height=SHAPE.height,
        width=SHAPE.width,
        rope_interpolation_scale=SCALE,
        return_dict=False,
    )[0]
    states = Ragged(torch.cat([row[:n] for row, n in zip(text, lengths, strict=True)]), lengths)
    return denoised(ours, patchify(list(clips), (1, 1, 1)), times.double() / 1000, states), expected.flatten(0, 1)


def test_transformer(pair: tuple[DiT, LTXVideoTransformer3DModel]) -> None:
    tokens, expected = both(pair)
    assert expected.std() > 0.5
    assert_equal(tokens, expected)


def test_other_rotations_show(pair: tuple[DiT, LTXVideoTransformer3DModel], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair[0], "fractions", [[0.33, 20], [32, 2048], [32, 2048]])
    assert distance(*both(pair)) > 1e-3
