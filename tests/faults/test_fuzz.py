"""Files changed by chance are refused in one line or read: no traceback, no crash, no hang, no memory without end."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.faults import fuzz

EXAMPLES = 40  # of each reader; tools/fuzz.py makes thousands

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("reader", fuzz.READERS)
def test_changed_files_are_refused_in_a_line_or_read(reader: str) -> None:
    fuzz.prepare()
    seen = set()

    @seed(23)
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck),
              phases=(Phase.generate, Phase.shrink))  # fmt: skip
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        found = fuzz.outcome(reader, data)
        seen.add(found)
        assert found in ("clean", "accepted"), found

    holds()
    assert ("clean" in seen) == fuzz.READERS[reader].refuses, "were the files changed?"


def test_what_is_wrong_is_seen(tmp_path) -> None:
    """The judge itself: each kind of failure is told from what is right."""

    def wrong() -> None:
        raise KeyError("x")

    def steers() -> int:
        print("\x1b[31m")
        return 0

    def hangs() -> None:
        while True:
            pass

    def large() -> None:
        bytearray(2**29).count(1)

    kinds = {wrong: "traceback", steers: "control characters", large: "takes 0.", hangs: "hangs"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fuzz, "SECONDS", 10)
        patch.setattr(fuzz, "BYTES", 2**28)
        for number, (read, kind) in enumerate(kinds.items()):
            assert fuzz.in_a_process(read, tmp_path, tmp_path / f"told-{number}").startswith(kind)
