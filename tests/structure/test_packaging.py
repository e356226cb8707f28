"""What pip would install is what the checkout has: the package list, the wheel's contents, the wheel itself in use."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.structure.source import ROOT

PRESCRIBED = "torch xformers transformers diffusers decord av einops hydra-core wandb".split()
JUNK = {"__pycache__", ".DS_Store"}


def _setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def _shipped_files() -> set[str]:
    """The files of the checkout that a wheel must hold, by their path inside it."""
    places = {"videodit": ("videodit", "*.py"), "conf": ("videodit/conf", "*.yaml"), "data": ("videodit/assets", "*")}
    found = set()
    for folder, (inside, pattern) in places.items():
        for path in (ROOT / folder).rglob(pattern):
            if path.is_file() and not JUNK & set(path.parts) and not path.name.startswith("."):
                found.add(f"{inside}/{path.relative_to(ROOT / folder).as_posix()}")
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources, so that a stale build/ of the checkout has no say in it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for folder in ("videodit", "conf", "data"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns(*JUNK))
    for file in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", out, source]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder with the wheel installed below it in `site`."""
    folder = tmp_path_factory.mktemp("elsewhere")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder / "site", wheel]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def _videodit(folder: Path, *args: str) -> str:
    """Run the installed wheel in `folder`; it must be the wheel, not the checkout, that answers."""
    code = "import sys; sys.path.insert(0, 'site'); from videodit.cli.main import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-P", "-c", code, *args], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_package_on_disk_is_listed() -> None:
    options = _setup()["options"]
    listed = set(options["packages"].split())
    on_disk = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "videodit").rglob("__init__.py")}
    assert listed == on_disk | {"videodit.conf", "videodit.assets"}
    orphans = {p.parent for p in (ROOT / "videodit").rglob("*.py")} - {
        p.parent for p in (ROOT / "videodit").rglob("__init__.py")
    }
    assert not orphans, f"no __init__.py in {orphans}"


def test_prescribed_libraries_are_declared() -> None:
    setup = _setup()
    declared = setup["options"]["install_requires"] + "\n" + "\n".join(setup["options.extras_require"].values())
    names = {re.split(r"[^\w-]", line.strip())[0] for line in declared.splitlines()}
    assert set(PRESCRIBED) <= names


def test_every_requirement_is_pinned() -> None:
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    pinned = {pin.partition("==")[0].lower() for pin in pins}
    setup = _setup()
    needed = setup["options"]["install_requires"] + "\n" + setup["options.extras_require"]["test"]
    names = {re.split(r"[^\w-]", line.strip())[0].lower() for line in needed.splitlines() if line.strip()}
    assert names - {"setuptools"} <= pinned


def test_the_wheel_holds_what_the_checkout_has(wheel: Path) -> None:
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert inside == _shipped_files()
    assert wheel.stat().st_size < 60e6  # at most 40 MB of weights


def test_the_wheel_runs_in_an_empty_folder(elsewhere: Path) -> None:
    assert "generate" in _videodit(elsewhere, "--help")
    told = _videodit(elsewhere, "info")
    assert str(elsewhere / "site" / "videodit" / "conf") in told
    assert str(elsewhere / "site" / "videodit" / "assets") in told
    assert "prompt: a red ball" in _videodit(elsewhere, "generate", "a red ball", "--cfg")


def test_the_wheel_generates(elsewhere: Path) -> None:
    _videodit(elsewhere, "generate", "a large red ball", "out=ball.mp4", "size=64x64", "frames=5", "steps=2")
    assert "a large red ball" in _videodit(elsewhere, "info", "ball.mp4")


def test_the_ignore_file_hides_no_source() -> None:
    sources = ("data/toy.safetensors", "videodit/data/sample.py", "videodit/toy/world.py", "conf/data/toy.yaml")
    command = ["git", "check-ignore", "--no-index", *sources]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout == ""


def test_experiments_state_command_hardware_hours_and_result() -> None:
    for path in (ROOT / "conf" / "experiment").glob("*.yaml"):
        header = re.match(r"(#.*\n)*", path.read_text(encoding="utf-8"))
        for word in ("command", "hardware", "hours", "result"):
            assert header and re.search(rf"^# {word}: +\S", header[0], re.MULTILINE), f"{path.name}: no '# {word}: …'"


def test_every_dependency_has_a_least_version() -> None:
    """An old release may have a fault that is mended since: fsspec's once ran what a file's templates said."""
    setup = _setup()
    extras = setup["options.extras_require"]
    lines = [setup["options"]["install_requires"], *(extras[name] for name in extras)]
    found = [line for text in lines for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert len(found) > 30
    for line in found:
        assert ">=" in line.partition(";")[0], line
