"""The report: every number of a real run has a chart, names are explained, and nothing in a folder breaks the page."""

from __future__ import annotations

import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.train import tiny
from videodit.cli.main import main
from videodit.config import assets_dir
from videodit.track.charts import Axis, Line, chart, latest, short, ticks
from videodit.track.curves import read
from videodit.track.jsonl import Jsonl, records
from videodit.track.names import GROUPS, METRICS, PROMPTS, find, is_family
from videodit.track.story import busy, tell

HOSTILE = "<script>alert(1)</script> \"a\" & 'b'"
NUMBER = r"-?\d+(?:\.\d+)?"
PATH = re.compile(rf"(?:[ML]{NUMBER} {NUMBER}|[HV]{NUMBER}|v{NUMBER})*")


class Page(HTMLParser):
    """What is in a page: tags with their attributes, and all text. Fails on tags that do not match."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text = ""
        self.charts: dict[str, list[tuple[str, dict[str, str]]]] = {}  # by metric: the tags inside
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert not self.open

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        found = (tag, dict(attributes))
        if "data-metric" in found[1]:
            self.charts[found[1]["data-metric"]] = []
        self.tags.append(found)
        if self.charts:
            list(self.charts.values())[-1].append(found)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: Any) -> None:
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def lines(self, metric: str) -> list[dict[str, str]]:
        """The curves of a chart, those in its legend left out."""
        paths = [a for tag, a in self.charts[metric] if tag == "path" and a.get("class", "").startswith("line run")]
        return [path for path in paths if "H" not in path["d"]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of six steps that was resumed in the middle, with a prompt and a clip that mean harm."""
    folder = tmp_path_factory.mktemp("report")
    prompt = json.dumps(HOSTILE)
    made = [*tiny.COMMAND, f"vae_from={tiny.saved_vae(folder)}", f"cache={folder / 'cache'}", "workers=0",
            f"samples.prompts=[{prompt},a large red ball rolls right]", f"run_dir={folder / 'run'}",
            "name=tiny"]  # fmt: skip
    for steps in (3, 6):
        assert main(["train", *made, f"loop={{steps: {steps}, save_every: 3, sample_every: 3, log_every: 1}}"]) == 0
    skipped = [{"step": 1, "path": f"clips/{HOSTILE}{n}.mp4", "reason": f"torn: {HOSTILE}"} for n in range(7)]
    (folder / "run" / "skipped.jsonl").write_text("".join(json.dumps(line) + "\n" for line in skipped) + '{"step": 2')
    return folder / "run"


@pytest.fixture(scope="module")
def vae_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of a VAE, with a critic."""
    folder = tmp_path_factory.mktemp("vae")
    critic = "critic={_target_: videodit.models.critic.PatchCritic, base: 4, layers: 2}"
    crop = "crops.crops=[{_target_: videodit.data.batches.Crop, frames: 5, height: 32, width: 32, weight: 1.0}]"
    made = ["vae_loss.structure=0.1", critic, crop, "crops.pixels=11000", "workers=0", f"run_dir={folder}"]
    loop = "loop={steps: 2, save_every: 2, sample_every: 2, log_every: 1}"
    assert main(["train", *tiny.VAE_COMMAND, *made, loop]) == 0
    return folder


def report(run: Path, out: Path, *more: str) -> Page:
    """The page of a run."""
    assert main(["report", str(run), f"out={out}", *more]) == 0
    return Page(out)


def check_lines(page: Page) -> None:
    """All that is drawn is finite and inside the drawing."""
    for tag, attributes in page.tags:
        if tag == "path":
            assert PATH.fullmatch(attributes["d"]), attributes["d"]
            for x, y in re.findall(rf"[ML]({NUMBER}) ({NUMBER})", attributes["d"]):
                assert 0 <= float(x) <= 400 and 0 <= float(y) <= 210
        places = [float(attributes[key]) for key in ("x", "y", "cx", "cy") if key in attributes]
        assert all(-1 <= place <= 400 for place in places)


def test_what_is_recorded_is_in_the_table_and_on_the_page(run: Path, vae_run: Path, tmp_path: Path) -> None:
    seen = {"skipped clips/"}
    for folder in (run, vae_run):
        page, names = report(folder, tmp_path / "page.html"), read(folder)
        seen |= set(page.charts)
        assert all(find(name) for name in names), [name for name in names if not find(name)]
        assert {find(name).name for name in names} == set(page.charts)
        check_lines(page)
        for name in page.charts:
            lines = page.lines(name)
            assert len(lines) == sum(find(found).name == name for found in names)
            assert all("M" in line["d"] for line in lines)
    assert seen == {metric.name for metric in METRICS}  # the table explains nothing that is not recorded


def test_the_table_is_sound(checkout: Path) -> None:
    told = (checkout / "docs" / "training.md").read_text(encoding="utf-8")
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert metric.group in GROUPS and metric.meaning.endswith(".") and metric.title
        name = f"{metric.name}…" if is_family(metric) else metric.name
        assert f"| `{name}` | {metric.unit} | {metric.meaning} |" in told, metric.name
    assert find("loss/t0-0.25").name == "loss/t" and find("loss/tokens 8-15").name == "loss/tokens "
    assert find("heldout/loss/3x4x4").name == "heldout/loss/" and find("heldout/loss").name == "heldout/loss"
    assert find("losses") is None and find("heldout") is None


def test_the_page_is_whole_safe_and_alone(run: Path, tmp_path: Path) -> None:
    page = report(run, tmp_path / "page.html")
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "base"}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    sources = [attributes[key] for _, attributes in page.tags for key in ("src", "href") if key in attributes]
    assert sources and all(source.startswith(("data:", "#")) for source in sources)
    assert "http:" not in page.source and "https:" not in page.source and "url(" not in page.source
    assert page.text.count(HOSTILE) == 7  # the prompt, the reason, five of seven files
    assert "and 2 more" in page.text and "Skipped clips (7)" in page.text
    videos = [attributes for tag, attributes in page.tags if tag == "video"]
    assert len(videos) == 4 and all(video["src"].startswith("data:video/mp4;base64,") for video in videos)
    assert "complete" in page.text and "step 3" in page.text and "Contact sheet of step 6" in page.text
    origin = json.loads((run / "config.json").read_text())["origin"]
    assert origin["versions"]["torch"] in page.text and (origin["git"] or {"commit": ""})["commit"] in page.text
    assert "ToyWorld" in page.text and '"clip_norm": 1.0' in page.text


def test_samples_stand_in_every_record_with_their_prompts(run: Path) -> None:
    tables = [(record["step"], record[PROMPTS]) for record in records(run / "metrics.jsonl") if PROMPTS in record]
    assert [step for step, _ in tables] == [3, 6]
    assert tables[1][1]["columns"] == ["prompt", "file"]
    assert [row[0] for row in tables[1][1]["rows"]] == [HOSTILE, "a large red ball rolls right"]
    assert all((run / row[1]).is_file() for _, table in tables for row in table["rows"])


def test_runs_and_references_are_drawn_beside(run: Path, vae_run: Path, tmp_path: Path, capsys: Any) -> None:
    alone = report(run, tmp_path / "alone.html")
    assert len(alone.lines("loss")) == 1
    two = report(run, tmp_path / "two.html", f"compare={vae_run}")
    assert [line["class"] for line in two.lines("loss")] == ["line run1", "line run0"]  # its own on top
    assert len({line["d"] for line in two.lines("loss")}) == 2
    three = report(run, tmp_path / "three.html", f"compare={vae_run},{run}", "reference=toy_smoke")
    assert [line["class"][-1] for line in three.lines("loss")] == ["3", "2", "1", "0"]
    assert "reference (toy_smoke)" in three.text
    check_lines(three)
    named = tmp_path / "named"
    with Jsonl(path=named / "metrics.jsonl") as tracker:
        tracker.start({"name": "toy_smoke"}, 0)
        tracker.scalars(1, {"loss": 2.0})
    assert len(report(named, tmp_path / "named.html").lines("loss")) == 2  # its own reference, unasked
    capsys.readouterr()
    shipped = sorted(path.stem for path in (assets_dir() / "curves").glob("*.json"))
    for wrong, words in (
        ([str(tmp_path / "no")], "no: no run folder, for it has no metrics.jsonl"),
        ([], "path: which run?"),
        ([str(run), "reference=magic"], f"reference=magic: not among {', '.join(shipped)}"),
        ([str(run), f"compare={tmp_path / 'gone'}"], "gone: no run folder"),
        ([str(run), f"out={tmp_path}"], "is a folder"),
    ):
        assert main(["report", *wrong]) == 2
        assert words in capsys.readouterr().err


def test_numbers_that_are_not_finite_leave_gaps(tmp_path: Path) -> None:
    values = {
        "loss": [1.0, math.nan, 2.0, math.inf, -math.inf, 3.0],
        "gradient norm": [math.nan] * 6,
        "kl": [0.0] * 6,
        "psnr": [-1e300, 1e300, 1e-300, 5.0, 6.0, 7.0],
        "power": [1e-9, 1e9, 1.0, 2.0, 3.0, 4.0],
        f"own/{HOSTILE}": [2.0] * 6,
        "own/\ud800 ²": [1.0] * 6,
    }
    with Jsonl(path=tmp_path / "metrics.jsonl") as tracker:
        tracker.start({}, 0)
        for step in range(6):
            tracker.scalars(step, {name: numbers[step] for name, numbers in values.items()})
    page = report(tmp_path, tmp_path / "report.html")
    check_lines(page)
    assert page.lines("loss")[0]["d"].count("M") == 3 and page.lines("gradient norm")[0]["d"] == ""
    assert "not finite" in page.text and f"own/{HOSTILE}" in page.charts
    assert (tmp_path / "metrics.jsonl").exists() and tell(tmp_path).step == 5


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    assert "No numbers" in report(tmp_path, tmp_path / "report.html").text
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "time": 5.0, "loss": 1.0}\n{"step": 2, "ti')
    page = report(tmp_path, tmp_path / "report.html")
    assert len(page.lines("loss")) == 1 and "at step 1" in page.text


def test_large_media_are_linked_from_where_the_page_lies(run: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("videodit.track.page.EMBED", 10)
    page = report(run, tmp_path / "deep" / "page.html")
    sources = [attributes["src"] for tag, attributes in page.tags if tag in ("video", "img")]
    assert len(sources) == 6 and all(((tmp_path / "deep") / source).resolve().is_file() for source in sources)


def test_pauses_are_no_training_time() -> None:
    assert busy([]) == busy([5.0]) == 0
    assert busy([0.0, 10.0, 20.0, 9000.0, 9010.0]) == 30
    assert busy([0.0, 3600.0, 7200.0]) == 7200  # records that are always an hour apart


def test_axes_have_round_numbers() -> None:
    assert ticks(Axis(0, 1, 0, 1), 5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert ticks(Axis(0.01, 100, 0, 1, log=True), 5) == pytest.approx([0.01, 0.1, 1, 10, 100])
    assert ticks(Axis(0.4, 6, 0, 1, log=True), 5) == pytest.approx([0.5, 1, 2, 5])
    assert [short(x) for x in (0.12345, 1.0, 1.0023, 1460.2, 25000, 1.25e6, 3e-5, math.nan)] == [
        "0.123", "1", "1.00", "1460", "25k", "1.25M", "3e-05", "nan"
    ]  # fmt: skip


def test_long_curves_are_thinned_and_jagged_ones_smoothed() -> None:
    steps = np.arange(20000)
    noise = np.random.default_rng(0).standard_normal(20000) + 5
    drawn = chart([Line("a", steps, noise, 0)], title="a", log=False)
    assert 'class="raw"' in drawn and len(drawn) < 30000 and drawn.count('class="stop"') == 60
    assert 'class="raw"' not in chart([Line("a", steps, steps // 1000, 0)], title="a", log=False)
    assert latest(noise) == pytest.approx(5, abs=0.3) and latest(steps) == 19999
    assert max(map(len, re.findall(r' d="([^"]*)"', drawn))) < 401 * 14


def test_a_run_says_what_time_it_took(tmp_path: Path) -> None:
    """Its own count, and what came after its last record of that; a run of an older version by its records."""
    lines = [{"step": 5, "time": 900.0, "seconds": 40.0}, {"step": 10, "time": 90_000.0, "seconds": 80.0},
             {"step": 10, "time": 90_003.0, "heldout/loss": 1.0}]  # fmt: skip
    for name, kept in (("new", lines), ("old", [{k: v for k, v in line.items() if k != "seconds"} for line in lines])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    assert tell(tmp_path / "new").seconds == 83 and tell(tmp_path / "old").seconds == 3 + 89_100


def test_runs_are_compared_by_numbers_keys_and_samples(run: Path, vae_run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    config = json.loads((other / "config.json").read_text())
    config |= {"seed": HOSTILE, "name": "other", "run_dir": "elsewhere"}
    config["optim"]["warmup"] = 77
    (other / "config.json").write_text(json.dumps(config))
    page = report(run, tmp_path / "two.html", f"compare={other}")
    found = dict(re.findall(r'<h2 id="([^"]+)">[^<]*</h2>(.*?)(?=<h2|<footer)', page.source, re.DOTALL))
    numbers, keys, samples = (found[name] for name in ("final-numbers", "config-keys-that-differ",
                                                       "last-samples-side-by-side"))  # fmt: skip
    loss = short(latest(read(run)["loss"][1]))
    assert f"<td>Loss</td><td>{loss}</td><td>{loss}</td>" in numbers and "<td>Steps</td><td>6</td><td>6</td>" in numbers
    assert re.findall(r"<tr><td>([^<]+)</td>", keys) == ["optim.warmup", "seed"] and "<td>77</td>" in keys
    assert samples.count("<video") == 4 and samples.count("other, step 6") == 2 and "step 3" not in samples
    assert "<script" not in page.source and page.text.count(HOSTILE) >= 8
    same = report(run, tmp_path / "same.html", f"compare={run}")
    assert "None: the configs are the same." in same.text
    unlike = report(
        run, tmp_path / "unlike.html", f"compare={vae_run},{other / 'metrics.jsonl'}", "reference=toy_smoke"
    )
    assert "Held-out reconstruction (dB)" in unlike.text and "stage" in unlike.text
    assert len([tag for tag, a in unlike.tags if tag == "img" and a["alt"].startswith("samples of")]) == 2
    check_lines(unlike)
