"""Tables of names: complete in both directions, or an error that says which names do not fit."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange

from videodit.checkpoint.keymap import (
    FIRST_OF_ONE,
    Form,
    Row,
    channels_last,
    kernel,
    match,
    reverse,
    trailing_ones,
    translate,
)
from videodit.errors import InputError

TABLE = [
    Row("conv.weight", "embed.weight", kernel((1, 2, 2))),
    Row("layers.{}.to_q.*", "blocks.{}.q.*"),
    Row("shared.weight", "words.weight", optional=True),
    Row("words.weight", "words.weight"),
]
WANTED = {"embed.weight", "blocks.0.q.weight", "blocks.11.q.bias", "words.weight"}
THEIRS = {
    "conv.weight": torch.arange(24.0).view(2, 3, 1, 2, 2),
    "layers.0.to_q.weight": torch.eye(2),
    "layers.11.to_q.bias": torch.ones(2),
    "words.weight": torch.zeros(3, 2),
    "shared.weight": torch.zeros(3, 2),
}


def test_there_and_back() -> None:
    ours = translate(THEIRS, TABLE, WANTED, source="x")
    assert ours.keys() == WANTED
    pixels = torch.randn(3, 1, 2, 2)
    torch.testing.assert_close(
        ours["embed.weight"] @ pixels.flatten(), (THEIRS["conv.weight"] * pixels).sum((1, 2, 3, 4))
    )
    back = translate(ours, reverse(TABLE), THEIRS.keys() - {"shared.weight"}, source="x")
    assert all(torch.equal(back[name], THEIRS[name]) for name in back)


def test_a_second_name_is_enough() -> None:
    names = THEIRS.keys() - {"words.weight"}
    assert match(names, TABLE, WANTED, source="x")["words.weight"][0] == "shared.weight"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (THEIRS.keys() | {"layers.0.to_q.weight.extra"}, "unknown: layers.0.to_q.weight.extra"),
        (THEIRS.keys() | {"layers.2.to_q.weight"}, "unknown: layers.2.to_q.weight"),
        (THEIRS.keys() - {"layers.11.to_q.bias"}, "missing: layers.11.to_q.bias"),
        (THEIRS.keys() - {"words.weight", "shared.weight"}, "missing: words.weight"),
    ],
)
def test_what_does_not_fit_is_named(names: set[str], said: str) -> None:
    with pytest.raises(InputError, match=f"^here: .*{said}"):
        match(names, TABLE, WANTED, source="here")


def test_doubts_are_errors() -> None:
    with pytest.raises(InputError, match="matched by two rows: conv.weight"):
        match(THEIRS, [*TABLE, Row("conv.*", "other.*")], WANTED, source="x")
    with pytest.raises(InputError, match="the same tensor twice: conv.weight and kernel"):
        match([*THEIRS, "kernel"], [*TABLE, Row("kernel", "embed.weight")], WANTED, source="x")
    with pytest.raises(InputError, match=r"and 3 more"):
        match([*THEIRS, *(f"odd{i}" for i in range(8))], TABLE, WANTED, source="x")


@pytest.mark.parametrize(
    ("form", "shape"),
    [(kernel((2, 1, 3)), (4, 5, 2, 1, 3)), (trailing_ones(2), (7, 1, 1)), (channels_last(3), (12, 5))]
    + [(FIRST_OF_ONE, (1, 6, 4))],
)
def test_forms_undo_themselves(form: Form, shape: tuple[int, ...]) -> None:
    theirs = torch.randn(shape)
    assert form.ours(theirs).shape != shape or not torch.equal(form.ours(theirs), theirs)
    assert torch.equal(form.theirs(form.ours(theirs)), theirs)


def test_channels_last_reorders_rows() -> None:
    weight = torch.randn(12, 5)
    assert torch.equal(channels_last(3).ours(weight), rearrange(weight, "(p c) d -> (c p) d", c=3))
