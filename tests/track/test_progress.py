"""Progress: lines that are rare and right, and a bar on a terminal."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from videodit.track.progress import Progress, duration, number


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_lines_come_at_intervals_and_tell_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress(total=1000, start=100, label="train", every=10, clock=clock) as progress:
        for step in range(101, 161):  # 2 seconds a step
            clock.now += 2
            progress.update(step, loss=0.12345, **{"clips/s": 18.2})
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 + 118 // 10 + 1  # the first update, one in ten seconds, and the last
    assert lines[0] == "train  step 101/1000  loss 0.123  clips/s 18.2"  # one step is no rate
    assert lines[1] == "train  step 106/1000  loss 0.123  clips/s 18.2  29m 48s left"
    assert lines[-1] == "train  step 160/1000  loss 0.123  clips/s 18.2  28m 00s left"


def test_the_rate_is_recent_and_a_finished_run_says_what_it_took(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress(total=200, start=0, label="train", every=1e9, clock=clock) as progress:
        for step in range(1, 201):
            clock.now += 60 if step == 1 else 1  # a slow first step (compilation) is soon forgotten
            progress.update(step)
            if step == 100:
                assert progress._text() == "step 100/200  1/s  1m 40s left"
    assert capsys.readouterr().err.splitlines()[-1] == "train  step 200/200  took 4m 19s"


def test_fields_stay_until_given_again_and_an_exception_still_shows_the_last_state(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    with pytest.raises(ZeroDivisionError):
        with Progress(total=10, label="vae", clock=clock) as progress:
            progress.update(1, loss=1.0, psnr=20.0)
            progress.update(2, loss=float("nan"))
            raise ZeroDivisionError
    assert capsys.readouterr().err.splitlines()[-1] == "vae  step 2/10  loss nan  psnr 20"


def test_a_terminal_gets_a_bar() -> None:
    out, clock = StringIO(), Clock()
    console = Console(file=out, force_terminal=True, force_interactive=True, width=100)
    with Progress(total=10, label="train", console=console, clock=clock) as progress:
        progress.update(1)
        clock.now += 4
        progress.update(5, loss=0.5)
    assert "step 5/10  loss 0.5  1/s  5s left" in out.getvalue() and "━" in out.getvalue()


def test_numbers_and_durations_are_short() -> None:
    numbers = [0.12345, 18.21, 1460.4, 3e-5, 123456.0, 2.5e7, 7, 60000, "bf16"]
    assert [number(n) for n in numbers] == ["0.123", "18.2", "1460", "3e-05", "123456", "2.5e+07", "7", "60000", "bf16"]
    times = [0, 45, 125, 3599.6, 4980, 270000]
    assert [duration(t) for t in times] == ["0s", "45s", "2m 05s", "1h 00m", "1h 23m", "3d 03h"]
