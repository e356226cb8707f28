"""Data whose every conditional mean is known, so that the perfect network is a formula."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from videodit.flow.path import Path, Velocity


@dataclass(frozen=True)
class Gaussian:
    """x0 ~ N(mean, spread²), every element for itself."""

    mean: float = 0.7
    spread: float = 0.4

    def moments(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of x_t."""
        alpha, sigma = path.coefficients(t)
        return alpha * self.mean, (alpha**2 * self.spread**2 + sigma**2).sqrt()

    def best(self, path: Path, x: Tensor, t: Tensor) -> Tensor:
        """E[target | x_t], of the path's kind of prediction."""
        (alpha, sigma), (mean, deviation) = path.coefficients(t), self.moments(path, t)
        surprise = (x - mean) / deviation**2
        return path.target(self.mean + alpha * self.spread**2 * surprise, sigma * surprise, t)

    def network(self, path: Path) -> Velocity:
        """`best` as the function of lists that samplers see."""
        return lambda x, t: [self.best(path, xi, ti) for xi, ti in zip(x, t, strict=True)]

    def transported(self, path: Path, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Where the probability flow takes x: it stays as many deviations from the mean as it was."""
        (m0, d0), (m1, d1) = self.moments(path, start), self.moments(path, end)
        return m1 + d1 * (x - m0) / d0


@pytest.fixture
def gaussian() -> Gaussian:
    return Gaussian()


@pytest.fixture
def noise() -> Callable[..., Tensor]:
    def seeded(*shape: int, seed: int = 0) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    return seeded
