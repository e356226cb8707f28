"""Numbers of the training loop."""

from __future__ import annotations

from dataclasses import dataclass

from videodit.errors import InputError

FEW, SPARSE = 50, 20  # records of a short run, and steps between those of a long one


@dataclass(frozen=True)
class Settings:
    """Numbers of the loop. Raises InputError, naming the key, for one that makes no sense.

    steps: how many in all. clip_norm: gradient norm above which gradients are scaled down.
    max_bad: consecutive steps with a non-finite loss or gradient after which the run stops.
    *_every: steps between records, checkpoints and samples; log_every may be None: FEW records of a short run, and
    at most SPARSE steps between those of a long one. matmul_rate: the machine's flops a second, 0 if unknown.
    """

    steps: int
    clip_norm: float
    max_bad: int
    log_every: int | None
    save_every: int
    sample_every: int
    matmul_rate: float

    def __post_init__(self) -> None:
        for name in ("steps", "max_bad", "log_every", "save_every", "sample_every"):
            value = getattr(self, name)
            if name == "log_every" and value is None:
                continue
            if not isinstance(value, int) or value < 1:
                raise InputError(f"loop.{name}={value}: must be a whole number, at least 1")
        if not isinstance(self.clip_norm, int | float) or not self.clip_norm > 0:
            raise InputError(f"loop.clip_norm={self.clip_norm}: must be a number above 0")

    def is_logged(self, step: int) -> bool:
        """Whether this many steps end with a record; the last ones do."""
        every = self.log_every or min(SPARSE, max(1, self.steps // FEW))
        return step % every == 0 or step == self.steps
