"""Compiled blocks give what the others do, for packs of changing sizes."""

from __future__ import annotations

import pytest
import torch

from tests.compare import assert_equal, denoised, noise, shaken
from tests.tiny import DIT
from videodit.accel.compiling import compile_blocks, lacking_compiler
from videodit.models.build import build
from videodit.models.pack import Ragged, patchify

CPU = torch.device("cpu")


def test_what_is_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert lacking_compiler(CPU) == "C++ compiler"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert lacking_compiler(torch.device("cuda")) == "C++ compiler", "Triton builds its launchers with one"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert lacking_compiler(torch.device("cuda")) == "triton"


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_is_the_same(backend: str) -> None:
    if backend == "inductor" and lacking_compiler(CPU):
        pytest.skip(f"no {lacking_compiler(CPU)}")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    dit = shaken(build("dit", **{**DIT, "layers": 3}), std=0.1).eval()
    compiled = build("dit", **{**DIT, "layers": 3}).eval()
    compiled.load_state_dict(dit.state_dict())
    compile_blocks(compiled.blocks, backend=backend)
    text = Ragged(noise(5, 16, seed=1), (3, 2))
    graphs = []
    with torch.no_grad():
        for frames in (1, 2, 3, 4):
            pack = patchify([noise(4, frames, 4, 4), noise(4, 1, 4, 6, seed=2)], dit.patch)
            t = torch.tensor([0.7, 0.3])
            assert_equal(denoised(compiled, pack, t, text), denoised(dit, pack, t, text))
            graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert 1 <= graphs[0] <= 6, "pieces of one block, between its two attentions: every block has graphs of its own"
    assert graphs[1] <= 2 * graphs[0] and len(set(graphs[1:])) == 1, f"{graphs}: every size has graphs of its own"


def test_any_number_of_clips_shares_graphs() -> None:
    """In training, held out, and sampled: after a few packs there are no new ones."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    dit = shaken(build("dit", **DIT), std=0.1).eval()
    compiled = build("dit", **DIT).eval()
    compiled.load_state_dict(dit.state_dict())
    compile_blocks(compiled.blocks, backend="eager")
    graphs = []
    for clips in 2 * (2, 3, 1, 5, 7):
        sizes = [(1 + (3 * clips + i) % 4, 4, 4 + 2 * (i % 2)) for i in range(clips)]
        pack = patchify([noise(4, *size, seed=i) for i, size in enumerate(sizes)], dit.patch)
        texts = tuple(1 + (clips + i) % 4 for i in range(clips))
        text, t = Ragged(noise(sum(texts), 16, seed=1), texts), torch.linspace(0.1, 0.9, clips)
        assert_equal(denoised(compiled, pack, t, text), denoised(dit, pack, t, text))
        with torch.no_grad():
            assert_equal(denoised(compiled, pack, t, text), denoised(dit, pack, t, text))
            assert_equal(denoised(compiled, pack, t, text, keep=True), denoised(dit, pack, t, text))
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert 1 <= graphs[0] <= 18, "pieces of one block, between its two attentions: every block has graphs of its own"
    assert graphs[-1] <= 4 * graphs[0] and len(set(graphs[4:])) == 1, f"{graphs}: every pack has graphs of its own"
