"""Paths from data to noise: x_t = alpha(t)·x0 + sigma(t)·noise, with t = 0 the data and t = 1 the noise.

`RectifiedFlow` is the straight line (Liu et al. 2022). `CosineDDPM` and `LinearDDPM` are the variance-preserving path
of DDPM (Ho et al. 2020) in continuous time (Song et al. 2021): alpha² + sigma² = 1, so a rotation turns the data into
the noise. A network predicts one of three things, and each implies the other two:

    clean       x0
    noise       the noise
    velocity    noise − x0 on the line; alpha·noise − sigma·x0 on the rotation, dx/d(angle), the v of Salimans & Ho 2022

`rectified` hands any such network to the samplers. Methods take tensors of any shape, and fp64 times that broadcast to
them; coefficients are computed in fp64 and rounded to the tensors' type last.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import cos, pi
from types import MappingProxyType
from typing import Literal, get_args

import torch
from torch import Tensor

from videodit.errors import InputError

Prediction = Literal["velocity", "noise", "clean"]
Velocity = Callable[[list[Tensor], Tensor], list[Tensor]]  # (B clips of any shapes, times (B,)) -> a tensor per clip
Pair = tuple[Tensor, Tensor]

EDGE = 1e-3  # what divides by zero at t = 0 or t = 1 is evaluated this far inside instead


@dataclass(frozen=True, kw_only=True)
class Path(ABC):
    """All that the paths share. A subclass says what its coefficients are, for fp64 t in [0, 1]."""

    prediction: Prediction

    def __post_init__(self) -> None:
        if self.prediction not in get_args(Prediction):
            raise InputError(f"prediction={self.prediction!r}: expected one of {', '.join(get_args(Prediction))}")

    @abstractmethod
    def coefficients(self, t: Tensor) -> Pair:
        """(alpha, sigma)."""

    @abstractmethod
    def mixture(self, t: Tensor) -> Pair:
        """(p, q) with velocity = p·x0 + q·noise. On both paths alpha·q − sigma·p = 1."""

    @abstractmethod
    def speed(self, t: Tensor) -> Tensor:
        """dx/dt as a multiple of the velocity: 1 on the line, d(angle)/dt on the rotation."""

    @abstractmethod
    def time(self, straight: Tensor) -> Tensor:
        """The t of the point with the same sigma/alpha as the line has at time `straight`; at most 1."""

    def clip(self, t: Tensor) -> Tensor:
        """The nearest t where the prediction implies the rest: noise says nothing of x0 at 1, clean of noise at 0."""
        return t.double().clamp(EDGE * (self.prediction == "clean"), 1 - EDGE * (self.prediction == "noise"))

    def own(self, straight: Tensor) -> Tensor:
        """The fp64 t that a network is shown where the line is at the times `straight`: see `rectified`."""
        return self.clip(self.time(straight.double()))

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t between the data x0 and the noise, all of one shape."""
        return _mix(self.coefficients(t.double()), x0, noise)

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should predict where it is shown add_noise(x0, noise, t)."""
        if self.prediction == "velocity":
            return _mix(self.mixture(t.double()), x0, noise)
        return noise if self.prediction == "noise" else x0

    def split(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Pair:
        """(x0, noise) as implied by the prediction at x_t; t is clipped."""
        alpha, sigma = (c.to(x_t.dtype) for c in self.coefficients(self.clip(t)))
        if self.prediction == "noise":
            return (x_t - sigma * prediction) / alpha, prediction
        if self.prediction == "clean":
            return prediction, (x_t - alpha * prediction) / sigma
        p, q = (c.to(x_t.dtype) for c in self.mixture(self.clip(t)))
        return q * x_t - sigma * prediction, alpha * prediction - p * x_t

    def velocity(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """dx/dt = alpha'·x0 + sigma'·noise, the drift of the probability flow ODE (Song et al. 2021, eq. 13).

        On the rotations it grows like 1/√t towards the data, where it is held at its value at EDGE.
        """
        if self.prediction != "velocity":
            prediction = _mix(self.mixture(self.clip(t)), *self.split(prediction, x_t, t))
        return self.speed(self.clip(t)).to(x_t.dtype) * prediction


@dataclass(frozen=True, kw_only=True)
class RectifiedFlow(Path):
    """x_t = (1 − t)·x0 + t·noise, at constant speed."""

    def coefficients(self, t: Tensor) -> Pair:
        return 1 - t, t

    def mixture(self, t: Tensor) -> Pair:
        return -torch.ones_like(t), torch.ones_like(t)

    def speed(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def time(self, straight: Tensor) -> Tensor:
        return straight


class DDPM(Path):
    """x_t = cos(angle)·x0 + sin(angle)·noise. A subclass says how the angle grows."""

    def mixture(self, t: Tensor) -> Pair:
        alpha, sigma = self.coefficients(t)
        return -sigma, alpha


@dataclass(frozen=True, kw_only=True)
class CosineDDPM(DDPM):
    """alpha = cos(u)/cos(start), u rising evenly from `start` at t = 0 to π/2 at 1 (Nichol & Dhariwal 2021, eq. 17)."""

    start: float = pi / 2 * 0.008 / 1.008

    def coefficients(self, t: Tensor) -> Pair:
        turned = (pi / 2 - self.start) * t
        sigma2 = torch.sin(turned) * torch.sin(turned + 2 * self.start)  # cos²(start) − cos²(u), without cancellation
        return torch.cos(turned + self.start) / cos(self.start), sigma2.clamp(min=0).sqrt() / cos(self.start)

    def speed(self, t: Tensor) -> Tensor:
        t, rate = t.clamp(min=EDGE), pi / 2 - self.start
        return rate * torch.sin(self.start + rate * t) / cos(self.start) / self.coefficients(t)[1]  # −alpha'/sigma

    def time(self, straight: Tensor) -> Tensor:
        u = torch.acos(_rotated(straight) * cos(self.start))
        return ((u - self.start) / (pi / 2 - self.start)).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class LinearDDPM(DDPM):
    """d log(alpha²)/dt = −beta(t), beta a line: the VP SDE (Song et al. 2021, eq. 32, with its numbers).

    alpha(1) = 0.0066: pure noise is taken for that.
    """

    beta_start: float = 0.1
    beta_end: float = 20.0

    def coefficients(self, t: Tensor) -> Pair:
        log_alpha = -(self.beta_end - self.beta_start) * t**2 / 4 - self.beta_start * t / 2
        return log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt()

    def speed(self, t: Tensor) -> Tensor:
        t = t.clamp(min=EDGE)
        alpha, sigma = self.coefficients(t)
        return (self.beta_start + (self.beta_end - self.beta_start) * t) / 2 * alpha / sigma  # −alpha'/sigma

    def time(self, straight: Tensor) -> Tensor:
        slope, log_alpha = self.beta_end - self.beta_start, torch.log(_rotated(straight))
        return (((self.beta_start**2 - 4 * slope * log_alpha).sqrt() - self.beta_start) / slope).clamp(0, 1)


PATHS: Mapping[str, type[Path]] = MappingProxyType(
    {"rectified": RectifiedFlow, "cosine_ddpm": CosineDDPM, "linear_ddpm": LinearDDPM}
)


def rectified(path: Path, predict: Velocity) -> Velocity:
    """The network `predict`, of any path and prediction, as the straight-line velocity that samplers integrate.

    z = x/(alpha + sigma) = (1 − τ)·x0 + τ·noise with τ = sigma/(alpha + sigma): a change of scale and of clock makes
    any path the line, where dz/dτ = noise − x0 has no singular ends and an Euler step is a DDIM step (Song, Meng &
    Ermon 2021). `predict` is given x and the path's own t. A velocity on RectifiedFlow is returned as it is.
    """
    if isinstance(path, RectifiedFlow) and path.prediction == "velocity":
        return predict

    def velocity(z: list[Tensor], straight: Tensor) -> list[Tensor]:
        t = path.own(straight)
        x = [zi * sum(path.coefficients(ti)) for zi, ti in zip(z, t, strict=True)]
        halves = [path.split(*arguments) for arguments in zip(predict(x, t), x, t, strict=True)]
        return [noise - x0 for x0, noise in halves]

    return velocity


def _mix(weights: Pair, x0: Tensor, noise: Tensor) -> Tensor:
    return weights[0].to(x0.dtype) * x0 + weights[1].to(x0.dtype) * noise


def _rotated(straight: Tensor) -> Tensor:
    """alpha of the rotation where sigma/alpha = straight/(1 − straight)."""
    return (1 - straight) / torch.hypot(straight, 1 - straight)
