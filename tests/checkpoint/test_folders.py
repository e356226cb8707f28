"""Folders of diffusers as its releases write them: absent keys mean what the classes' constructors say."""

from __future__ import annotations

import inspect
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import transformers

from tests.parity import pipelines
from videodit.checkpoint import families
from videodit.checkpoint.families import FAMILIES
from videodit.checkpoint.find import describe
from videodit.checkpoint.store import write_json
from videodit.errors import InputError
from videodit.untrusted import read_json

NETWORKS = [network for family in FAMILIES.values() for network in family.networks.values()]
CLASSES = {name: theirs for network in NETWORKS for name, theirs in network.classes.items()}
PLACES = {"transformer": "dit", "vae": "vae", "text_encoder": "text"}


@pytest.fixture(scope="module", params=pipelines.KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("theirs")
    pipelines.pipeline(request.param, folder)
    return folder


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "model"))


def reference(name: str) -> dict[str, Any]:
    """The defaults of a class's constructor: of its config's, where transformers has one of its own."""
    owner = getattr(diffusers, name, None) or getattr(transformers, f"{name.removesuffix('EncoderModel')}Config")
    said = {key: one.default for key, one in inspect.signature(owner.__init__).parameters.items()}
    said |= {"model_type": owner.model_type} if hasattr(owner, "model_type") else {}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in said.items()}


@pytest.mark.parametrize("name", CLASSES)
def test_absent_keys_mean_what_the_reference_says(name: str) -> None:
    component, said = CLASSES[name], reference(name)
    assert component.defaults == {key: said[key] for key in component.defaults}
    assert component.defaults.keys() == component.kind.__annotations__.keys(), "each key that is read has a default"


def opened(folder: Path, part: str) -> Any:
    """What a part of the folder is: its spec and constants, or why it is refused."""
    try:
        found = describe(str(folder))[1][part]
    except InputError as error:
        return str(error)
    return dict(found.spec), found.constants


@pytest.mark.parametrize("place", PLACES)
def test_each_key_may_be_absent(copy: Path, place: str) -> None:
    """It is then as if the default stood there; where it stood there already, nothing changes."""
    file, name = copy / place / "config.json", read_json(copy / "model_index.json")[place][1]
    config, said = read_json(file), reference(name)
    before, unchanged = opened(copy, PLACES[place]), 0
    for key, value in config.items():
        write_json(file, {k: v for k, v in config.items() if k != key})
        without = opened(copy, PLACES[place])
        if key in said:
            write_json(file, {**config, key: said[key]})
            assert opened(copy, PLACES[place]) == without, key
        if said.get(key, value) == value:
            assert without == before, key
            unchanged += 1
    assert unchanged >= 5
    write_json(file, {})
    assert opened(copy, PLACES[place]) != before


def test_each_key_of_the_other_files_may_be_absent(copy: Path) -> None:
    for name in ("model_index.json", "scheduler/scheduler_config.json"):
        file = copy / name
        content = read_json(file)
        before = opened(copy, "dit")
        needed = {"_class_name", "transformer", "text_encoder", "vae", "transformer_2", "boundary_ratio"}
        for key in content.keys() - (needed if name == "model_index.json" else {}):
            write_json(file, {k: v for k, v in content.items() if k != key})
            assert opened(copy, "dit") == before, key
        write_json(file, content)


@pytest.mark.parametrize(
    ("key", "value"),
    [("relative_attention_max_distance", 64), ("layer_norm_epsilon", 1e-5), ("relative_attention_num_buckets", 16)],
)
def test_a_value_that_would_give_other_states_is_refused(copy: Path, key: str, value: float) -> None:
    file = copy / "text_encoder" / "config.json"
    write_json(file, read_json(file) | {key: value})
    with pytest.raises(InputError, match=f"config.json: {key}={value}; only"):
        describe(str(copy))


def test_a_component_of_another_class_is_refused(copy: Path) -> None:
    file = copy / "model_index.json"
    write_json(file, read_json(file) | {"transformer": ["diffusers", "WanVACETransformer3DModel"]})
    with pytest.raises(InputError, match="it is of a WanVACETransformer3DModel; only WanTransformer3DModel"):
        describe(str(copy))


def test_a_family_names_its_components_by_its_record(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"transformer": "denoiser", "transformer_2": "late_denoiser"}
    wan, before = FAMILIES["wan"], {part: opened(copy, part) for part in ("dit", "text", "vae")}
    index = {names.get(key, key): value for key, value in read_json(copy / "model_index.json").items()}
    write_json(copy / "model_index.json", {**index, "_class_name": "OtherPipeline"})
    for theirs in filter(lambda name: (copy / name).is_dir(), names):
        (copy / theirs).rename(copy / names[theirs])
    assert "only WanPipeline" in opened(copy, "dit")
    folders = {part: names.get(theirs, theirs) for part, theirs in wan.folders.items()}
    other = replace(wan, name="other", pipeline="OtherPipeline", folders=folders)
    monkeypatch.setattr(families, "FAMILIES", {**FAMILIES, "other": other})
    assert {part: opened(copy, part) for part in before} == before
    write_json(copy / "model_index.json", {**index, "_class_name": "OtherPipeline", "denoiser": "x"})
    assert "model_index.json: denoiser: " in opened(copy, "dit")
