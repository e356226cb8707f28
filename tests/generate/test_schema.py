"""One schema: what a field of `Request` says holds on the command line, in files, in Python, in records and help."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import videodit
from tests.tiny import CAPTIONS, tiny_pipeline
from videodit.cli.keys import command_help
from videodit.cli.settings import Generate, Plan
from videodit.errors import InputError
from videodit.flow.samplers import SAMPLERS
from videodit.generate.recipe import Recipe
from videodit.generate.request import INTENTS, KEYS, OWN, ByIntent, Request, complete, read_requests
from videodit.settings import HELP, key, keys_of, left_out, value

DEFAULTS = {"height": 32, "width": 32, "frames": 9, "fps": 8.0, "steps": 3, "guidance": 2.0, "sampler": "euler"}


def test_every_surface_has_every_key() -> None:
    generate, plan = ({one.name: one for one in keys_of(kind)} for kind in (Generate, Plan))
    assert set(KEYS) <= generate.keys() and set(KEYS) - plan.keys() == {"seed", "fit"}
    text = command_help("generate", "", "prompt")
    for kind in (Request, ByIntent):
        for one in fields(kind):
            assert one.metadata[HELP] and one.metadata[HELP] in text
            assert generate[one.name].help == one.metadata[HELP] and generate[one.name].default in ("", None)


def test_a_file_takes_every_key(tmp_path: Path) -> None:
    whole = {name: one for name, one in vars(complete({"prompt": "a"}, DEFAULTS, 1)).items() if one is not None}
    (tmp_path / "many.jsonl").write_text(json.dumps(whole) + "\n" + json.dumps({"prompt": "a", "size": "32x32"}))
    assert read_requests(tmp_path / "many.jsonl") == [whole, {"prompt": "a", "size": "32x32"}]
    (tmp_path / "many.jsonl").write_text(json.dumps({"prompt": "a", "sise": "32x32"}))
    with pytest.raises(InputError, match="line 1: unknown key 'sise'; did you mean 'size'"):
        read_requests(tmp_path / "many.jsonl")


def test_a_record_and_a_recipe_have_every_key(tmp_path: Path) -> None:
    pipe = videodit.load(str(tiny_pipeline(tmp_path / "model")), device="cpu")
    request = pipe.request(CAPTIONS[0], frames=1, steps=1, size="32x32", shift=2, negative="a")
    path = pipe.run([request])[0].save(tmp_path / "a.png")
    recipe = Recipe.read(path)
    assert set(OWN) <= recipe.record.keys() and not set(INTENTS) & recipe.record.keys()
    assert pipe.request(**recipe.request({}, pipe.parts.name)) == request
    assert pipe.request(**recipe.request({"size": "48x32"}, pipe.parts.name)).width == 48


def test_samplers_are_those_that_there_are() -> None:
    assert get_args(get_type_hints(Request)["sampler"]) == tuple(SAMPLERS)


def test_what_is_left_out_is_told_from_what_is_not() -> None:
    asked = left_out("Asked", Request, ByIntent, only=("steps", "aspect", "guidance"))(guidance="4,3")
    assert (asked.steps, asked.aspect, asked.guidance) == (None, "", "4,3")
    assert value(Request, "guidance", asked.guidance) == (4.0, 3.0)
    assert value(Request, "shift", None) is None
    with pytest.raises(InputError, match="shift=0: must be above 0"):
        value(Request, "shift", 0)
    assert key("a", 1).metadata[HELP] == "a"


def test_the_schema_needs_no_library() -> None:
    """Help answers at once."""
    code = (
        "import sys, videodit.generate.request, videodit.cli.settings; print(*{m.split('.')[0] for m in sys.modules})"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "videodit" in loaded and not {"torch", "numpy", "pydantic", "diffusers", "omegaconf"} & set(loaded)
