"""Who asks to stop is heard once, by whom it concerns; a second Ctrl-C ends the process at once."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from videodit import signals
from videodit.cli.main import main
from videodit.errors import Terminated
from videodit.signals import end, later, on_stop

ASKED = [signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize("number", ASKED)
def test_the_innermost_is_called_once(number: int) -> None:
    outer, inner, before = [], [], [signal.getsignal(one) for one in ASKED]
    with on_stop(outer.append):
        with on_stop(inner.append):
            signal.raise_signal(number)
            signal.raise_signal(number)  # a launcher's echo of it
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(number)
    assert (inner, outer) == ([number], [number])
    assert [signal.getsignal(one) for one in ASKED] == before


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_what_must_not_stay_half_done_is_done(number: int, kind: type[BaseException]) -> None:
    done = []
    with pytest.raises(KeyboardInterrupt) as told, on_stop(end):
        with later():
            signal.raise_signal(number)
            done.append("within")
        done.append("after")
    assert done == ["within"] and told.type is kind


def test_what_is_ignored_stays_so() -> None:
    """A shell ignores Ctrl-C for the background jobs of a script."""
    before, heard = signal.signal(signal.SIGINT, signal.SIG_IGN), []
    try:
        with on_stop(heard.append):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == []


def test_in_another_thread_nothing_is_heard_and_all_is_done() -> None:
    done = []

    def work() -> None:
        with on_stop(done.append), later():
            done.append("work")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == ["work"]


def test_a_second_ctrl_c_ends_it_at_once() -> None:
    """By the signal itself, so that a shell knows; the first is still being acted on."""
    code = (
        "import signal, time\nfrom videodit import signals\nsignals.ECHO = 0.0\n"
        "with signals.on_stop(lambda number: print('first', flush=True)):\n"
        "    signal.raise_signal(signal.SIGINT)\n    time.sleep(0.01)\n    signal.raise_signal(signal.SIGINT)\n"
        "    print('never')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (-signal.SIGINT, "first\n")
    assert 0 < signals.ECHO < 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_library_that_makes_another_error_of_it_hides_nothing(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As safetensors does, in whose Rust any exception of a tensor's making is a ValueError."""

    def read(_: object) -> None:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            raise ValueError("could not determine the shape of object type") from None

    monkeypatch.setattr("videodit.cli.info.run", read)
    assert main(["info"]) == code
    assert "Traceback" not in (told := capsys.readouterr().err) and "the same command begins again" in told
    monkeypatch.setattr("videodit.cli.info.run", lambda _: int("no"))
    assert main(["info"]) == 1  # a bug stays one
