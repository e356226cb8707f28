"""The page of an ingest: complete in itself, true to what happened, and seen in a real browser."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.browser import Browser
from tests.data.test_interlaced import made
from tests.data.test_video_times import broken
from videodit.cli.main import main
from videodit.data import video
from videodit.data.sample import INTERLACED
from videodit.ingest.bars import BINS, histogram


def test_a_histogram_counts_everything_once() -> None:
    rng = np.random.default_rng(0)
    kept, gone = rng.normal(0, 1, 100), [*rng.normal(3, 1, 50), float("nan"), float("inf")]
    drawn = histogram(kept, gone, (None, 2.0))
    told = [title.split(",")[0].split() for title in drawn.split("<title>")[1:] if "bound" not in title[:5]]
    assert sum(int(count) for count, word in told if word == "kept") == 100
    assert sum(int(count) for count, word in told if word == "dropped") == 50
    assert drawn.count("<rect") == len(told) <= 2 * BINS and drawn.count('class="bound"') == 1
    assert "nothing was measured" in histogram([], [], ())
    assert histogram([1.0], [], ()).count("<rect") == 1


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two videos, one of them twice in another size, one too short, one that is none, and a damaged one."""
    folder = tmp_path_factory.mktemp("page")
    for number, (frames, size) in enumerate([(16, 16), (16, 16), (2, 16), (16, 12)]):
        noise = np.random.default_rng(number % 3).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        picture = np.kron(noise, np.ones((size, size, 1), np.uint8))
        moving = np.stack([np.roll(picture, size * t // 8, axis=1) for t in range(frames)])
        video.write(folder / "in" / f"{number}.mp4", moving, 8.0)
    (folder / "in" / "0.txt").write_text("a <b>caption</b> & more")
    (folder / "in" / "broken <i>.mp4").write_bytes(b"nothing")
    broken(folder / "in" / "damaged & torn.mkv", {3, 7})
    assert main(["ingest", str(folder / "in"), f"out={folder / 'set'}", "dry_run=true"]) == 0
    return folder / "set" / "dry_run.html"


def test_a_dry_run_writes_a_page_and_no_set(report: Path) -> None:
    assert sorted(path.name for path in report.parent.iterdir() if path.name[0] != ".") == ["dry_run.html"]
    text = report.read_text()
    assert "dry run" in text and "Nothing was lost in silence" in text
    assert "frames are repeated" not in text
    assert "6 seen, 5 kept" in text and "1 seconds below 0.5" in text and "1 a near-duplicate of a better one" in text
    assert "&lt;b&gt;caption&lt;/b&gt; &amp; more" in text and "<b>caption" not in text and "broken <i>" not in text
    assert 'damaged &amp; torn.mkv</td><td class="texts">2</td>' in text
    assert "&quot;heldout_share&quot;: 0.05" in text
    assert text.count("data:image/jpeg;base64,") >= 5 and "http" not in text.replace("http-equiv", "")


def test_frames_that_are_repeated_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    picture = np.kron(noise, np.ones((16, 16, 1), np.uint8))
    video.write(tmp_path / "in" / "a.mp4", np.stack([np.roll(picture, 2 * t, axis=1) for t in range(16)]), 8.0)
    command = ["ingest", str(tmp_path / "in"), "dry_run=true"]
    assert main([*command, f"out={tmp_path / 'set'}", "shape.fps=24"]) == 0
    told = "3 of 3 clips have a rate above their file's own, so frames are repeated"
    assert told in capsys.readouterr().out
    assert told.replace("'", "&#x27;") in (tmp_path / "set" / "dry_run.html").read_text()


def test_interlaced_clips_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    made(tmp_path / "in", "top.mp4")
    assert main(["ingest", str(tmp_path / "in"), "dry_run=true", f"out={tmp_path / 'set'}"]) == 0
    told = f"1 of 1 clips {INTERLACED}"
    assert told in capsys.readouterr().out.splitlines()
    assert told in (tmp_path / "set" / "dry_run.html").read_text()


@pytest.mark.slow
def test_in_a_browser(report: Path, browser: Browser) -> None:
    browser.open(report.as_uri())
    browser.wait("document.readyState === 'complete'")
    assert browser.js("[...document.images].length") >= 5
    assert browser.js("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
    assert browser.js("document.querySelectorAll('svg rect').length") > 10
    wide = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    for width in (1400, 500):
        browser.resize(width, 1000)
        assert browser.js(wide), f"it is wider than a window of {width} pixels"
    assert not browser.wrong and not [url for url in browser.requested if url.startswith("http")]
