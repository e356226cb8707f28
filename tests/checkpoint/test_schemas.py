"""What a pipeline.json may say is what there is to choose from."""

from __future__ import annotations

from typing import get_args, get_type_hints

import pytest

from tests.tiny import PIPELINE
from videodit.checkpoint.schemas import Defaults, Flow, Pipeline
from videodit.config import assets_dir
from videodit.errors import InputError
from videodit.flow.path import PATHS, Prediction
from videodit.flow.samplers import SAMPLERS
from videodit.generate.request import Request
from videodit.untrusted import check, read_json


def test_names_are_those_that_there_are() -> None:
    flow, defaults = get_type_hints(Flow), get_type_hints(Defaults)
    assert set(get_args(flow["path"])) == set(PATHS)
    assert set(get_args(flow["prediction"])) == set(get_args(Prediction))
    assert set(get_args(defaults["sampler"])) == set(SAMPLERS)
    assert set(defaults) <= set(Request.__dataclass_fields__)


def test_every_bundled_model_is_sound() -> None:
    files = sorted(assets_dir().glob("*/pipeline.json"))
    assert len(files) >= 2
    for path in files:
        read_json(path, Pipeline)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"area": [2, 1]}, "the least and the most"),
        ({"area": [1]}, "area"),
        ({"shift": 0.0}, "shift"),
        ({"shift": {"base_tokens": 1, "base_shift": float("nan")}}, "shift"),
        ({"defaults": {**PIPELINE["defaults"], "steps": 0}}, "defaults.steps"),
        ({"defaults": {**PIPELINE["defaults"], "fps": float("inf")}}, "defaults.fps"),
        ({"_target_": "os.system"}, "_target_"),
        ({"boundary": 2.0}, "boundary"),
        ({"base": {"model": "x" * 5000, "weights": {}}}, "base.model"),
    ],
)
def test_what_is_out_of_range_is_named(change: dict, told: str) -> None:
    with pytest.raises(InputError, match=told):
        check({**PIPELINE, **change}, Pipeline, "pipeline.json")
