"""What `train` and `doctor` take from `plan.machine` under this name."""

from __future__ import annotations

from videodit.plan.machine import room, size_of  # noqa: F401
