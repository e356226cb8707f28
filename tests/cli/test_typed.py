"""Settings made of a config: factories of objects, and what is told where one cannot be made."""

from __future__ import annotations

import pytest

from videodit.cli.typed import make, settings
from videodit.errors import InputError

ENDPOINT = ["videos=v", "out=o", "captioner=endpoint", "captioner.model=m"]


def test_an_object_gets_its_texts_as_they_were_typed() -> None:
    """Interpolations were resolved when settings were made: what is left of them is text."""
    asked = settings("ingest", [*ENDPOINT, r"captioner.prompts.long='costs \${frames} for {frames} frames'"])
    assert asked.captioner.arguments["prompts"]["long"] == "costs ${frames} for {frames} frames"
    assert asked.captioner().prompts.long == "costs ${frames} for {frames} frames"
    node = {"_target_": "builtins.dict", "deep": {"a": ["${b}", r"\${c}", 3, None]}}
    assert make(node, "x", more="${d}") == {"deep": {"a": ["${b}", r"\${c}", 3, None]}, "more": "${d}"}


def test_a_fault_inside_of_an_object_is_told_with_its_whole_key() -> None:
    with pytest.raises(InputError, match=r"^captioner\.price\b"):
        settings("ingest", [*ENDPOINT, "captioner.price.budget=-1"]).captioner()
    with pytest.raises(InputError, match=r"^x\.deep: "):
        make({"_target_": "builtins.dict", "deep": {"_target_": "builtins.int", "_args_": ["a"]}}, "x")
