from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from videodit.eval.metrics import frechet, gaussian, gaussian_frechet, psnr, ssim


def clips(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def naive_ssim(x: np.ndarray, y: np.ndarray, span: float) -> float:
    """One channel (H,W), window by window as the paper writes it: weighted mean, then weighted squared deviations."""
    axis = np.arange(-5, 6)
    weights = np.exp(-(axis[:, None] ** 2 + axis[None, :] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    values = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            a, b = x[top : top + 11, left : left + 11], y[top : top + 11, left : left + 11]
            ma, mb = (weights * a).sum(), (weights * b).sum()
            va, vb = (weights * (a - ma) ** 2).sum(), (weights * (b - mb) ** 2).sum()
            both = (weights * (a - ma) * (b - mb)).sum()
            values.append((2 * ma * mb + c1) * (2 * both + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return float(np.mean(values))


def test_psnr_of_a_known_error() -> None:
    reference = clips(2, 3, 4, 12, 12) * 0.5
    error = torch.tensor([0.1, 0.02]).reshape(2, 1, 1, 1, 1)
    expected = [20 * math.log10(2 / 0.1), 20 * math.log10(2 / 0.02)]
    assert torch.allclose(psnr(reference + error, reference), torch.tensor(expected, dtype=torch.float64), atol=1e-4)
    assert psnr(reference, reference).isinf().all()


def test_psnr_averages_the_error_not_the_frames() -> None:
    reference = torch.zeros(1, 3, 2, 8, 8)
    spoiled = reference.clone()
    spoiled[:, :, 1] = 0.2  # the other frame is perfect: a mean over frames would be infinite
    assert psnr(spoiled, reference).item() == pytest.approx(10 * math.log10(4 / 0.02))


def test_ssim_equals_the_papers_sum_over_windows() -> None:
    reference, other = clips(1, 3, 2, 13, 15), clips(1, 3, 2, 13, 15, seed=1)
    clip = 0.8 * reference + 0.2 * other
    result = ssim(clip.double(), reference.double())
    assert result.shape == (1, 2)
    assert torch.allclose(ssim(clip, reference).double(), result, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(ssim(clip, reference).double(), result, atol=1e-5)
    for frame in range(2):
        pairs = zip(clip[0, :, frame].double().numpy(), reference[0, :, frame].double().numpy(), strict=True)
        expected = np.mean([naive_ssim(x, y, 2.0) for x, y in pairs])
        assert result[0, frame].item() == pytest.approx(expected, abs=1e-9)


def test_ssim_is_one_for_equals_symmetric_and_falls_with_noise() -> None:
    reference, noise = clips(1, 3, 1, 32, 32), clips(1, 3, 1, 32, 32, seed=1)
    assert ssim(reference, reference).item() == pytest.approx(1)
    scores = [ssim(reference + amount * noise, reference).item() for amount in (0.05, 0.2, 0.8)]
    assert 1 > scores[0] > scores[1] > scores[2]
    assert ssim(noise, reference).item() == pytest.approx(ssim(reference, noise).item())


@pytest.mark.parametrize("shapes", [((1, 3, 1, 8, 8), (1, 3, 2, 8, 8)), ((3, 1, 16, 16), (3, 1, 16, 16))])
def test_clips_of_other_shapes_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    for metric in (psnr, ssim):
        with pytest.raises(ValueError, match="two equal"):
            metric(torch.zeros(shapes[0]), torch.zeros(shapes[1]))
    with pytest.raises(ValueError, match="11x11"):
        ssim(torch.zeros(1, 3, 1, 8, 16), torch.zeros(1, 3, 1, 8, 16))


def test_frechet_closed_form_for_commuting_gaussians() -> None:
    """Diagonal covariances a², b² in a common rotation: |m1 − m2|² + sum (a − b)²."""
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q
    a, b = torch.rand(6, generator=generator).double(), torch.rand(6, generator=generator).double()
    a[0] = 0  # a singular covariance is legal
    mean, other = torch.randn(6, generator=generator), torch.randn(6, generator=generator)
    distance = gaussian_frechet(mean, rotation * a**2 @ rotation.T, other, rotation * b**2 @ rotation.T)
    expected = ((mean.double() - other.double()) ** 2).sum() + ((a - b) ** 2).sum()
    assert distance.item() == pytest.approx(expected.item(), rel=1e-9)


def test_frechet_agrees_with_the_general_matrix_root() -> None:
    """Covariances that do not commute, against the eigenvalues of the unsymmetric product itself."""
    x = torch.randn(300, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = torch.randn(200, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y = y @ torch.randn(5, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 1
    c1, c2 = (np.cov(features.numpy().T) for features in (x, y))
    root = np.sqrt(np.linalg.eigvals(c1 @ c2).astype(complex)).real.sum()
    apart = ((x.mean(0) - y.mean(0)) ** 2).sum().item()
    assert frechet(x, y).item() == pytest.approx(apart + np.trace(c1) + np.trace(c2) - 2 * root, rel=1e-9)
    assert frechet(x, y).item() == pytest.approx(frechet(y, x).item(), rel=1e-9)
    assert frechet(x, x).item() == pytest.approx(0, abs=1e-9)


def test_gaussian_moments_and_their_refusal() -> None:
    x = clips(50, 4)
    mean, covariance = gaussian(x)
    assert np.allclose(mean, np.mean(x.double().numpy(), 0)) and np.allclose(covariance, np.cov(x.double().numpy().T))
    assert gaussian(clips(9, 1))[1].shape == (1, 1)
    with pytest.raises(ValueError, match="N >= 2"):
        gaussian(clips(1, 4))
