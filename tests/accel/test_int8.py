"""8-bit weights: close to the full ones, half of bfloat16, and the same block by block."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.compare import denoised, noise, shaken
from tests.tiny import DIT, TEXT
from videodit.accel.int8 import check_int8, suits_int8
from videodit.accel.step_cache import relative
from videodit.checkpoint.find import check_choices
from videodit.checkpoint.pretrained import Part
from videodit.checkpoint.store import save_model
from videodit.errors import InputError
from videodit.models.build import build
from videodit.models.pack import Ragged, patchify

pytest.importorskip("torchao")
WIDE = {**DIT, "dim": 128, "ffn": 256, "heads": 4}


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Part:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("int8") / "dit.safetensors"
    save_model(path, shaken(build("dit", **WIDE), std=0.05))
    return Part.own(path)


def run(dit: nn.Module, kind: torch.dtype = torch.float32) -> torch.Tensor:
    pack = patchify([noise(4, 2, 4, 4).to(kind), noise(4, 1, 4, 6, seed=2).to(kind)], dit.patch)
    with torch.no_grad():
        return denoised(dit, pack, torch.tensor([0.7, 0.7]), Ragged(noise(5, 16, seed=1).to(kind), (3, 2)))


def test_close_and_small(part: Part) -> None:
    exact, rounded = part.load(), part.load(int8=True)
    matrices = [(n, p) for n, p in rounded.named_parameters() if n.startswith("blocks.") and suits_int8(n, p.shape)]
    assert len(matrices) == 2 * (4 + 4 + 2), "all linear layers of both blocks"
    assert all(p.qdata.dtype == torch.int8 and p.scale.numel() == len(p) for _, p in matrices)
    assert not any(hasattr(p, "qdata") for n, p in rounded.named_parameters() if not n.startswith("blocks."))
    assert 1e-4 < relative(run(rounded), run(exact)) < 0.02


def test_block_by_block_nothing_is_gained(part: Part) -> None:
    """The weights stay in their files."""
    assert torch.equal(run(part.load(int8=True, streamed=True)), run(part.load()))
    with pytest.raises(InputError, match="it would save nothing"):
        check_choices("block", "int8")


def test_block_by_block_the_same_weights_are_exact(part: Part) -> None:
    """Those that are in float32 beside half precision."""
    kind = torch.bfloat16
    assert torch.equal(run(part.load(dtype=kind, streamed=True), kind), run(part.load(dtype=kind), kind))


def test_a_text_encoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "text.safetensors"
    save_model(path, build("t5", **{**TEXT, "dim": 128, "heads": 4, "head_dim": 32, "ffn": 256}))
    ids = torch.arange(7)
    with torch.no_grad():
        exact, rounded = (Part.own(path).load(int8=on)(ids, (4, 3)).states for on in (False, True))
    assert 1e-4 < relative(rounded, exact) < 0.03


def test_without_torchao(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "videodit\[int8\]"'):
        check_int8()
