"""`tools/gpu_page.py` on a CPU: all sections measure at the smallest scale, and what is missing is told."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

NAMES = ["tests", "kernels", "models", "training", "packs", "offload", "memory"]
# What a machine for GPUs may lack: none of it is found by whatever imports it.
HIDING = """
from functools import partial
from importlib.machinery import PathFinder

hidden = {"diffusers", "av", "hydra", "omegaconf", "pydantic", "decord", "ftfy", "wandb", "torchao", "gguf"}

def find(found, name, *rest):
    return None if name.partition(".")[0] in hidden else found(name, *rest)

PathFinder.find_spec = partial(find, PathFinder.find_spec)  # no function: pytest makes it a class's own
"""


def tool(checkout: Path, name: str) -> ModuleType:
    """A tool as a module: it is no part of a package."""
    sys.path.insert(0, str(checkout / "tools"))
    try:
        spec = importlib.util.spec_from_file_location(name, checkout / "tools" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.pop(0)


def made(checkout: Path, out: Path, *, first: str = "") -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """The page at the smallest scale. first: a folder that modules are looked for in first."""
    command = [sys.executable, str(checkout / "tools" / "gpu_page.py"), "scale=tiny", f"out={out}"]
    path = os.pathsep.join(filter(None, [first, str(checkout)]))
    env = {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=out.parent, env=env, capture_output=True, text=True, timeout=540)
    return done, json.loads(out.read_text())


def rows(page: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Of a section's table."""
    [section] = [one for one in page["sections"] if one["name"] == name]
    return section["tables"].get(name, [])


@pytest.mark.slow
def test_every_section_has_numbers(checkout: Path, tmp_path: Path) -> None:
    done, page = made(checkout, tmp_path / "page.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [one["name"] for one in page["sections"]] == NAMES
    for section in page["sections"]:
        assert not section["failed"] and section["state"] == "done"
        assert f"### {section['title']}" in done.stdout
        own = rows(page, section["name"])
        assert own and all(any(isinstance(value, int | float) for value in row.values()) for row in own)
    for key in ("device", "driver", "torch", "date", "commit"):
        assert page[key] and page[key] in done.stdout
    assert {row["kernel"].partition(",")[0] for row in rows(page, "kernels")} == {"sdpa", "reference", "flex"}
    assert all(row["error"] < 1e-5 for row in rows(page, "kernels"))
    steps = rows(page, "models")
    assert {"DiT 1.3B, eager", "DiT 1.3B, compiled", "VAE decode, float32"} <= {row["what"] for row in steps}
    assert all(row["diffusers, s"] > 0 for row in steps)
    assert all(row["apart (norm)"] < 1e-4 for row in steps if "bfloat16" not in row["what"])
    assert [row["offload"] for row in rows(page, "offload")] == ["none", "model", "block"]
    assert all(row["difference"] == 0 for row in rows(page, "offload"))
    assert all(row["MFU of matmul"] > 0 for row in rows(page, "training"))
    assert {row["section"] for row in rows(page, "memory")} == {"models", "training", "offload"}
    assert sum(row["found"] for row in rows(page, "tests")) > 50


@pytest.mark.slow
def test_missing_libraries_are_named(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "sitecustomize.py").write_text(HIDING)
    done, page = made(checkout, tmp_path / "page.json", first=str(tmp_path / "first"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"av", "diffusers", "hydra-core", "pydantic"} <= set(page["missing"])
    told = {one["name"]: " ".join(one["left_out"]) for one in page["sections"]}
    assert "av is missing" in told["tests"] and "diffusers is missing" in told["models"]
    assert all(row["diffusers, s"] is None and row["ours, s"] > 0 for row in rows(page, "models"))
    assert all(rows(page, name) for name in NAMES)
    assert "Traceback" not in done.stdout + done.stderr


def test_a_section_that_raises_is_told(checkout: Path) -> None:
    page = tool(checkout, "gpu_page")
    found = page.run(page.Section("nonsense", "", 1.0), "tiny", 300.0)
    assert found["state"] == "failed" and found["failed"] == ["nonsense: KeyError: 'nonsense'"]
    assert "Failed: nonsense" in page.written({"title": "", **found})


def test_a_section_that_takes_too_long_is_stopped(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tool(checkout, "gpu_page")
    monkeypatch.setattr(page, "LEAST", 0.0)
    found = page.run(page.SECTIONS[2], "tiny", 0.05)
    assert found["state"] == "out of time" and not found["failed"] and "used up" in found["left_out"][0]
    monkeypatch.setattr(page, "LEAST", 5.0)
    assert page.run(page.SECTIONS[2], "tiny", 4.0)["left_out"] == ["all of it: 4 s are left for it"]


def test_one_case_does_not_stop_the_others(checkout: Path, tmp_path: Path) -> None:
    page = tool(checkout, "gpu_parts").Page("tiny", 60.0, tmp_path / "rows")
    for number, error in enumerate(
        [ModuleNotFoundError("", name="av"), torch.OutOfMemoryError("out of memory"), ValueError("no\nmore"),
         ModuleNotFoundError("No module named 'videodit.lost'", name="videodit.lost")]
    ):  # fmt: skip
        with page.case(f"case {number}"):
            raise error
    found: dict[str, Any] = {"left_out": [], "failed": []}
    tool(checkout, "gpu_page").collect(tmp_path / "rows", found)
    assert found["left_out"] == ["case 0: av is missing", "case 1: too little memory (out of memory)"]
    assert [one.partition(": ")[0] for one in found["failed"]] == ["case 2", "case 3"]
    assert found["failed"][0] == "case 2: ValueError: no"


@pytest.mark.parametrize("argument", ["scale=huge", "only=nothing", "seconds=soon", "sclae=tiny", "tiny"])
def test_what_it_does_not_take_is_refused(checkout: Path, argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        tool(checkout, "gpu_page").main([argument])
    assert stopped.value.code == 2 and argument.partition("=")[0] in capsys.readouterr().err
