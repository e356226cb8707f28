"""Killed or stopped between any two file operations and run again, a command has done what it does undisturbed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.faults.deeds import Whole, chosen, deeds, prepare, tried, whole
from tests.faults.killing import Parent, changed

SEED, KILLS = 0, 5
SLOW = ("evaluate",)  # a minute a run: tools/kill_everywhere.py takes it by name


class Stage(NamedTuple):
    """Where commands are run, what they start from, and what came of those that were left alone."""

    parent: Parent
    inputs: Path
    known: dict[str, Whole]

    def whole(self, name: str, place: Path) -> Whole:
        """A command that is left alone, once."""
        if name not in self.known:
            self.known[name] = whole(self.parent, self.inputs, name, place)
        return self.known[name]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Parent() as parent:
        yield Stage(parent, prepare(parent, tmp_path_factory.mktemp("kills")), {})


def names() -> list[str]:
    """The commands whose kills are few enough to try here."""
    return [name for name in deeds(Path()) if name not in SLOW]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train dit", "train vae"])
def test_every_kill_from_the_last_step_to_the_end(stage: Stage, name: str, tmp_path: Path) -> None:
    one = stage.whole(name, tmp_path / "whole")
    assert len(one.places()) > 10
    found = [tried(stage.parent, stage.inputs, one, at, tmp_path / f"{at[1]}") for at in one.places()]
    assert [each for each in found if each.faults] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_some_kills(stage: Stage, name: str, tmp_path: Path) -> None:
    one = stage.whole(name, tmp_path / "whole")
    places = chosen(one, SEED, KILLS)
    found = [tried(stage.parent, stage.inputs, one, at, tmp_path / f"{at[0]}-{at[1]}") for at in places]
    assert places and [each for each in found if each.faults] == []


@pytest.mark.slow
@pytest.mark.parametrize(("name", "by"), zip(names(), cycle([signal.SIGTERM, signal.SIGINT]), strict=False))
def test_some_requests_to_stop(stage: Stage, name: str, by: int, tmp_path: Path) -> None:
    """As after a kill, and the command itself has cleared up, says how to go on, and ends with a code that says so.

    Commands have one of the two signals each here; `test_stops.py` has both.
    """
    one = stage.whole(name, tmp_path / "whole")
    places = chosen(one, SEED + by, KILLS)
    found = [tried(stage.parent, stage.inputs, one, at, tmp_path / f"{at[0]}-{at[1]}", by) for at in places]
    assert places and [each for each in found if each.faults] == []


def test_what_counts_as_a_change_of_a_file(tmp_path: Path) -> None:
    """Reading does not, nor what changes nothing; names below an open folder are found."""
    path, other = tmp_path / "a", str(tmp_path / "b")
    path.write_text("")
    assert changed("open", (str(path), "w", os.O_WRONLY | os.O_CREAT)) == [str(path)]
    assert changed("open", (str(path), "r", os.O_RDONLY)) == []
    assert changed("os.rename", (path, other, -1, -1)) == [str(path), other]
    assert changed("os.mkdir", (str(tmp_path), 0o777, -1)) == changed("os.remove", (other, -1)) == []
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        assert changed("os.remove", ("a", folder)) == [str(path)]
    finally:
        os.close(folder)
