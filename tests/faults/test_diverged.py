"""A run whose losses end in what is no number keeps checkpoints from which a start goes on, and says which."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.train import tiny
from videodit.cli.main import main


@pytest.mark.parametrize("bad", [1, 3])
def test_what_the_line_advises_heals(bad: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A session with a rate at which nothing is learnt, then one with the rate before: it comes to its end.

    Whether the broken weights were saved before the first of so many bad steps in a row, or not.
    """
    loop = f"clip_norm: 1.0, max_bad: {bad}, log_every: 1, save_every: 2, sample_every: 50"
    places = [f"vae_from={tiny.saved_vae(tmp_path)}", f"cache={tmp_path / 'cache'}", f"run_dir={tmp_path / 'run'}"]
    quick = ["optim=adamw", "optim.warmup=1", "samples.prompts=[]", "workers=0", "memory=off"]
    words = ["train", *tiny.COMMAND, *places, *quick]
    assert main([*words, f"loop={{steps: 4, {loop}}}"]) == 0
    capsys.readouterr()
    assert main([*words, f"loop={{steps: 30, {loop}}}", "optim.make.lr=1e30"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert f"{kept[-1]} is the last sound checkpoint" in told and "lower the learning rate" in told
    assert main([*words, f"loop={{steps: 8, {loop}}}"]) == 0
    assert "nan" not in (tmp_path / "run" / "metrics.jsonl").read_text().lower()
