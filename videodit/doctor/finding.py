"""What a check found, as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

NAMES = 32  # letters of a check's name

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


def line(finding: Finding) -> str:
    """A finding as a line of text."""
    return f"{finding.verdict:8}{finding.name:{NAMES}}  {finding.told}"


def verdict(findings: Sequence[Finding], seconds: float) -> str:
    """All of them in a sentence."""
    wrong, unsure = faults(findings), [finding.name for finding in findings if finding.verdict == "unknown"]
    told = f"{len(wrong)} of {len(findings)} checks found a fault: {', '.join(wrong)}" if wrong else "nothing is wrong"
    left = f"; not told: {', '.join(unsure)}" if unsure else ""
    return f"{told}{left} ({seconds:.0f} s)"
