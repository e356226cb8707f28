"""SmallT5's packed prompts get the states that transformers' T5 and umT5 give them in a padded batch with a mask."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import T5EncoderModel, UMT5EncoderModel

from tests.compare import assert_equal, distance, shaken
from videodit.models.text import SmallT5

LENGTHS = (5, 1, 40, 12)


@pytest.mark.parametrize(("bias_per_layer", "reference"), [(False, T5EncoderModel), (True, UMT5EncoderModel)])
def test_states_are_those_of_a_padded_batch(bias_per_layer: bool, reference: type) -> None:
    torch.manual_seed(0)
    ours = SmallT5(vocabulary=50, dim=24, layers=2, heads=2, head_dim=8, ffn=32, bias_per_layer=bias_per_layer)
    shaken(ours.requires_grad_(False))
    theirs = reference(ours.encoder.config).eval().requires_grad_(False)
    theirs.encoder.load_state_dict(ours.encoder.state_dict(), strict=True)
    ids = torch.randint(3, 50, (sum(LENGTHS),))

    padded = pad_sequence(list(ids.split(LENGTHS)), batch_first=True)
    mask = pad_sequence([torch.ones(n, dtype=torch.long) for n in LENGTHS], batch_first=True)
    expected = theirs(input_ids=padded, attention_mask=mask).last_hidden_state
    packed = ours(ids, LENGTHS)
    assert packed.lengths == LENGTHS
    assert expected.std() > 0.5
    for states, row, length in zip(packed.states.split(LENGTHS), expected, LENGTHS, strict=True):
        assert_equal(states, row[:length])

    unmasked = theirs(input_ids=padded).last_hidden_state[0, : LENGTHS[0]]
    assert distance(unmasked, expected[0, : LENGTHS[0]]) > 1e-2, "the padding would not have mattered"
