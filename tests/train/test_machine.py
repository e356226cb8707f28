"""Memory that is freed: kept for the next step, and handed back when told to."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from videodit.train.machine import keep_freed_memory, release

# Settings of the C library are the whole process's, so another one tries them. Blocks above 32 MiB glibc maps and
# hands back each time, if it is not told otherwise.
SCRIPT = """
import json, resource, sys, torch
from videodit.plan.machine import resident
from videodit.train.machine import keep_freed_memory, release

def cleared():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

kept = sys.argv[1] == "keep" and keep_freed_memory()
pages = [cleared() for _ in range(6)]
held = resident()
release(torch.device("cpu"))
print(json.dumps({"kept": kept, "first": pages[0], "later": min(pages), "released": held - resident()}))
"""


def tried(mode: str) -> dict[str, int]:
    done = subprocess.run([sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True, timeout=120, check=True)
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc can be told")
def test_freed_memory_is_used_again_until_it_is_released() -> None:
    plain, kept = tried("plain"), tried("keep")
    assert kept["kept"] and not plain["kept"]
    assert plain["later"] >= 32, "the system clears 64 MiB each time, page by page (of 2 MiB at most)"
    assert kept["first"] >= 32 and kept["later"] < 4, "once"
    assert kept["released"] > 2**25


AFTER = """
import torch
from videodit.plan.machine import resident
from videodit.train.machine import keep_freed_memory
from videodit.train.plan import held

keep_freed_memory()  # as the run before this one did
torch.ones(2**28)
print(resident() / 2**30, held(torch.device("cpu")) / 2**30)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc can be told")
def test_what_a_run_kept_is_free_for_the_next_in_the_same_process() -> None:
    done = subprocess.run([sys.executable, "-c", AFTER], capture_output=True, text=True, timeout=120, check=True)
    kept, counted = map(float, done.stdout.split())
    assert counted < kept - 0.9, "1 GiB was kept, and a step may take it"


def test_a_system_without_glibc_goes_on_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
    release(torch.device("cpu"))
