"""Samplers: their order, parity of the multistep ones with diffusers' pipelines, and independence of clips."""

from __future__ import annotations

import sys
from math import log2

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

from videodit.errors import InputError
from videodit.flow.path import RectifiedFlow
from videodit.flow.samplers import SAMPLERS, dpmpp, euler, heun, sampler, unipc
from videodit.flow.schedules import linear

every_sampler = pytest.mark.parametrize("sample", SAMPLERS.values(), ids=SAMPLERS.keys())


def curved(x, t):
    """A velocity with no structure that a sampler could exploit: it bends with place and time and mixes neighbours."""
    return [torch.sin(3 * xi + 5 * ti) + 0.5 * xi.roll(1, -1) * (1 - ti) for xi, ti in zip(x, t, strict=True)]


@pytest.fixture
def error(gaussian, noise):
    """error(sample, steps): the largest distance from the exact endpoint; Gaussian data, its exact velocity, fp64."""
    velocity, x = gaussian.network(RectifiedFlow(prediction="velocity")), noise(1, 64)

    def measure(sample, steps):
        out = sample(velocity, [x], [linear(steps, 1.0, end=0)])[0]
        return (out - (gaussian.mean + gaussian.spread * x)).abs().max().item()

    return measure


@pytest.mark.parametrize(("sample", "order"), [(euler, 1), (heun, 2)])
def test_order_of_convergence(sample, order, error):
    errors = [error(sample, steps) for steps in (40, 80, 160)]
    slopes = [log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    assert all(abs(slope - order) < 0.15 for slope in slopes), slopes


@pytest.mark.parametrize("sample", [unipc, dpmpp])
def test_multistep_beats_euler(sample, error):
    assert error(sample, 20) < error(euler, 20) / 3


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 50])
@pytest.mark.parametrize("shift", [1.0, 3.0, 8.0])
def test_unipc_is_the_pipelines_loop(steps, shift, noise):
    """diffusers' WanPipeline.__call__: set_timesteps(steps), the model at whole-numbered times, scheduler.step."""
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift, num_train_timesteps=1000
    )
    scheduler.set_timesteps(steps)
    x = start = noise(4, 3, 6, 8).float()
    seen = []
    for k in scheduler.timesteps:
        v = curved([x], k.double()[None] / 1000)[0]
        x = scheduler.step(v[None], k, x[None], return_dict=False)[0][0]

    def velocity(y, t):
        seen.append(1000 * t.item())
        return curved(y, t)

    ours = unipc(velocity, [start], [linear(steps, shift)])[0]
    assert seen == scheduler.timesteps.tolist() and ours.dtype == torch.float32
    torch.testing.assert_close(ours, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_dpmpp_is_the_pipelines_loop(shift, noise):
    """Its own grid in diffusers starts below 1, so it is taken from there."""
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    scheduler.set_timesteps(20)
    x = start = noise(4, 3, 6, 8).float()
    for k in scheduler.timesteps:
        v = curved([x], k.double()[None] / 1000)[0]
        x = scheduler.step(v[None], k, x[None], return_dict=False)[0][0]

    ours = dpmpp(curved, [start], [scheduler.sigmas.double()])[0]
    torch.testing.assert_close(ours, x, rtol=1e-5, atol=1e-5)


@every_sampler
def test_clips_of_any_shape_and_schedule_equal_single_runs(sample, noise):
    x = [noise(4, 1, 2, 3, seed=0), noise(4, 5, 4, 2, seed=1), noise(4, 3, 6, 6, seed=2)]
    times = [linear(8, 1.0), linear(8, 5.0), torch.linspace(0.9, 0.1, 9, dtype=torch.float64)]
    together = sample(curved, x, times)
    for xi, ti, out in zip(x, times, together, strict=True):
        assert out.shape == xi.shape and out.isfinite().all()
        assert torch.equal(out, sample(curved, [xi], [ti])[0])


@every_sampler
def test_bf16_velocities_leave_the_state_in_fp32_and_the_input_untouched(sample, noise):
    x = noise(4, 3, 2, 2).float()
    before = x.clone()
    coarse = [sample(lambda x, t: [v.bfloat16() for v in curved(x, t)], [x], [linear(5, 3.0)])[0]]
    coarse += sample(lambda x, t: [v.bfloat16().float() for v in curved(x, t)], [x], [linear(5, 3.0)])
    assert coarse[0].dtype == torch.float32 and torch.equal(*coarse) and torch.equal(x, before)


@every_sampler
def test_callback_sees_every_step(sample, noise):
    seen = []
    out = sample(curved, [noise(4, 2)], [linear(6, 1.0)], lambda step, total, x: seen.append((step, total, x[0])))
    assert [s[:2] for s in seen] == [(i, 6) for i in range(1, 7)] and torch.equal(seen[-1][2], out[0])


@pytest.mark.parametrize(("sample", "calls"), [(euler, 5), (heun, 9), (unipc, 5), (dpmpp, 5)])
def test_calls_and_never_at_the_data_end(sample, calls, noise):
    seen = []

    def velocity(x, t):
        assert t.dtype == torch.float64 and t.shape == (2,)
        seen.append(t.min().item())
        return curved(x, t)

    sample(velocity, [noise(4, 2), noise(4, 3)], [linear(5, 1.0), linear(5, 2.0)])
    assert len(seen) == calls and min(seen) > 0


@pytest.mark.parametrize(
    "times",
    [[], [[1.0]], [[1.0, 0.5, 0.5, 0.0]], [[0.0, 1.0]], [[1000.0, 500.0]], [[1.0, 0.0], [1.0, 0.0]]],
    ids=["none", "one", "repeated", "rising", "in thousands", "too many"],
)
def test_bad_times(times, noise):
    with pytest.raises(InputError):
        euler(curved, [noise(4, 2)], [torch.tensor(t).double() for t in times])


def test_names():
    assert [sampler(name) for name in ("euler", "heun", "unipc", "dpmpp")] == [euler, heun, unipc, dpmpp]
    with pytest.raises(InputError, match="euler, heun, unipc, dpmpp"):
        sampler("ddim")


def test_missing_diffusers_is_said_in_one_line(monkeypatch, noise):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(InputError, match="pip install diffusers"):
        unipc(curved, [noise(4, 2)], [linear(3, 1.0)])
    euler(curved, [noise(4, 2)], [linear(3, 1.0)])
