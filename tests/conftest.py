"""What every test run has: no network, and in CI no test file that only skips."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import Browser, find
from videodit.cli.messages import spoken

# Before any test imports a library that reads them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:  # threads of workers that share cores wait for each other: twice the time
    os.environ.setdefault("OMP_NUM_THREADS", "1")


class SkippedFiles:
    """Fails a run in which some file's tests were all skipped: such a file would pass for ever, testing nothing."""

    def __init__(self) -> None:
        self.outcomes: dict[str, set[str]] = defaultdict(set)

    @pytest.hookimpl
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self.outcomes[report.nodeid.split("::")[0]].add("skipped")

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped or report.when == "call":
            self.outcomes[report.nodeid.split("::")[0]].add(report.outcome)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        only_skipped = self.only_skipped()
        if only_skipped and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for file in self.only_skipped():
            terminalreporter.write_line(f"FAILED {file}: every test in it was skipped", red=True)

    def only_skipped(self) -> list[str]:
        """The files of which nothing ran."""
        return sorted(file for file, seen in self.outcomes.items() if seen == {"skipped"})


def pytest_configure(config: pytest.Config) -> None:
    """Skips count as failures in CI only: on a laptop a missing library is no fault. Only tests for GPUs see them."""
    if "gpu" not in config.getoption("markexpr").replace("not gpu", ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a background job of a script ignores what tests send
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.get("CI"):
        config.pluginmanager.register(SkippedFiles(), "skipped-files")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is remembered from run to run stays out of the home directory."""
    os.environ["VIDEODIT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def messages() -> Iterator[None]:
    """What the library says is on stderr, as on the command line."""
    with spoken():
        yield


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def binary(request: pytest.FixtureRequest) -> Path:
    """A browser, fetched once into pytest's cache folder where none is installed."""
    try:
        return find(Path(request.config.cache.mkdir("chromium")))
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture
def browser(binary: Path) -> Iterator[Browser]:
    with Browser(binary, (1400, 1000)) as opened:
        yield opened
