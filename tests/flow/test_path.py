"""Paths: each prediction implies the others, and the drift is the path's derivative and moves Gaussians exactly."""

from __future__ import annotations

import pytest
import torch

from videodit.errors import InputError
from videodit.flow.path import CosineDDPM, LinearDDPM, RectifiedFlow, rectified
from videodit.flow.samplers import dpmpp, euler, heun, unipc
from videodit.flow.schedules import linear

PREDICTIONS = ["velocity", "noise", "clean"]
PATHS = [kind(prediction=p) for kind in (RectifiedFlow, CosineDDPM, LinearDDPM) for p in PREDICTIONS]
every_path = pytest.mark.parametrize("path", PATHS, ids=lambda p: f"{type(p).__name__}-{p.prediction}")
one_of_each = pytest.mark.parametrize("path", PATHS[::3], ids=lambda p: type(p).__name__)
T = torch.tensor([0.002, 0.1, 0.5, 0.9, 0.998], dtype=torch.float64)[:, None]


@one_of_each
def test_ends(path):
    alpha, sigma = path.coefficients(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert alpha[0] == 1 and sigma[0] == 0
    assert alpha[1] < 0.007 and sigma[1] > 0.9999  # Song's linear beta ends a little short of pure noise


@pytest.mark.parametrize("path", PATHS[3::3], ids=lambda p: type(p).__name__)
def test_ddpm_preserves_variance(path):
    alpha, sigma = path.coefficients(torch.linspace(0, 1, 101, dtype=torch.float64))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(101, dtype=torch.float64), rtol=0, atol=1e-14)


def test_cosine_is_the_papers():
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    bar = torch.cos((t + 0.008) / 1.008 * torch.pi / 2) ** 2
    torch.testing.assert_close(CosineDDPM(prediction="noise").coefficients(t)[0] ** 2, bar / bar[0])


def test_linear_is_the_limit_of_ho_et_al():
    """Their thousand discrete betas, 1e-4 to 0.02, multiply up to the same alpha."""
    alpha = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0).sqrt()
    ours = LinearDDPM(prediction="noise").coefficients(torch.arange(1, 1001, dtype=torch.float64) / 1000)[0]
    torch.testing.assert_close(ours, alpha, rtol=0, atol=2e-3)


@every_path
def test_prediction_implies_both_halves(path, noise):
    x0, eps = noise(5, 7, seed=1), noise(5, 7, seed=2)
    x = path.add_noise(x0, eps, T)
    got = path.split(path.target(x0, eps, T), x, T)
    torch.testing.assert_close(got, (x0, eps), rtol=0, atol=1e-9)


@every_path
def test_velocity_is_the_derivative_of_the_path(path, noise):
    x0, eps, h = noise(5, 7, seed=1), noise(5, 7, seed=2), 1e-7
    slope = (path.add_noise(x0, eps, T + h) - path.add_noise(x0, eps, T - h)) / (2 * h)
    velocity = path.velocity(path.target(x0, eps, T), path.add_noise(x0, eps, T), T)
    torch.testing.assert_close(velocity, slope, rtol=1e-6, atol=1e-6)


def test_rectified_velocity_is_noise_minus_data_and_untouched(gaussian, noise):
    path, x0, eps = RectifiedFlow(prediction="velocity"), noise(5, 7, seed=1), noise(5, 7, seed=2)
    assert torch.equal(path.target(x0, eps, T), eps - x0)
    predict = gaussian.network(path)
    assert rectified(path, predict) is predict and torch.equal(path.velocity(x0, eps, T), x0)


@every_path
def test_finite_at_the_ends_and_in_the_tensors_type(path, gaussian, noise):
    x0, eps, t = noise(2, 3, seed=1).float(), noise(2, 3, seed=2).float(), torch.tensor([[0.0], [1.0]]).double()
    x, target = path.add_noise(x0, eps, t), path.target(x0, eps, t)
    tensors = [x, target, *path.split(target, x, t), path.velocity(target, x, t)]
    tensors += rectified(path, gaussian.network(path))([x[0], x[1]], t[:, 0])
    assert all(a.dtype == torch.float32 and a.isfinite().all() for a in tensors)


@every_path
def test_coefficients_keep_fp64_times(path, noise):
    """fp32 clips with fp64 times: the halves come back as well as fp32 can say, even next to an end."""
    x0, eps, t = noise(3, 7, seed=1).float(), noise(3, 7, seed=2).float(), T[[1, 2, 3]]
    exact = path.velocity(path.target(x0.double(), eps.double(), t), path.add_noise(x0.double(), eps.double(), t), t)
    got = path.velocity(path.target(x0, eps, t), path.add_noise(x0, eps, t), t)
    torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=3e-5)


@every_path
def test_drift_transports_gaussians(path, gaussian, noise):
    """dx/dt itself, in the path's own time and from any prediction, against the closed form."""
    times = torch.linspace(0.95, 0.1, 401, dtype=torch.float64)
    x = noise(64)
    out = heun(lambda y, t: [path.velocity(gaussian.best(path, y[0], t[0]), y[0], t[0])], [x], [times])[0]
    torch.testing.assert_close(out, gaussian.transported(path, x, times[0], times[-1]), rtol=0, atol=1e-4)


@every_path
def test_rectified_transports_noise_to_the_data(path, gaussian, noise):
    """Every network, whatever its path and prediction, takes N(0, 1) to the data through the same samplers."""
    x = noise(64)
    out = heun(rectified(path, gaussian.network(path)), [x], [linear(200, 1.0, end=0)])[0]
    torch.testing.assert_close(out, gaussian.mean + gaussian.spread * x, rtol=0, atol=5e-4)


@pytest.mark.parametrize("sample", [unipc, dpmpp])
@pytest.mark.parametrize("path", PATHS[3:6], ids=lambda p: p.prediction)
def test_multistep_samplers_serve_ddpm(path, sample, gaussian, noise):
    x = noise(1, 64)
    out = sample(rectified(path, gaussian.network(path)), [x], [linear(100, 1.0)])[0]
    torch.testing.assert_close(out, gaussian.mean + gaussian.spread * x, rtol=0, atol=1e-2)


@pytest.mark.parametrize("path", PATHS[3:], ids=lambda p: f"{type(p).__name__}-{p.prediction}")
def test_one_euler_step_is_one_ddim_step(path, noise):
    """DDIM keeps (x0, noise) as predicted and moves along the path between two of its times."""
    x0, eps = noise(9, seed=1), noise(9, seed=2)
    t, after = torch.tensor([0.8, 0.3], dtype=torch.float64)
    x = path.add_noise(x0, eps, t)
    wrong = path.target(x0, eps, t) + 0.1  # a network in error: the step must carry exactly that error
    expected = path.add_noise(*path.split(wrong, x, t), after)

    a, s = path.coefficients(torch.stack([t, after]))
    z = euler(rectified(path, lambda y, at: [wrong]), [x / (a[0] + s[0])], [s / (a + s)])[0]
    torch.testing.assert_close(z * (a[1] + s[1]), expected, rtol=0, atol=1e-9)


@one_of_each
def test_time_inverts_the_noise_to_data_ratio(path):
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    alpha, sigma = path.coefficients(t)
    torch.testing.assert_close(path.time(sigma / (alpha + sigma)), t, rtol=0, atol=1e-9)


def test_unknown_prediction():
    with pytest.raises(InputError, match="velocity, noise, clean"):
        RectifiedFlow(prediction="x0")
