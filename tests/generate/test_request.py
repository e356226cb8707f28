"""The one schema of requests: every key has a kind and a range, and what is beyond them is one line with its name."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from videodit.errors import InputError
from videodit.generate.request import KEYS, OWN, check_keys, complete

DEFAULTS = {
    **{"height": 32, "width": 32, "frames": 9, "fps": 8.0},
    **{"steps": 3, "guidance": 2.0, "sampler": "euler"},
}


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("prompt", [None, "", " \n", 3, "\ud800", "x" * 10**5]),
        ("negative", [3, "\udcff", ["a"]]),
        ("frames", [0, -1, 2.5, "9", True, 16385, 10**30, [9]]),
        ("height", [0, 16385, "64"]),
        ("width", [0, 16385, {}]),
        ("fps", [0, -1, 1e-9, 241, float("nan"), float("inf"), "8"]),
        ("seconds", [0, -1, 1e308, float("nan"), float("inf"), "1"]),
        ("seed", [-1, 2**63, 1.5, "1", True]),
        ("steps", [0, 16385, 1.0]),
        ("guidance", [float("nan"), float("inf"), 1e308, 10**400, "x", [], [1, "x"], True, [True], {}, [1.0, 2.0]]),
        ("sampler", ["eulr", 3, ["euler"]]),
        ("fit", ["squeeze", 1]),
        ("preset", ["watch", 1]),
        ("size", ["0x64", "big", 64]),
        ("aspect", ["wide", "1:0", "nan:1", [1]]),
        ("step_cache", [-0.1, 1, "0.1", float("nan")]),
        ("shift", [0, -1, 1001, "3", float("nan"), True]),
        ("colour", ["red"]),
    ],
)
def test_a_bad_value_is_one_line_with_its_key(key: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(InputError, match=key) as caught:
            complete({"prompt": "a ball", key: value}, DEFAULTS, 1)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_every_key_of_a_request_has_a_kind() -> None:
    assert set(OWN) < set(KEYS)
    request = complete({"prompt": "a ball", "size": "48x32", "seconds": 2, "fps": 12, "guidance": "4"}, DEFAULTS, 1)
    assert (request.height, request.width, request.frames, request.fps, request.guidance) == (32, 48, 24, 12.0, 4.0)
    check_keys(asdict(request))
    assert complete(asdict(request), DEFAULTS, 1) == request
    two = complete({"prompt": "a", "guidance": [4, 3]}, DEFAULTS, 2)
    assert two.guidance == (4.0, 3.0) and complete(asdict(two), DEFAULTS, 2) == two


def test_a_models_own_numbers_are_held_to_the_schema_as_well() -> None:
    with pytest.raises(InputError, match="steps=0"):
        complete({"prompt": "a"}, {**DEFAULTS, "steps": 0}, 1)
    with pytest.raises(InputError, match="sampler: neither the request nor the model"):
        complete({"prompt": "a"}, {key: value for key, value in DEFAULTS.items() if key != "sampler"}, 1)
