"""A sign of life: due after a silence, quiet while there is output, and told what goes on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO

import pytest
from rich.console import Console

from videodit import alive
from videodit.alive import SILENCE, Watch, Watched, doing, watched
from videodit.track.progress import Progress


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def watching() -> Iterator[Watch]:
    """A watch of stderr with a clock of its own, put in place inside of the test: pytest has streams of its own."""
    watch = Watch(StringIO(), "videodit train", Clock())
    with redirect_stderr(Watched(watch.stream, watch)):
        yield watch


def told(watch: Watch) -> list[str]:
    """What it has said so far."""
    return watch.stream.getvalue().splitlines()


def test_a_silence_is_told_once_and_again() -> None:
    with watching() as watch:
        watch.tell()
        assert not told(watch)
        with doing("load the text encoder"):
            watch.clock.now += SILENCE
            watch.tell()
            watch.tell()
            assert told(watch) == ["load the text encoder: still at it after 8 s"]
            watch.clock.now += SILENCE
            watch.tell()
            assert told(watch)[1:] == ["load the text encoder: still at it after 17 s"]
        watch.clock.now += SILENCE
        watch.tell()
        assert told(watch)[2:] == ["videodit train: still at it after 26 s"]


def test_whatever_is_printed_is_a_sign_of_life() -> None:
    with watching() as watch:
        watch.clock.now += SILENCE
        print("a word", file=sys.stderr)
        watch.tell()
        assert told(watch) == ["a word"]


def test_progress_tells_how_far_it_is() -> None:
    with watching() as watch:
        with Progress(total=8, label="encode", console=Console(file=StringIO()), clock=watch.clock) as progress:
            progress.update(1)
            watch.clock.now += 4
            progress.update(3)
            watch.clock.now += SILENCE
            watch.tell()
        now = "encode  step 3/8  0.16/s  31s left"
        assert told(watch) == ["encode  step 1/8", f"{now}: still at it after 12 s", now]


def test_an_error_leaves_no_name_behind() -> None:
    with watching() as watch:
        with pytest.raises(ZeroDivisionError), doing("divide"):
            raise ZeroDivisionError
        assert [what for what, _ in watch.doing] == ["videodit train"]


def test_streams_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alive, "SILENCE", 0.0)
    before = sys.stdout, sys.stderr
    with watched("videodit info"):
        assert sys.stderr is not before[1] and sys.stderr.isatty() == before[1].isatty()
    assert (sys.stdout, sys.stderr) == before
    with doing("nothing that is watched"):
        pass


def test_a_command_of_its_own_process_is_watched() -> None:
    code = """if True:
        import sys, time
        from videodit import alive
        alive.SILENCE = 0.2
        from videodit.cli import info, main
        info.installation = lambda: time.sleep(2) or ["done"]
        sys.argv = ["videodit", "info"]
        main.main()
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "done\n" and "videodit info: still at it after" in done.stderr
