"""Numbers about quality, as functions of tensors: PSNR and SSIM of clips, the Fréchet distance of features.

Letters: B clips, T frames, H height, W width (a clip is float (3,T,H,W) in [-1,1]); N feature vectors of D numbers.
"""

from __future__ import annotations

import torch
from einops import rearrange, reduce
from torch import Tensor
from torch.nn import functional as F

WINDOW, DEVIATION = 11, 1.5  # SSIM's gaussian window (Wang et al. 2004), in pixels
SPAN = 2.0  # a clip's values lie in [-1,1]


def psnr(clips: Tensor, references: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of (B,3,T,H,W) against the same in [-1,1] → (B,) in dB, `inf` where they are equal.

    The squared error is averaged over the whole clip before the logarithm, which is never kinder than the mean of its
    frames' PSNRs. Raises ValueError when the shapes differ.
    """
    _check(clips, references)
    error = reduce((clips.double() - references.double()) ** 2, "b c t h w -> b", "mean")
    return 10 * torch.log10(SPAN**2 / error)


def ssim(clips: Tensor, references: Tensor) -> Tensor:
    """Structural similarity of (B,3,T,H,W) against the same in [-1,1] → one number a frame, (B,T) in [-1,1].

    Wang, Bovik, Sheikh and Simoncelli (2004): an 11x11 gaussian window of deviation 1.5 wherever it fits whole into the
    frame, K1 = 0.01, K2 = 0.03; the mean over places and colour channels. Raises ValueError when the shapes differ or a
    frame is smaller than the window. Computed in the precision of the clips: fp32 is exact to 1e-4.
    """
    _check(clips, references)
    batch, channels = clips.shape[:2]
    if min(clips.shape[-2:]) < WINDOW:
        raise ValueError(f"SSIM's window needs frames of {WINDOW}x{WINDOW} or more, not {tuple(clips.shape[-2:])}")
    x, y = (rearrange(clip, "b c t h w -> (b c t) 1 h w") for clip in (clips, references))
    with torch.autocast(clips.device.type, enabled=False):  # variances as differences are nothing in bf16
        mean_x, mean_y = _blur(x), _blur(y)
        variance_x, variance_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
        covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * SPAN) ** 2, (0.03 * SPAN) ** 2
    score = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    score = score / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))
    return reduce(score, "(b c t) 1 h w -> b t", "mean", b=batch, c=channels)


def frechet(features: Tensor, references: Tensor) -> Tensor:
    """Fréchet distance (squared, as the field's FID) between gaussians fitted to (N,D) and (M,D) → () in fp64.

    The estimate is biased upwards when N is not much larger than D: compare only numbers of equal N, and show beside
    it the distance between two independent sets of real features. Raises ValueError for fewer than two vectors.
    """
    return gaussian_frechet(*gaussian(features), *gaussian(references))


def gaussian(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D,D) of (N,D), in fp64. Raises ValueError when N < 2."""
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features must be (N,D) with N >= 2, not {tuple(features.shape)}")
    features = features.double()
    return features.mean(0), torch.cov(features.T).reshape(features.shape[1], features.shape[1])


def gaussian_frechet(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> Tensor:
    """Squared Fréchet distance of two gaussians, (D,) (D,D) (D,) (D,D) → () in fp64 (Dowson & Landau, 1982).

    |m1 − m2|² + tr(C1 + C2 − 2 (C1 C2)^½). The trace of the root needs no general matrix root: with a symmetric root R
    of C1, the product C1 C2 has the eigenvalues of R C2 R, which is symmetric and has none below zero.
    """
    mean, covariance, other_mean, other_covariance = (
        tensor.double() for tensor in (mean, covariance, other_mean, other_covariance)
    )
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    shared = torch.linalg.eigvalsh(root @ other_covariance @ root).clamp(min=0).sqrt().sum()
    distance = ((mean - other_mean) ** 2).sum() + covariance.trace() + other_covariance.trace() - 2 * shared
    return distance.clamp(min=0)  # rounding may leave a hair below zero


def _blur(x: Tensor) -> Tensor:
    """Gaussian-weighted mean of (N,1,H,W) over every whole window → (N,1,H-10,W-10)."""
    offsets = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    weights = torch.softmax(-(offsets**2) / (2 * DEVIATION**2), 0)
    x = F.conv2d(x, rearrange(weights, "k -> 1 1 k 1"))
    return F.conv2d(x, rearrange(weights, "k -> 1 1 1 k"))


def _check(clips: Tensor, references: Tensor) -> None:
    if clips.ndim != 5 or clips.shape != references.shape:
        raise ValueError(f"clips must be two equal (B,3,T,H,W), not {tuple(clips.shape)} and {tuple(references.shape)}")
