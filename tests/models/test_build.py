"""The closed table of architectures."""

from __future__ import annotations

import pytest

from tests.tiny import DIT, TEXT, VAE
from videodit.errors import InputError
from videodit.models.build import ARCHITECTURES, build


def test_every_architecture_remembers_how_it_was_built() -> None:
    arguments = {"dit": DIT, "t5": TEXT, "video_vae": VAE}
    assert arguments.keys() <= ARCHITECTURES.keys()
    for name, values in arguments.items():
        module = build(name, **values)
        assert type(module) is ARCHITECTURES[name]
        assert module.spec == {"architecture": name, "arguments": values}


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(InputError, match="unknown architecture 'unet'; there are .*dit.*t5.*video_vae"):
        build("unet", channels=3)


def test_architectures_take_all_their_arguments_and_no_others() -> None:
    with pytest.raises(TypeError, match="heads"):
        build("dit", **{name: value for name, value in DIT.items() if name != "heads"})
    with pytest.raises(TypeError, match="dropout"):
        build("dit", **DIT, dropout=0.1)
