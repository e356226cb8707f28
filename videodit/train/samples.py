"""What a run shows of itself at intervals: samples as videos and contact sheets, and numbers on held-out clips."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from videodit.data.sample import to_frames
from videodit.data.sheet import sheet
from videodit.eval.metrics import ssim
from videodit.generate import Pipe
from videodit.models.vae import VideoVAE
from videodit.parallel.mesh import Mesh
from videodit.track.names import PROMPTS
from videodit.track.tracker import Tracker

COLUMNS = 9  # frames of a clip on a sheet


def vae_samples(vae: VideoVAE, clips: Sequence[Tensor], folder: Path, mesh: Mesh, step: int, tracker: Tracker) -> float:
    """Reconstructions of held-out clips, each (3,T,H,W), beside the clips, their PSNR and SSIM. -> the mean squared
    error, on the main process.
    """
    if not mesh.main:
        return math.nan
    rows, labels, errors, similar = [], [], [], []
    for number, clip in enumerate(clips):
        restored = vae.decode_all(vae.encode_all(clip[None].to(vae.mean.device)))[0].float().cpu().clamp(-1, 1)
        errors.append((restored - clip).square().mean())
        similar.append(ssim(restored[None], clip[None]).mean())
        if number < 4:
            rows += [to_frames(clip), to_frames(restored)]
            labels += ["held out", f"restored, {_psnr(errors[-1]):.1f} dB"]
    error = torch.stack(errors).mean()
    tracker.scalars(step, {"heldout/psnr": _psnr(error), "heldout/ssim": torch.stack(similar).mean().item()})
    path = folder / "samples" / f"step-{step:09d}.png"
    sheet(path, rows, labels, COLUMNS)
    tracker.image(step, "reconstructions", path)
    return error.item()


def dit_samples(
    pipe: Pipe, prompts: Sequence[str], seed: int, folder: Path, mesh: Mesh, step: int, tracker: Tracker
) -> None:
    """A video a prompt, as mp4, and all of them on one sheet. Made by all processes, of which one keeps them."""
    if not prompts:
        return
    videos = pipe(list(prompts), seed=seed)
    if not mesh.main:
        return
    page = folder / "samples" / f"step-{step:09d}.png"
    sheet(page, [video.frames for video in videos], list(prompts), COLUMNS)
    tracker.image(step, "samples", page)
    rows = []
    for number, (prompt, video) in enumerate(zip(prompts, videos, strict=True)):
        path = video.save(folder / "samples" / f"step-{step:09d}-{number}.mp4")
        tracker.video(step, f"sample {number}", path, prompt, page)
        rows.append([prompt, path.relative_to(folder).as_posix()])
    tracker.table(step, PROMPTS, ["prompt", "file"], rows)


def _psnr(error: Tensor) -> float:
    return -10 * (error / 4).log10().item()
