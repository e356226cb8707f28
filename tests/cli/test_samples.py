"""What a run samples where nobody says of what: the captions of its own data."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import pytest

from tests.train import tiny
from videodit.cli.main import main
from videodit.cli.typed import settings
from videodit.data.batches import fetch
from videodit.toy.world import ToyWorld
from videodit.track.jsonl import records
from videodit.track.names import PROMPTS
from videodit.train.build import sample_prompts

BRIEF = "loop={steps: 3, save_every: 3, sample_every: 3, log_every: 1}"


def test_samples_are_of_the_datas_own_captions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of held-out clips, where no prompts are named; of data without captions there are none, which is said."""
    entry = namedtuple("entry", "caption")
    cfg = settings("train", ["samples.prompts=null"])
    entries = [entry(text) for text in ("", "a cat", "a cat", "a dog", "a cow", " ", "a pig")]
    assert sample_prompts(cfg, entries) == ["a cat", "a cow"]
    assert sample_prompts(cfg, entries[:3], entries) == ["a cat", "a dog"] and sample_prompts(cfg, entries, entries)
    assert sample_prompts(cfg, entries[:3]) == ["a cat"] and not capsys.readouterr().err
    assert sample_prompts(cfg, entries[:1]) == [] and "samples.prompts= names some" in capsys.readouterr().err
    named = settings("train", ["samples.prompts=[a horse]"])
    assert sample_prompts(named, entries) == ["a horse"]
    words = [word for word in tiny.COMMAND if not word.startswith("samples")]
    words += [f"vae_from={tiny.saved_vae(tmp_path)}", f"cache={tmp_path / 'cache'}", "workers=0", BRIEF]
    assert main(["train", *words, f"run_dir={tmp_path / 'run'}"]) == 0
    lines = records(tmp_path / "run" / "metrics.jsonl")
    told = [row for line in lines for row in line.get(PROMPTS, {}).get("rows", [])]
    world = ToyWorld(seed=1000, size=4, frames=9, height=32, width=32, fps=8.0)
    assert len(told) == 2 and {prompt for prompt, _ in told} <= {s.caption for _, s in fetch(world, range(4))[0]}
