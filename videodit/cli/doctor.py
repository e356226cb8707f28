"""`videodit doctor`: short checks of data, model and machine before a long run, and a verdict."""

from __future__ import annotations

import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from videodit.atomic import check_output
from videodit.config import launch
from videodit.data.video import replacing
from videodit.doctor.finding import Finding, faults, line, verdict
from videodit.doctor.page import page
from videodit.doctor.visit import Visit
from videodit.errors import InputError, Interrupted
from videodit.printable import answer
from videodit.train.settings import Doctor

BUSY = 0.5  # load beyond the cores that is nothing yet


def run(cfg: Doctor) -> None:
    """Print what each check finds as it is found, then the verdict."""
    if launch().ranks > 1:
        raise InputError("doctor is one process, and starts two by itself: call it without torchrun")
    if cfg.out:
        check_output(Path(cfg.out))
    began, title = time.perf_counter(), f"videodit doctor: {cfg.name}"
    findings: list[Finding] = []
    answer(title, "")
    if told := busy():
        answer(told)
    with TemporaryDirectory(prefix="videodit-doctor-") as scratch:
        visit = Visit(cfg, Path(scratch))
        try:
            for finding in visit.findings():
                findings.append(finding)
                answer(line(finding))
        except Interrupted as stop:
            told = f"doctor was stopped after {len(findings)} checks; nothing is kept: the same command begins again"
            raise Interrupted(told, by_hand=stop.by_hand) from None
        told = verdict(findings, time.perf_counter() - began)
        if cfg.out:
            with replacing(cfg.out) as temporary:
                temporary.write_text(page(title, findings, told, visit.pictures), encoding="utf-8")
    answer("", told)
    if wrong := faults(findings):
        raise InputError(f"{cfg.name} has {len(wrong)} fault{'s' * (len(wrong) > 1)}: {', '.join(wrong)}")


def busy() -> str:
    """A line where this machine does more than it has cores for, else nothing."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load <= cores + BUSY:
        return ""
    return f"the machine is busy (a load of {load:.1f} on {cores} cores): the times below are not to be trusted"
