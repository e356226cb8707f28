"""Which file of a folder an adapter is, which of two experts it is for, and what is read of what others say of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.parity import pipelines
from videodit.checkpoint import families
from videodit.checkpoint.adapters import attach, parse, save_adapter
from videodit.checkpoint.experts import adapter_files, experts_named
from videodit.checkpoint.families import lora as spelt
from videodit.checkpoint.families import wan
from videodit.checkpoint.families.record import Adapters, Family, Network
from videodit.checkpoint.find import describe
from videodit.checkpoint.keymap import Row
from videodit.checkpoint.pretrained import Part
from videodit.errors import InputError

NAMES = wan.FAMILY.adapters
DIM = 52
TABLE = "blocks.{}.modulation.table"
Q, NAME = "blocks.0.attention.q.weight", "blocks.0.self_attn.q"
HIGH, LOW, BOTH, NONE = ["dit"], ["dit_low"], ["dit", "dit_low"], []


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Part]:
    folder = tmp_path_factory.mktemp("model")
    pipelines.pipeline("a14b", folder)
    return describe(str(folder))[1]


def pair(module: str = f"diffusion_model.{NAME}", *, down: str = "lora_A.weight", up: str = "lora_B.weight"
         ) -> dict[str, Tensor]:  # fmt: skip
    """B·A whose values are all 2."""
    return {f"{module}.{down}": torch.ones(2, DIM), f"{module}.{up}": torch.ones(DIM, 2)}


def saved(path: Path, tensors: Mapping[str, Tensor] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors or pair()), path)
    return path


def changes(parts: Mapping[str, Part], lora: Any) -> dict[str, float]:
    """How much each expert's values change, where they do."""
    found = attach(parts, parse(lora))
    moved = {name: (found[name].read(Q) - parts[name].read(Q)).mean().item() for name in parts if found[name].added}
    return {name: round(change, 3) for name, change in moved.items()}


@pytest.mark.parametrize(
    ("names", "experts"),
    [
        (["wan2.2_lora_high_noise.safetensors"], [HIGH]),
        (["Wan22-LOW-NOISE-v2.safetensors"], [LOW]),
        (["HighNoise_rank64.safetensors", "xLowNoise.safetensors"], [HIGH, LOW]),
        (["high_noise_model/adapter_model.safetensors", "low_noise_model/adapter_model.safetensors"], [HIGH, LOW]),
        (["high.safetensors"], [HIGH]),
        (["low/pytorch_lora_weights.safetensors"], [LOW]),
        (["W_HIGH_Lightning_r128.safetensors", "W_LOW_Lightning_r64.safetensors"], [HIGH, LOW]),
        (["style-h.safetensors", "style-l.safetensors"], [HIGH, LOW]),
        (["a_HN_v1.safetensors", "a_LN_v1.safetensors"], [HIGH, LOW]),
        (["both_high_noise_low_noise.safetensors"], [BOTH]),
        (["low_light.safetensors"], [NONE]),  # what a bare word may mean
        (["low_light.safetensors", "high_quality.safetensors"], [NONE, NONE]),
        (["slow.safetensors", "highway_low.safetensors", "h.safetensors"], [NONE, NONE, NONE]),
        (["high_noise_low_light.safetensors"], [HIGH]),
        (["high_noise/low_light.safetensors"], [HIGH]),
    ],
)
def test_names_of_two_experts(tmp_path: Path, names: list[str], experts: list[list[str]]) -> None:
    files = [tmp_path / name for name in names]
    assert [experts_named([file, file.parent], files) for file in files] == experts


def test_a_partner_that_lies_beside(tmp_path: Path) -> None:
    """It need not be given too."""
    file = saved(tmp_path / "style_high.safetensors")
    assert experts_named([file], [file]) == NONE
    saved(tmp_path / "style_low.safetensors")
    assert experts_named([file], [file]) == HIGH


def test_each_of_a_pair_has_its_strength(parts: dict[str, Part], tmp_path: Path, capsys) -> None:
    high, low = (saved(tmp_path / f"{name}.safetensors") for name in ("high", "low"))
    assert changes(parts, f"{high}:1.0,{low}:0.8") == {"dit": 2.0, "dit_low": 1.6}
    assert capsys.readouterr().err.splitlines() == [
        f"lora={high}: layers changed: 1 of the expert for high noise; strength: 1; keys left out: none",
        f"lora={low}: layers changed: 1 of the expert for low noise; strength: 0.8; keys left out: none",
    ]
    assert changes(parts, {tmp_path: 0.5}) == {"dit": 1.0, "dit_low": 1.0}  # the folder of both
    single = {"dit": parts["dit"]}
    with pytest.raises(InputError, match="they are for a model of two experts; this one has a single one"):
        attach(single, {str(high): 1.0, str(low): 1.0})
    assert changes(single, high) == {"dit": 2.0}


@pytest.mark.parametrize("low", [prefix for prefix, expert in NAMES.prefixes.items() if expert == spelt.LOW])
@pytest.mark.parametrize("high", ["transformer.", "diffusion_model.", "", "high_noise_model.", "pipe.dit."])
def test_prefixes_of_two_experts(parts: dict[str, Part], tmp_path: Path, high: str, low: str) -> None:
    file = saved(tmp_path / "a_low_noise.safetensors", pair(high + NAME) | pair(low + NAME.replace("q", "k")))
    found = attach(parts, {str(file): 1.0})  # the keys say more than the file's name
    assert list(found["dit"].added) == [Q] and list(found["dit_low"].added) == [Q.replace("q", "k")]


def test_the_first_expert_s_prefix_alone(parts: dict[str, Part], tmp_path: Path) -> None:
    file = saved(tmp_path / "a.safetensors", pair(f"high_noise_model.{NAME}"))
    assert changes(parts, file) == {"dit": 2.0}


ENDS = {"down": [], "up": [], **{which: [] for which in spelt.TAILS}}
for _end, _which in spelt.ENDS.items():
    ENDS[_which].append(_end.replace("*", "default"))
DOWN_UP = [*zip(ENDS["down"], ENDS["up"], strict=True)]


@pytest.mark.parametrize(("down", "up"), DOWN_UP)
@pytest.mark.parametrize("prefix", ["", *spelt.PREFIXES, *NAMES.prefixes, "base_model.model.transformer.", *spelt.FLAT])
def test_every_spelling(parts: dict[str, Part], tmp_path: Path, prefix: str, down: str, up: str) -> None:
    names = [NAME, "blocks.0.attn1.to_q"]
    for name in names:
        module = prefix + (name.replace(".", "_") if prefix in spelt.FLAT else name)
        file = saved(tmp_path / "a.safetensors", pair(module, down=down, up=up))
        found = attach(parts, {str(file): 1.0}, quiet=True)
        assert {Q} == {name for part in found.values() for name in part.added}


def test_a_family_brings_its_names_by_its_record(
    parts: dict[str, Part], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tables, prefixes, what it lacks, and how its own are written; no other code knows of it."""

    def table(layout: str, arguments: Mapping[str, Any]) -> list[Row]:
        return [Row("layers.{}.mixer.query.*", "blocks.{}.attention.q.*"), Row("layers.{}.mod", TABLE)]

    spec = parts["dit"].spec
    own = {"ffn": spec["arguments"]["ffn"]}
    network = Network("dit", table, (), wan.detect_dit, always=own)
    spelt_so = Adapters(prefixes={"quiet.": "dit_low"}, tables=(".mod",), absent=("eye",), plain=("net.", "vendor"))
    new = Family("new", {"dit": network}, adapters=spelt_so)
    file = {**pair("quiet.layers.0.mixer.query"), **pair("quiet.eye.0"), "quiet.layers.1.diff_m": torch.ones(6, DIM)}
    with pytest.raises(InputError, match="which has no place for"):
        attach(parts, {str(saved(tmp_path / "a.safetensors", file)): 1.0})
    monkeypatch.setattr(families, "FAMILIES", {"new": new, **families.FAMILIES})
    found = attach(parts, {str(tmp_path / "a.safetensors"): 1.0})
    assert not found["dit"].added and set(found["dit_low"].added) == {Q, TABLE.format(1)}
    assert "keys left out: 2 (quiet.eye.0.lora_A.weight" in capsys.readouterr().err
    ours = {"blocks.0.attention.q": {"down": torch.ones(2, DIM), "up": torch.ones(DIM, 2)}}
    save_adapter(tmp_path / "b.safetensors", ours, spec, {})
    assert set(load_file(tmp_path / "b.safetensors")) == {f"net.layers.0.mixer.query.lora_{x}.weight" for x in "AB"}
    other = Network("dit", table, (), wan.detect_dit, always={"ffn": 1})
    monkeypatch.setattr(families, "FAMILIES", {"new": Family("new", {"dit": other}), "wan": wan.FAMILY})
    assert changes(parts, saved(tmp_path / "c.safetensors")) == {"dit": 2.0, "dit_low": 2.0}, "by its arguments"


@pytest.mark.parametrize("end", [*ENDS["difference"], *ENDS["bias_difference"]])
def test_every_difference(parts: dict[str, Part], tmp_path: Path, end: str) -> None:
    file = saved(tmp_path / "a.safetensors", {f"lora_unet_blocks_1_norm3.{end}": torch.ones(DIM)})
    part = attach(parts, {str(file): 0.5})["dit_low"]
    name = "blocks.1.norm2." + ("bias" if end in ENDS["bias_difference"] else "weight")
    assert list(part.added) == [name]
    assert torch.allclose(part.read(name), parts["dit_low"].read(name) + 0.5)


@pytest.mark.parametrize("key", ["blocks.0.diff_m", "blocks.0.modulation.diff", "blocks.0.scale_shift_table.diff"])
def test_every_table(parts: dict[str, Part], tmp_path: Path, key: str) -> None:
    file = saved(tmp_path / "a.safetensors", {f"diffusion_model.{key}": torch.ones(1, 6, DIM)})
    assert list(attach(parts, {str(file): 1.0})["dit"].added) == ["blocks.0.modulation.table"]


def test_the_file_of_a_folder(tmp_path: Path) -> None:
    run, theirs = saved(tmp_path / "run" / "model" / "adapter.safetensors"), tmp_path / "theirs"
    assert adapter_files(tmp_path / "run") == adapter_files(run.parent) == [run]
    other = saved(theirs / "b.safetensors")
    assert adapter_files(theirs) == [other]
    saved(theirs / "c.safetensors")
    with pytest.raises(InputError, match="several files, b.safetensors, c.safetensors: name one"):
        adapter_files(theirs)
    for name in ("pytorch_lora_weights.safetensors", "adapter_model.safetensors"):
        file = saved(theirs / name)
        assert adapter_files(theirs) == [file]


CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"peft_type": "LOKR"}, "peft_type='LOKR': only LORA is read"),
        ({"peft_type": "LOHA"}, "peft_type='LOHA'"),
        ({"r": 3}, "says rank 3 of blocks.0.self_attn.q, whose tensors are of rank 2"),
        ({"rank_pattern": {"self_attn.q": 5}}, "says rank 5"),
        ({"r": "2"}, "r: must be a whole number, not '2'"),
        ({"lora_alpha": None}, "lora_alpha: must be a number"),
        ({"alpha_pattern": {"q": float("nan")}}, "alpha_pattern.q"),
        ({"alpha_pattern": {"(q+)+$": 1}}, r"the pattern '\(q\+\)\+\$' is not of the simple kind"),
        ({"alpha_pattern": {".*.*.*.*q": 1}}, "is not of the simple kind"),
        ({"alpha_pattern": {"*q": 1}}, "is not of the simple kind"),
        ({"alpha_pattern": {"q" * 1001: 1}}, "is not of the simple kind"),
        ({"use_dora": True}, "says use_dora=true, but there are no lengths of rows"),
        ({"use_qalora": True}, "use_qalora is other mathematics"),
        ({"layer_replication": [[0, 1]]}, "layer_replication is other mathematics"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4' changed the model's own weights"),
        ({"init_lora_weights": "olora"}, "'olora' changed the model's own weights"),
    ],
)
def test_configs_that_are_refused(parts: dict[str, Part], tmp_path: Path, config: dict[str, Any], words: str) -> None:
    """In PEFT's own file, and in a header."""
    content = json.dumps(CONFIG | config)
    file = saved(tmp_path / "a" / "adapter_model.safetensors")
    (file.parent / "adapter_config.json").write_text(content)
    header = tmp_path / "b.safetensors"
    said = json.dumps({f"transformer.{key}": value for key, value in json.loads(content).items()})
    save_file(pair(), header, {"lora_adapter_metadata": said})
    for path in (file, header):
        with pytest.raises(InputError, match=words) as refused:
            attach(parts, {str(path): 1.0})
        assert str(path if path is header else file.with_name("adapter_config.json")) in str(refused.value)


def test_a_config_is_of_its_own_file(parts: dict[str, Part], tmp_path: Path) -> None:
    """PEFT's, or the only one there; and it is part of what the model is called."""
    file = saved(tmp_path / "adapter_model.safetensors")
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps(CONFIG))
    strong = attach(parts, {str(file): 1.0})["dit"]
    config.write_text(json.dumps(CONFIG | {"lora_alpha": 2}))
    weak = attach(parts, {str(file): 1.0})["dit"]
    assert (strong.read(Q) - weak.read(Q)).mean().item() == pytest.approx(2)
    assert strong.fingerprint != weak.fingerprint
    other = saved(tmp_path / "other.safetensors")
    config.write_text("{")
    assert changes(parts, {other: 1.0}) == {"dit": 2.0, "dit_low": 2.0}
    with pytest.raises(InputError, match="not valid JSON"):
        attach(parts, {str(file): 1.0})


def test_a_header_of_another_component_says_nothing(parts: dict[str, Part], tmp_path: Path) -> None:
    said = json.dumps({"text_encoder.r": 9, "text_encoder.lora_alpha": 1})
    save_file(pair(), tmp_path / "a.safetensors", {"lora_adapter_metadata": said})
    assert changes(parts, tmp_path / "a.safetensors") == {"dit": 2.0, "dit_low": 2.0}
