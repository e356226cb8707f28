"""What a check found, and the page of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "FAULT", "unknown"]


@dataclass(frozen=True)
class Finding:
    """One check: its name, its verdict ("unknown": it cannot tell), what it measured, and the fault if it is one."""

    name: str
    verdict: Verdict
    told: str


def judged(name: str, good: bool, told: str, fault: str = "") -> Finding:
    """A finding; `fault` is added to what is told if it is one."""
    return Finding(name, "ok" if good else "FAULT", told if good or not fault else f"{told}: {fault}")


def faults(findings: Sequence[Finding]) -> list[str]:
    """Names of the checks that found one."""
    return [finding.name for finding in findings if finding.verdict == "FAULT"]


def page(title: str, findings: Sequence[Finding], seconds: float) -> str:
    """The verdict as text."""
    width = max(len(finding.name) for finding in findings)
    lines = [f"{finding.verdict:8}{finding.name:{width}}  {finding.told}" for finding in findings]
    wrong = faults(findings)
    count = f"{len(wrong)} of {len(findings)} checks found a fault: {', '.join(wrong)}"
    verdict = count if wrong else "nothing is wrong"
    return "\n".join([title, "", *lines, "", f"{verdict} ({seconds:.0f} s)"])
