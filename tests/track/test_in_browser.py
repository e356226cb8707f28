"""What a person sees: the report and TensorBoard's page of a real run, opened in a real browser."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.browser import Browser
from tests.train import tiny
from videodit.cli.main import main
from videodit.track.curves import read

pytestmark = pytest.mark.slow

# Elements in shadow roots too, which TensorBoard's page is made of.
DEEP = """(() => { const found = [], walk = node => { for (const one of node.querySelectorAll('*')) {
    found.push(one); if (one.shadowRoot) walk(one.shadowRoot) } }; walk(document); return found })()"""
CURVES = DEEP + ".filter(one => one.matches('path.line') && (one.getAttribute('d') || '').length > 20).length"
FIRST = "document.querySelector('.card > svg')"
DRAWN = "[...document.querySelectorAll('.card > svg .line')].filter(one => one.getTotalLength() > 20).length"
PLAYING = "[...document.querySelectorAll('video')].every(one => one.readyState >= 2 && one.videoWidth > 0)"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of a few steps, with TensorBoard."""
    folder = tmp_path_factory.mktemp("browser")
    made = [f"vae_from={tiny.saved_vae(folder)}", f"cache={folder / 'cache'}", "workers=0", "tracker=tensorboard"]
    loop = "loop={steps: 8, save_every: 8, sample_every: 4, log_every: 1}"
    assert main(["train", *tiny.COMMAND, *made, loop, f"run_dir={folder / 'run'}"]) == 0
    return folder / "run"


def colours(path: Path, box: tuple[int, int, int, int] | None = None) -> int:
    """How many colours a picture has, or the part of it in (left, top, right, bottom)."""
    with Image.open(path) as image:
        return len(image.convert("RGB").crop(box or (0, 0, *image.size)).getcolors(1 << 24))


def test_the_report_opens_from_a_file_and_shows_its_curves(run: Path, browser: Browser, tmp_path: Path) -> None:
    assert main(["report", str(run), f"out={tmp_path / 'page.html'}"]) == 0
    browser.open((tmp_path / "page.html").as_uri())
    assert browser.js(DRAWN) == len(read(run))
    browser.wait(PLAYING)
    pictures = {}
    for dark in (False, True):
        browser.dark(dark)
        pictures[dark] = browser.screenshot(tmp_path / f"page-{dark}.png")
        box = browser.js(f"(r => [r.left, r.top, r.right, r.bottom])({FIRST}.getBoundingClientRect())")
        assert colours(pictures[dark], tuple(map(int, box))) > 30  # a line, its soft edges, text
    with Image.open(pictures[False]) as light, Image.open(pictures[True]) as night:
        assert min(light.getpixel((2, 2))) > 200 and max(night.getpixel((2, 2))) < 60
    assert not browser.js("document.documentElement.scrollWidth > innerWidth")
    browser.resize(390, 800)  # a phone
    assert not browser.js("document.documentElement.scrollWidth > innerWidth")
    assert {url.partition(":")[0] for url in browser.requested} <= {"file", "data", "about"} and not browser.wrong


@pytest.fixture
def tensorboard(run: Path) -> Iterator[str]:
    """The address of a TensorBoard that has read the run."""
    pytest.importorskip("tensorboard")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(run / "tensorboard"), "--port", str(port)]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen([*command, "--host", "127.0.0.1"], **quiet)
    try:
        address, tags, until = f"http://127.0.0.1:{port}", {}, time.monotonic() + 60
        while not tags:
            assert server.poll() is None and time.monotonic() < until
            time.sleep(0.2)
            try:
                with urllib.request.urlopen(f"{address}/data/plugin/scalars/tags", timeout=5) as answer:
                    tags = json.load(answer)
            except OSError:
                continue
        yield address
    finally:
        server.terminate()
        server.wait(10)


def test_tensorboard_shows_its_curves(run: Path, tensorboard: str, browser: Browser, tmp_path: Path) -> None:
    browser.open(f"{tensorboard}/#scalars&tagFilter=%5E(loss%7Clr)&_smoothingWeight=0")  # it shows twelve at once
    count = len([name for name in read(run) if name.startswith(("loss", "lr"))])
    assert 6 <= count <= 12
    browser.wait(f"{CURVES} >= {count}", timeout=60)
    time.sleep(1)  # the last frames of the drawing
    assert colours(browser.screenshot(tmp_path / "scalars.png")) > 100
