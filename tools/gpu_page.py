"""One page of what this framework does on a GPU: `python tools/gpu_page.py [out=gpu_page.json] [seconds=480]
[scale=full] [only=kernels,models] [commit=…]`.

For one H100 or H200 and at most `seconds`; `scale=tiny` runs all of it on a CPU, as tests do. Each section is a process
of its own (tools/gpu_sections.py), in the order of what it is worth, with its share of the time that is left; one that
takes longer is stopped, and what it had measured stays. What a machine lacks (a library, memory, time) is named in a
line; a section with an error makes the exit code 1. Printed are the tables for docs/public.md; `out` holds all of it as
JSON, written anew after each section. Needed are torch, einops, numpy, safetensors, PyYAML, typing_extensions and rich;
diffusers for what is compared with it; pytest, and what tests/gpu imports (hydra, av, pydantic), for the tests. Where
there is no git, `commit=` says what is measured.
"""

from __future__ import annotations

import configparser
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata, util
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GIVEN = {"out": "gpu_page.json", "seconds": "480", "scale": "full", "only": "", "commit": ""}
SCALES = ("full", "tiny")
MODULES = {"hydra-core": "hydra", "pillow": "PIL", "huggingface_hub": "huggingface_hub"}  # where the names differ
LEAST = 5.0  # seconds under which a section is not begun


@dataclass(frozen=True)
class Section:
    """A part of the page: its name, what its table is headed, its share of the time, beside those behind it."""

    name: str
    title: str
    share: float


SECTIONS = (
    Section("tests", "Tests of tests/gpu", 5),
    Section("kernels", "Attention kernels", 3),
    Section("models", "DiT steps and VAE decoding beside diffusers", 6),
    Section("training", "Training steps", 4),
    Section("packs", "Packs beside buckets", 2),
    Section("offload", "What offloading costs", 2),
)
MEMORY = "memory"  # the table to which several sections add
MEMORY_TITLE = "Peak memory beside the plan"
MEMORY_NOTE = "What a network and its work take, without the driver's context; on a CPU less than 64 MiB says nothing."


def main(arguments: list[str]) -> int:
    """Run the sections, print their tables, write the JSON -> the exit code."""
    given = parsed(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # not without the section that runs
    ends = time.monotonic() + float(given["seconds"])
    began, page = time.monotonic(), {**about(given), "sections": []}
    print(heading(page), flush=True)
    chosen = [one for one in SECTIONS if not given["only"] or one.name in given["only"].split(",")]
    memory: list[dict[str, Any]] = []
    for place, section in enumerate(chosen):
        left = ends - time.monotonic()
        share = left * section.share / sum(one.share for one in chosen[place:])
        found = run(section, given["scale"], share)
        memory += [{"section": section.name, **row} for row in found["tables"].pop(MEMORY, [])]
        page["sections"].append({"name": section.name, "title": section.title, **found})
        print(written(page["sections"][-1]), flush=True)
        page["seconds"] = round(time.monotonic() - began, 1)
        write(Path(given["out"]), page)
    told = [] if memory else ["no section measured any"]
    page["sections"].append({"name": MEMORY, "title": MEMORY_TITLE, "state": "done", "tables": {MEMORY: memory},
                             "notes": [MEMORY_NOTE], "left_out": told, "failed": []})  # fmt: skip
    print(written(page["sections"][-1]), flush=True)
    write(Path(given["out"]), page)
    failed = [one["name"] for one in page["sections"] if one["failed"]]
    print(f"{page['seconds']:.0f} s; {'failed: ' + ', '.join(failed) if failed else 'no section failed'}", flush=True)
    return 1 if failed else 0


def parsed(arguments: list[str]) -> dict[str, str]:
    """The arguments over their defaults; an unknown or wrong one ends the process with code 2."""
    given = dict(GIVEN)
    for argument in arguments:
        key, sign, value = argument.partition("=")
        if key not in given or not sign:
            refuse(f"{argument}: it takes {', '.join(f'{known}=' for known in given)}")
        given[key] = value
    names = [one.name for one in SECTIONS]
    if given["scale"] not in SCALES:
        refuse(f"scale={given['scale']}: it is one of {', '.join(SCALES)}")
    if unknown := [one for one in given["only"].split(",") if one and one not in names]:
        refuse(f"only={unknown[0]}: the sections are {', '.join(names)}")
    if not re.fullmatch(r"\d{1,5}", given["seconds"]):
        refuse(f"seconds={given['seconds']}: a whole number of seconds")
    return given


def refuse(line: str) -> None:
    """End with a line and code 2."""
    print(line, file=sys.stderr)
    sys.exit(2)


def about(given: Mapping[str, str]) -> dict[str, Any]:
    """What the page stands on: device, driver, versions, date, commit, and libraries that are missing."""
    named = output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader").partition("\n")[0]
    device, _, driver = named.partition(", ")
    changed = "+changes" if output("git", "-C", str(ROOT), "status", "--porcelain", "-uno") else ""
    at = output("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")
    return {
        "device": device or f"CPU, {os.cpu_count()} cores, {platform.machine()}",
        "driver": driver or "none",
        "torch": version("torch"),
        "python": platform.python_version(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": given["commit"] or at + changed or "unknown",
        "scale": given["scale"],
        "missing": missing(),
    }


def version(name: str) -> str:
    """Of a library, without loading it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


def missing() -> list[str]:
    """The libraries of setup.cfg that are not installed here."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = [line for line in setup["options"]["install_requires"].splitlines() if line.strip()]
    names = [re.split(r"[^\w.-]", line.strip(), maxsplit=1)[0] for line in lines]
    return sorted(name for name in names if not installed(MODULES.get(name.lower(), name)))


def installed(module: str) -> bool:
    """Whether a module can be found, without loading it."""
    try:
        return util.find_spec(module) is not None
    except ImportError:
        return False


def output(*command: str) -> str:
    """What a command prints; nothing where it fails or is not there."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def run(section: Section, scale: str, seconds: float) -> dict[str, Any]:
    """A section in a process of its own: its state, seconds, tables, what it leaves out, what failed."""
    found: dict[str, Any] = {"state": "done", "seconds": 0.0, "tables": {}, "notes": [], "left_out": [],
                             "failed": []}  # fmt: skip
    if seconds < LEAST:
        return found | {"state": "out of time", "left_out": [f"all of it: {max(0.0, seconds):.0f} s are left for it"]}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        rows, errors = Path(folder) / "rows.jsonl", Path(folder) / "errors"
        rows.touch()
        program = str(ROOT / "tools" / "gpu_sections.py")
        command = [sys.executable, program, section.name, scale, str(seconds), str(rows)]
        with errors.open("w") as stderr:
            child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=stderr,
                                     start_new_session=True)  # fmt: skip
            try:
                code = child.wait(timeout=seconds)
            except subprocess.TimeoutExpired:
                code = None
                found["state"] = "out of time"
                found["left_out"].append(f"what is not in the table: its {seconds:.0f} s were used up")
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        collect(rows, found)
        if code:
            lines = [line for line in errors.read_text(errors="replace").splitlines() if line.strip()]
            found["failed"].append(f"exit code {code}: {lines[-1][:300] if lines else 'it said nothing'}")
    found["seconds"] = round(time.monotonic() - began, 1)
    found["state"] = "failed" if found["failed"] else found["state"]
    return found


def collect(file: Path, found: dict[str, Any]) -> None:
    """Take in what a section wrote, line by line. A row replaces one whose first value is the same."""
    tables: dict[str, dict[str, dict[str, Any]]] = {}
    for line in file.read_text().splitlines():
        try:
            kind, name, value = json.loads(line)
        except ValueError:  # half a line of a process that was stopped
            continue
        if kind == "row":
            tables.setdefault(name, {})[str(next(iter(value.values())))] = value
        else:
            found[kind].append(value)
    found["tables"] = {name: list(rows.values()) for name, rows in tables.items()}


def heading(page: Mapping[str, Any]) -> str:
    """The lines above the tables."""
    lines = [f"{page['device']}, driver {page['driver']}, torch {page['torch']}, Python {page['python']}",
             f"{page['date']}, commit {page['commit']}, scale {page['scale']}"]  # fmt: skip
    if page["missing"]:
        lines.append(f"missing libraries: {', '.join(page['missing'])}")
    return "\n\n".join(lines) + "\n"


def written(section: Mapping[str, Any]) -> str:
    """A section as Markdown."""
    lines = [f"### {section['title']}", ""]
    for rows in filter(None, section["tables"].values()):
        columns = list(dict.fromkeys(column for row in rows for column in row))
        lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        lines += [f"| {' | '.join(cell(row.get(column)) for column in columns)} |" for row in rows] + [""]
    lines += [f"{line}\n" for line in section["notes"]]
    lines += [f"Failed: {line}\n" for line in section["failed"]]
    lines += [f"Left out: {line}\n" for line in section["left_out"]]
    return "\n".join(lines)


def cell(value: Any) -> str:
    """A value of a table: numbers with three digits."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "–" if value is None else str(value).replace("|", "/")


def write(path: Path, page: Mapping[str, Any]) -> None:
    """The JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    other = path.with_name(path.name + ".part")
    other.write_text(json.dumps(page, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    other.replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
